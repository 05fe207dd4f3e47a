"""Baselines that do not see the frame: the most frequent answer, and a model that reads only the question."""

from collections import Counter
from collections.abc import Sequence

import numpy as np
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline

from surgvivqa.data.ssgqa import FrameQuestions


def _pairs(frames: Sequence[FrameQuestions]) -> tuple[list[str], list[int]]:
    questions = [q for f in frames for q in f.questions]
    return [q.question for q in questions], [q.label for q in questions]


def majority_baseline(train: Sequence[FrameQuestions], test: Sequence[FrameQuestions]) -> list[int]:
    """The most frequent training label, for every test question."""
    _, labels = _pairs(train)
    most_frequent = Counter(labels).most_common(1)[0][0]
    return [most_frequent for f in test for _ in f.questions]


def question_only_baseline(train: Sequence[FrameQuestions], test: Sequence[FrameQuestions], seed: int = 0) -> list[int]:
    """Predicts the label of each test question from its text alone.

    There are two models: a logistic regression on word n-grams; and the most frequent training answer to the same
    question, which falls back to the regression for questions seen fewer than three times. The model that is better on
    a held-out fifth of the training frames is fitted on all of them.

    Returns:
        Label indices, in the order of the test questions.
    """
    order = np.random.default_rng(seed).permutation(len(train))
    cut = max(1, len(train) // 5)
    held_out, rest = [train[i] for i in order[:cut]], [train[i] for i in order[cut:]] or list(train)
    truth = _pairs(held_out)[1]
    guesses = {lookup: _predict(rest, held_out, lookup) for lookup in (False, True)}
    correct = {lookup: sum(a == b for a, b in zip(truth, guess, strict=True)) for lookup, guess in guesses.items()}
    return _predict(train, test, correct[True] > correct[False])


def _predict(train: Sequence[FrameQuestions], test: Sequence[FrameQuestions], lookup: bool) -> list[int]:
    texts, labels = _pairs(train)
    asked, _ = _pairs(test)
    if not asked:
        return []
    if len(set(labels)) == 1:
        return [labels[0]] * len(asked)
    words = TfidfVectorizer(
        ngram_range=(1, 3), token_pattern=r"[\w-]+", sublinear_tf=True, min_df=2 if len(texts) > 500 else 1
    )
    model = make_pipeline(words, LogisticRegression(C=5.0, max_iter=200, tol=1e-2))
    model.fit(texts, labels)
    guesses = [int(g) for g in model.predict(asked)]
    if not lookup:
        return guesses
    seen: dict[str, Counter[int]] = {}
    for text, label in zip(texts, labels, strict=True):
        seen.setdefault(text, Counter())[label] += 1
    return [
        seen[q].most_common(1)[0][0] if q in seen and seen[q].total() >= 3 else guess
        for q, guess in zip(asked, guesses, strict=True)
    ]
