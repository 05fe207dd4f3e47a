"""Questions that both implementations are timed on, as token ids with the lengths and answers of SSG-QA's."""

import math
import random
from dataclasses import dataclass

from surgvivqa.data.labels import LABELS

VOCABULARY = 50_257  # GPT-2's
SEED = 0
FRAME_QUESTIONS = 39  # the data set's mean: 960,000 questions about 25,000 frames

# GPT-2's token ids of the labels, each with a leading space, by its published encoder.json and vocab.bpe.
LABEL_IDS: list[list[int]] = [
    [657], [352], [838], [362], [513], [604], [642], [718], [767], [807], [860], [10352], [6407],
    [32692, 62, 11930, 62, 66, 615, 414], [512, 32582], [33449], [18808, 378], [31170], [2910, 62, 1158, 741], [4171],
    [7586], [10651], [537, 14710], [763, 363, 5039], [2005], [3075, 11268, 62, 2571, 88], [3075, 11268, 62, 2359],
    [3075, 11268, 62, 9124, 1548], [3075, 11268, 62, 6816], [38319], [11711], [7976, 2436, 26676], [13180],
    [1036, 32981], [12500], [8011], [8875], [29344, 378], [29344, 1352], [14383], [267, 434, 388], [2353],
    [583, 49644, 388], [2266], [34449], [41786], [8465], [31674, 62, 21454], [31674, 21454], [2330], [7872],
]  # fmt: skip

PROMPT_HEAD = [24361, 25]  # "Question:"
PROMPT_TAIL = [198, 33706, 25]  # "\nAnswer:"


@dataclass(frozen=True)
class Kind:
    """A kind of question: its share, its first tokens, and how often each label answers it."""

    share: int
    opening: tuple[int, ...]
    answers: dict[str, int]


# Kinds as in SSG-QA, so that a trained model's answers vary. Shares: the lines of one complete file, and one for tools.
# Answers to existence, counts, actions, tools and targets: counts over 5,715 lines derived from expert labels (440
# frames; counts above 2 do not occur there and have weight 1). The other kinds have uniform answers: too few lines.
_ANATOMY = dict.fromkeys(("abdominal_wall_cavity", "liver", "gut", "omentum", "gallbladder", "cystic_plate"), 1)
KINDS: dict[str, Kind] = {
    "count": Kind(5, (1374, 867), {"0": 715, "1": 504, "2": 11} | dict.fromkeys(map(str, range(3, 11)), 1)),
    "exist": Kind(2, (4231, 612, 597), {"False": 2139, "True": 501}),
    "colour": Kind(
        3, (1867, 3124, 318, 262), dict.fromkeys(("red", "brown", "white", "yellow", "blue", "silver"), 1)
    ),
    "type": Kind(2, (1867, 2099, 318, 262), {"anatomy": 1, "instrument": 1}),
    "component": Kind(3, (1867, 318, 262, 1438, 286), _ANATOMY | {"grasper": 1, "hook": 1}),
    "place": Kind(2, (1867, 33449, 318, 379), _ANATOMY),
    "action": Kind(
        1,
        (1867, 318, 262, 2223, 319),
        {"retract": 226, "dissect": 200, "clip": 122, "grasp": 99, "cut": 96, "coagulate": 91, "aspirate": 78,
         "pack": 2},
    ),
    "tool": Kind(
        1,
        (9022, 2891, 318, 5361, 319),
        {"grasper": 169, "irrigator": 74, "clipper": 61, "hook": 60, "scissors": 48, "bipolar": 46},
    ),
    "target": Kind(
        1,
        (9022, 2496, 318),
        {
            "gallbladder": 169, "cystic_duct": 70, "fluid": 39, "cystic_artery": 37, "specimen_bag": 33, "omentum": 32,
            "cystic_pedicle": 30, "blood_vessel": 30, "cystic_plate": 22, "liver": 10, "gut": 1,
        },
    ),
}  # fmt: skip
HINT_ACCURACY = 0.5  # how often the hint, the token before the question mark, names the answer
QUESTION_MARK = 30


@dataclass(frozen=True)
class Questions:
    """Prompts as token ids, and the index of each one's true label."""

    prompts: list[list[int]]
    labels: list[int]

    @property
    def answers(self) -> list[list[int]]:
        """The true labels' token ids."""
        return [LABEL_IDS[label] for label in self.labels]

    def first(self, count: int) -> "Questions":
        """The first ``count`` questions."""
        return self.part(0, count)

    def part(self, number: int, size: int) -> "Questions":
        """Part ``number`` of parts of ``size`` questions."""
        some = slice(number * size, (number + 1) * size)
        return Questions(self.prompts[some], self.labels[some])


def make_questions(count: int, seed: int = SEED, longest: int = 30) -> Questions:
    """Prompts of 12 to ``longest`` tokens, 18 on average by default as in the data set; labels drawn by ``KINDS``.

    A question consists of its kind's opening, random tokens, and a hint: a token of one of the kind's labels, drawn by
    that label's frequency. The answer is the hint's label or, equally often, an independently drawn label.
    """
    rng = random.Random(f"questions {seed}")
    prompts, labels = [], []
    for _ in range(count):
        length = 12 + round((longest - 12) * rng.betavariate(1.2, 2.4))
        kind = rng.choices(list(KINDS.values()), [kind.share for kind in KINDS.values()])[0]
        hint, other = rng.choices(list(kind.answers), list(kind.answers.values()), k=2)
        start, end = [*PROMPT_HEAD, *kind.opening], [hint_token(hint), QUESTION_MARK, *PROMPT_TAIL]
        middle = [rng.randrange(VOCABULARY) for _ in range(length - len(start) - len(end))]
        prompts.append([*start, *middle, *end])
        labels.append(LABELS.index(hint if rng.random() < HINT_ACCURACY else other))
    return Questions(prompts, labels)


def hint_token(label: str) -> int:
    """The last token of a label; no other label of ``KINDS`` ends with it."""
    return LABEL_IDS[LABELS.index(label)][-1]


def best_loss_and_accuracy() -> tuple[float, float]:
    """Bounds for any model on these questions.

    Returns:
        The mean entropy of the answer given kind and hint, in nats, and the accuracy of the most likely answer.
    """
    loss = accuracy = 0.0
    for kind in KINDS.values():
        total, shares = sum(kind.answers.values()), sum(k.share for k in KINDS.values())
        for hint, weight in kind.answers.items():
            given = {a: (1 - HINT_ACCURACY) * w / total + HINT_ACCURACY * (a == hint) for a, w in kind.answers.items()}
            seen = kind.share / shares * weight / total
            loss -= seen * sum(p * math.log(p) for p in given.values())
            accuracy += seen * max(given.values())
    return loss, accuracy


def more_labels(times: int) -> list[list[int]]:
    """``51 * times`` labels: copies of the label trie with shifted tokens, so that copies share no first token."""
    return [[(t + 12_007 * n) % VOCABULARY for t in ids] for n in range(times) for ids in LABEL_IDS]
