"""Baselines that do not see the frame, fitted on the training split: what a model gets from the question alone.

Questions repeat, so every baseline works on the distinct ones and counts how often each has each label.
"""

import itertools
import re
import warnings
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import sparse
from sklearn.feature_extraction.text import CountVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import normalize

from surgvivqa.data.ssgqa import FrameQuestions
from surgvivqa.evaluation.predictions import Prediction, label_set_of
from surgvivqa.evaluation.templates import question_template

MIN_OCCURRENCES = 3  # of a question or template in training, for its most frequent answer to be used
MAX_FITTED = 100_000  # training questions that a regression is fitted on, about 5 s on one core
TITLES = {
    "majority": "most frequent answer",
    "majority_by_type": "most frequent answer per type",
    "majority_by_template": "most frequent answer per template",
    "question_only": "question only",
}
PER_QUESTION = "most frequent answer per question"
"""The title of ``majority_by_template`` for other data sets than SSG-QA, where a template is a question."""
MAX_HELD_OUT = 20_000  # held-out training questions that decide between regression and lookup
_WORD = re.compile(r"[\w-]+")
_RARE_WORDS_FROM = 500  # questions; a word of a single one is left out from here on


@dataclass(frozen=True)
class LabelledQuestions:
    """The questions of frames, with each distinct text once.

    Attributes:
        texts: the distinct questions, Q.
        types: question type of each distinct question; None for lines without one.
        text: ``[N]`` int64, index of each question's text.
        label: ``[N]`` int64, label of each question.
        frame: ``[N]`` int64, number of each question's frame, from 0.
    """

    texts: list[str]
    types: list[str | None]
    text: NDArray[np.int64]
    label: NDArray[np.int64]
    frame: NDArray[np.int64]

    @classmethod
    def of_frames(cls, frames: Iterable[FrameQuestions]) -> "LabelledQuestions":
        """Collects the questions of frames."""
        found: dict[str, int] = {}
        types: list[str | None] = []
        columns: list[tuple[int, int, int]] = []
        for number, frame in enumerate(frames):
            for question in frame.questions:
                index = found.setdefault(question.question, len(found))
                if index == len(types):
                    types.append(question.type)
                columns.append((index, question.label, number))
        text, label, of_frame = np.array(columns, np.int64).reshape(-1, 3).T
        return cls(list(found), types, text, label, of_frame)

    def select(self, selected: NDArray[np.integer] | NDArray[np.bool_]) -> "LabelledQuestions":
        """Some of the questions, by index or ``[N]`` bool; the texts stay."""
        return LabelledQuestions(
            self.texts, self.types, self.text[selected], self.label[selected], self.frame[selected]
        )


def predict_baselines(
    train: LabelledQuestions, predictions: Sequence[Prediction], seed: int = 0
) -> dict[str, list[Prediction]]:
    """Predicts the answers of the questions of ``predictions`` without the frame.

    Args:
        train: the questions of the training split.
        predictions: of a model; only their questions and types are used.
        seed: seed of the draws of ``predict_from_text``.

    Returns:
        Name of each baseline of ``TITLES`` to its predictions, in the order of ``predictions``.
    """
    index: dict[tuple[str, str | None], int] = {}
    rows = [index.setdefault((p.question, p.type), len(index)) for p in predictions]
    questions, types = [question for question, _ in index], [kind for _, kind in index]
    majority = np.full(len(index), np.bincount(train.label).argmax())
    by_type = _most_frequent(train, train.types, types, majority)
    # Other data sets than SSG-QA repeat their questions word for word, and their templates are not known.
    template_of = question_template if label_set_of(predictions).is_ssg_qa else str.casefold
    templates = [template_of(question) for question in train.texts]
    labels = {
        "majority": majority,
        "majority_by_type": by_type,
        "majority_by_template": _most_frequent(train, templates, [template_of(q) for q in questions], by_type),
        "question_only": predict_from_text(train, questions, seed),
    }
    return {
        name: [
            Prediction(
                p.video,
                p.frame,
                p.question,
                p.answer,
                label,
                reasoning=p.reasoning,
                type=p.type,
                label_set=p.label_set,
            )
            for p, label in zip(predictions, found[rows].tolist(), strict=True)
        ]
        for name, found in labels.items()
    }


def predict_from_text(train: LabelledQuestions, questions: Sequence[str], seed: int = 0) -> NDArray[np.int64]:
    """Predicts the label of each question from its text alone.

    There are two models: a logistic regression on word n-grams; and a lookup of the most frequent training answer to
    the same question, which falls back to the regression for questions with fewer than ``MIN_OCCURRENCES``. The model
    that is better on a held-out fifth of the training frames is fitted on all of them. A regression is fitted on at
    most ``MAX_FITTED`` questions, drawn at random; the lookup uses all.

    Args:
        train: the questions of the training split, at least one.
        questions: the questions to answer.
        seed: seed of the draws.

    Returns:
        ``[Q]`` int64.
    """
    rng = np.random.default_rng(seed)
    frames = rng.permutation(train.frame.max() + 1)
    is_held_out = np.isin(train.frame, frames[: max(1, len(frames) // 5)])
    use_lookup = False
    if not is_held_out.all():
        rest, held_out = train.select(~is_held_out), _draw(train.select(is_held_out), MAX_HELD_OUT, rng)
        distinct, index = np.unique(held_out.text, return_inverse=True)
        asked = [train.texts[i] for i in distinct]
        from_words = TextModel(_draw(rest, MAX_FITTED, rng)).predict(asked)
        looked_up = _most_frequent(rest, train.texts, asked, from_words)
        hits = [int((found[index] == held_out.label).sum()) for found in (from_words, looked_up)]
        use_lookup = hits[1] > hits[0]
    from_words = TextModel(_draw(train, MAX_FITTED, rng)).predict(questions)
    return _most_frequent(train, train.texts, questions, from_words) if use_lookup else from_words


def _draw(questions: LabelledQuestions, most: int, rng: np.random.Generator) -> LabelledQuestions:
    """At most ``most`` of the questions, drawn at random."""
    total = len(questions.text)
    return questions if total <= most else questions.select(rng.choice(total, most, replace=False))


def _most_frequent(
    train: LabelledQuestions,
    train_groups: Sequence[Hashable],
    groups: Sequence[Hashable],
    otherwise: NDArray[np.int64],
) -> NDArray[np.int64]:
    """The most frequent training label of each question's group; of equally frequent ones the first in training.

    Args:
        train: the training questions.
        train_groups: the group of each distinct training question.
        groups: the group of each question to answer, Q.
        otherwise: ``[Q]`` the labels for groups with fewer than ``MIN_OCCURRENCES`` training questions.

    Returns:
        ``[Q]`` int64.
    """
    index: dict[Hashable, int] = {}
    group = np.array([index.setdefault(name, len(index)) for name in train_groups], np.int64)
    num_labels = train.label.max(initial=0) + 1
    cells = group[train.text] * num_labels + train.label
    pairs, first, counts = np.unique(cells, return_index=True, return_counts=True)
    of_group, label = np.divmod(pairs, num_labels)
    ascending = np.lexsort((-first, counts, of_group))  # by group, the most frequent label last
    frequent = np.zeros(len(index), np.int64)
    frequent[of_group[ascending]] = label[ascending]  # of several values for a group the last one stays
    is_frequent = np.bincount(of_group, counts, minlength=len(index)) >= MIN_OCCURRENCES
    found = np.array([index.get(name, -1) for name in groups], np.int64)
    return np.where((found >= 0) & is_frequent[found], frequent[found], otherwise)


def _word_groups(question: str) -> list[str]:
    """The words, pairs and triples of words of a question, as of scikit-learn's slower analyzer."""
    words = _WORD.findall(question.lower())
    pairs = list(map(" ".join, itertools.pairwise(words)))
    return words + pairs + list(map(" ".join, zip(words, words[1:], words[2:], strict=False)))


class TextModel:
    """A logistic regression on the words, pairs and triples of words of a question, weighted by TF-IDF.

    It is fitted on the distinct pairs of question and label, weighted by how often they occur. The loss and the
    document frequencies, and so the model, are those of scikit-learn's ``TfidfVectorizer`` and ``LogisticRegression``
    on all questions, which take several times as long where questions repeat.
    """

    def __init__(self, train: LabelledQuestions) -> None:
        used, text = np.unique(train.text, return_inverse=True)
        num_labels = train.label.max() + 1
        pairs, weights = np.unique(text * num_labels + train.label, return_counts=True)
        rows, labels = np.divmod(pairs, num_labels)
        self._words = CountVectorizer(analyzer=_word_groups)
        counts = self._words.fit_transform([train.texts[i] for i in used])
        # Document frequencies over all questions, not over the distinct ones.
        frequency = (counts > 0).T @ np.bincount(text, minlength=len(used))
        self._kept = np.flatnonzero(frequency >= (2 if len(text) > _RARE_WORDS_FROM else 1))
        self._idf = np.log((1 + len(text)) / (1 + frequency[self._kept])) + 1
        self._only_label = int(labels[0]) if len(set(labels)) == 1 else None
        if self._only_label is None:
            self._regression = LogisticRegression(C=5.0, max_iter=200, tol=1e-2)
            with warnings.catch_warnings():  # scikit-learn takes many labels of few questions for a regression
                warnings.filterwarnings("ignore", "The number of unique classes", UserWarning)
                self._regression.fit(self._weigh(counts)[rows], labels, sample_weight=weights)

    def predict(self, questions: Sequence[str]) -> NDArray[np.int64]:
        """Predicts the label of each question: ``[Q]`` int64."""
        if self._only_label is not None or not questions:
            return np.full(len(questions), self._only_label or 0)
        return self._regression.predict(self._weigh(self._words.transform(questions)))

    def _weigh(self, counts: sparse.csr_matrix) -> sparse.csr_matrix:
        """TF-IDF with sublinear term frequencies and unit length, of ``[Q, words]`` counts."""
        counts = counts[:, self._kept].astype(np.float64)
        counts.data = 1 + np.log(counts.data)
        return normalize(counts @ sparse.diags_array(self._idf))
