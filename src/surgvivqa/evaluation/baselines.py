"""Baselines that do not see the frame: the most frequent answer, and a model that reads only the question."""

from collections import Counter
from collections.abc import Sequence

import numpy as np
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline

from surgvivqa.data.ssgqa import FrameQuestions

MIN_OCCURRENCES = 3  # of a question in training, for its most frequent answer to be used


def predict_most_frequent(train: Sequence[FrameQuestions], test: Sequence[FrameQuestions]) -> list[int]:
    """Predicts the most frequent training label for every test question.

    Returns:
        Label indices, in the order of the test questions.
    """
    _, labels = _questions_and_labels(train)
    most_frequent = Counter(labels).most_common(1)[0][0]
    return [most_frequent for frame in test for _ in frame.questions]


def predict_from_text(train: Sequence[FrameQuestions], test: Sequence[FrameQuestions], seed: int = 0) -> list[int]:
    """Predicts the label of each test question from its text alone.

    There are two models: a logistic regression on word n-grams; and a lookup of the most frequent training answer to
    the same question, which falls back to the regression for questions with fewer than ``MIN_OCCURRENCES``. The model
    that is better on a held-out fifth of the training frames is fitted on all of them.

    Returns:
        Label indices, in the order of the test questions.
    """
    order = np.random.default_rng(seed).permutation(len(train))
    num_held_out = max(1, len(train) // 5)
    held_out = [train[i] for i in order[:num_held_out]]
    fitted = [train[i] for i in order[num_held_out:]] or list(train)
    _, truth = _questions_and_labels(held_out)
    hits = {
        use_lookup: sum(a == b for a, b in zip(truth, _fit_and_predict(fitted, held_out, use_lookup), strict=True))
        for use_lookup in (False, True)
    }
    return _fit_and_predict(train, test, use_lookup=hits[True] > hits[False])


def _fit_and_predict(train: Sequence[FrameQuestions], test: Sequence[FrameQuestions], use_lookup: bool) -> list[int]:
    train_questions, labels = _questions_and_labels(train)
    test_questions, _ = _questions_and_labels(test)
    if not test_questions:
        return []
    if len(set(labels)) == 1:
        return [labels[0]] * len(test_questions)
    features = TfidfVectorizer(
        ngram_range=(1, 3), token_pattern=r"[\w-]+", sublinear_tf=True, min_df=2 if len(train_questions) > 500 else 1
    )
    model = make_pipeline(features, LogisticRegression(C=5.0, max_iter=200, tol=1e-2))
    model.fit(train_questions, labels)
    predictions = [int(label) for label in model.predict(test_questions)]
    if not use_lookup:
        return predictions
    counts: dict[str, Counter[int]] = {}
    for question, label in zip(train_questions, labels, strict=True):
        counts.setdefault(question, Counter())[label] += 1
    return [
        counts[question].most_common(1)[0][0]
        if question in counts and counts[question].total() >= MIN_OCCURRENCES
        else prediction
        for question, prediction in zip(test_questions, predictions, strict=True)
    ]


def _questions_and_labels(frames: Sequence[FrameQuestions]) -> tuple[list[str], list[int]]:
    questions = [question for frame in frames for question in frame.questions]
    return [question.question for question in questions], [question.label for question in questions]
