"""What both ways are timed on: configurations, weights that are a function of a seed, questions, label tokens."""

import math
import random
import zlib
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import BlipTextConfig, GPT2Config, VideoMAEConfig
from transformers.initialization import no_init_weights

from surgvivqa.data.labels import LABELS
from surgvivqa.model.configuration import SurgViVQAConfig
from surgvivqa.model.freezing import set_modes
from surgvivqa.model.modeling import SurgViVQAModel

SIZES = ("full", "small")
VOCABULARY = 50_257
LORA = {"r": 8, "alpha": 32, "dropout": 0.1}
SEED = 0
FRAME_QUESTIONS = 39  # the corpus's mean: 960,000 questions of 25,000 frames

# GPT-2's token ids of " 0", " 1", ... of labels.LABELS, by its published encoder.json and vocab.bpe.
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
    """A kind of question: its share of all, how it begins, and how often each label answers it."""

    share: int
    opening: tuple[int, ...]
    answers: dict[str, int]


# Kinds as in SSG-QA, so that a trained model's answers vary. Shares: the lines of one whole file, and one for tools.
# Answers to existence, counts, actions, tools and targets: counted over 5,715 lines made from experts' labels (440
# frames; counts above 2 do not occur there and weigh one). The others have too few lines: their labels weigh alike.
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
HINT_HOLDS = 0.5  # how often the token before the question mark, which names a label of the kind, names the answer
QUESTION_MARK = 30


@dataclass(frozen=True)
class Questions:
    """Prompts as token ids, and each one's true label (its index)."""

    prompts: list[list[int]]
    labels: list[int]

    @property
    def answers(self) -> list[list[int]]:
        """The true labels' token ids."""
        return [LABEL_IDS[label] for label in self.labels]

    def first(self, count: int) -> "Questions":
        """The first few."""
        return self.part(0, count)

    def part(self, number: int, size: int) -> "Questions":
        """The part of that number, all being of one size."""
        some = slice(number * size, (number + 1) * size)
        return Questions(self.prompts[some], self.labels[some])


def make_questions(count: int, seed: int = SEED, longest: int = 30) -> Questions:
    """Prompts of 12 tokens and more, up to 30 and 18 in the mean as in the corpus; labels drawn by ``KINDS``.

    A question is its kind's opening, random tokens, and a hint: a token of one of the kind's labels, drawn as often as
    that label answers. The answer is the hint's label or, as often, a label drawn anew.
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
        labels.append(LABELS.index(hint if rng.random() < HINT_HOLDS else other))
    return Questions(prompts, labels)


def hint_token(label: str) -> int:
    """The label's last token, which no other label of ``KINDS`` ends with."""
    return LABEL_IDS[LABELS.index(label)][-1]


def best_loss_and_accuracy() -> tuple[float, float]:
    """What no model can beat on those questions: the mean entropy of the answer given kind and hint, in nats, and how
    often the likeliest answer is right."""
    loss = accuracy = 0.0
    for kind in KINDS.values():
        total, shares = sum(kind.answers.values()), sum(k.share for k in KINDS.values())
        for hint, weight in kind.answers.items():
            given = {a: (1 - HINT_HOLDS) * w / total + HINT_HOLDS * (a == hint) for a, w in kind.answers.items()}
            seen = kind.share / shares * weight / total
            loss -= seen * sum(p * math.log(p) for p in given.values())
            accuracy += seen * max(given.values())
    return loss, accuracy


def more_labels(times: int) -> list[list[int]]:
    """``51 * times`` labels: copies of the label trie whose tokens are shifted, so that none shares a first token."""
    return [[(t + 12_007 * n) % VOCABULARY for t in ids] for n in range(times) for ids in LABEL_IDS]


def make_config(size: str) -> SurgViVQAConfig:
    """VideoMAE-base, BLIP-base text and GPT-2 small, or two layers of width 64 of each; GPT-2's vocabulary in both."""
    small = size == "small"
    hidden, layers, heads = (64, 2, 4) if small else (768, 12, 12)
    shape: dict[str, Any] = {
        "hidden_size": hidden,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "intermediate_size": 4 * hidden,
    }
    return SurgViVQAConfig(
        video_config=VideoMAEConfig(
            image_size=32 if small else 224, num_frames=4 if small else 16, use_mean_pooling=False, **shape
        ),
        text_config=BlipTextConfig(vocab_size=VOCABULARY, encoder_hidden_size=hidden, **shape),
        decoder_config=GPT2Config(n_embd=hidden, n_layer=layers, n_head=heads),
        lora=dict(LORA),
    )


def fill(model: nn.Module, seed: int = SEED) -> None:
    """Gives every parameter values that are a function of the seed and its name: models of one naming become equal.

    VideoMAE's and BLIP's matrices keep the size of what they are applied to, so that attention is far from even and a
    wrong mask shows in the losses; GPT-2's have the deviation it is made with (0.02 at width 768), from which adapters
    can be trained. Biases and both of the adapters' matrices are small and not zero, so that no term is lost.
    """

    @torch.no_grad()
    def fill_one(named: tuple[str, nn.Parameter]) -> None:
        name, parameter = named
        generator = torch.Generator().manual_seed(zlib.crc32(f"{seed} {name}".encode()))
        matrix = parameter.ndim > 1 and "lora_" not in name
        gain = 0.55 if name.startswith("llm.") else 1.0
        if name.startswith("text_encoder.") and name.endswith("output.dense.weight"):
            gain = 0.25  # what a layer adds to its tokens; at 1.0 twelve layers leave little of which token it was
        deviation = gain * min(parameter.flatten(1).shape) ** -0.5 if matrix else 0.02
        parameter.normal_(0.0, deviation, generator=generator)
        is_norm = "norm" in name.lower() or ".ln_" in name
        if is_norm and name.endswith("weight"):
            # A random output layer is too narrow to prefer ten tokens at once; this norm's gain makes up for it.
            parameter.add_(4.0 if name.endswith("ln_f.weight") else 1.0)

    with ThreadPoolExecutor(torch.get_num_threads()) as threads:  # PyTorch draws one number after another
        list(threads.map(fill_one, model.named_parameters()))


def train_lora_alone(model: nn.Module) -> None:
    """Freezes all but the adapters."""
    for name, parameter in model.named_parameters():
        parameter.requires_grad_("lora_" in name)


def build_ours(size: str, device: str) -> SurgViVQAModel:
    """The project's model in its training modes (frozen parts in eval mode, the adapters' dropout on)."""
    with no_init_weights():
        model = SurgViVQAModel(make_config(size))
    model.decoder.tie_weights()
    fill(model)
    train_lora_alone(model)
    set_modes(model)
    return model.to(device)


def make_frame(config: SurgViVQAConfig, seed: int = SEED) -> Tensor:
    """One frame ``[3, H, W]``, normal values."""
    side = config.video_config.image_size
    return torch.randn(3, side, side, generator=torch.Generator().manual_seed(seed))


def make_clip(config: SurgViVQAConfig) -> Tensor:
    """That frame repeated: a clip ``[1, T, 3, H, W]``."""
    return make_frame(config).expand(1, config.video_config.num_frames, -1, -1, -1).contiguous()
