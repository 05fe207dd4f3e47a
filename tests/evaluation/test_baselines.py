"""Baselines see questions only, are fitted on the training split only, and equal plain computations."""

import random
from collections import Counter, defaultdict
from collections.abc import Sequence

import numpy as np
import pytest
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline

from surgvivqa.data.labels import LABEL_INDEX, LABELS
from surgvivqa.data.ssgqa import FrameQuestions, Question
from surgvivqa.evaluation import baselines
from surgvivqa.evaluation.baselines import (
    TITLES,
    LabelledQuestions,
    TextModel,
    predict_baselines,
    predict_from_text,
)
from surgvivqa.evaluation.predictions import Prediction
from surgvivqa.evaluation.templates import question_template

ASKED = [
    ("Are there any {} things?", "exist", ("True", "False")),
    ("How many {} objects are there?", "count", ("0", "1", "2")),
    ("What color is the {} object?", "query_color", ("red", "white", "brown")),
    ("What is the {} doing?", None, ("grasp", "retract")),
]


def frame(number: int, lines: Sequence[tuple[str, str, str | None]], video: str = "VID04") -> FrameQuestions:
    questions = [
        Question(video, number, text, answer, LABEL_INDEX[answer], "zero_hop" if kind else None, kind, line)
        for line, (text, answer, kind) in enumerate(lines)
    ]
    return FrameQuestions(video, number, tuple(questions))


def frames(count: int, seed: int = 0) -> list[FrameQuestions]:
    """Frames whose answers depend on the noun with a chance of 0.7."""
    rng, found = random.Random(seed), []
    for number in range(count):
        lines: list[tuple[str, str, str | None]] = []
        for text, kind, answers in rng.choices(ASKED, k=8):
            noun = rng.choice(["hook", "liver", "gut", "clipper", "omentum", "red"])
            answer = answers[len(noun) % len(answers)] if rng.random() < 0.7 else rng.choice(answers)
            lines.append((text.format(noun), answer, kind))
        found.append(frame(number, lines))
    return found


def predictions_for(asked: list[FrameQuestions]) -> list[Prediction]:
    return [Prediction.of_question(q, 0, probability=0.5, loss=1.0) for f in asked for q in f.questions]


def majorities(train: list[FrameQuestions], key: object) -> dict[object, int]:
    counts: dict[object, Counter[int]] = defaultdict(Counter)
    for f in train:
        for q in f.questions:
            counts[key(q)][q.label] += 1  # type: ignore[operator]
    return {group: count.most_common(1)[0][0] for group, count in counts.items()}


def test_majorities_equal_plain_counts() -> None:
    train, asked = frames(60), predictions_for(frames(10, seed=1))
    found = predict_baselines(LabelledQuestions.of_frames(train), asked)
    overall = majorities(train, lambda q: 0)[0]
    by_type = majorities(train, lambda q: q.type)
    by_template = majorities(train, lambda q: question_template(q.question))
    assert [p.prediction for p in found["majority"]] == [overall] * len(asked)
    assert [p.prediction for p in found["majority_by_type"]] == [by_type[p.type] for p in asked]
    expected = [by_template[question_template(p.question)] for p in asked]
    assert [p.prediction for p in found["majority_by_template"]] == expected
    assert set(found) == set(TITLES)


def test_a_group_that_training_hardly_has_takes_the_wider_groups_answer() -> None:
    exist = [("Are there any red things?", "True", "exist")] * 3
    rare = [("Is a hook there?", "False", "exist")] * (baselines.MIN_OCCURRENCES - 1)
    train = LabelledQuestions.of_frames([frame(1, exist + rare + [("How many?", "2", "count")] * 9)])
    asked = predictions_for([frame(2, [("Is a liver there?", "False", "exist"), ("What?", "red", "query_color")])])
    found = predict_baselines(train, asked)
    assert [LABELS[p.prediction] for p in found["majority_by_template"]] == ["True", "2"]


def test_of_equally_frequent_labels_the_first_in_training_is_taken() -> None:
    lines = [("Is it?", answer, "exist") for answer in ("True", "False", "False", "True")]
    found = predict_baselines(LabelledQuestions.of_frames([frame(1, lines)]), predictions_for([frame(2, lines[:1])]))
    assert [LABELS[p.prediction] for p in found["majority_by_type"]] == ["True"]


def test_the_answers_of_the_questions_asked_are_not_used() -> None:
    train, asked = LabelledQuestions.of_frames(frames(40)), predictions_for(frames(10, seed=1))
    hidden = [Prediction(p.video, p.frame, p.question, 0, 0, type=p.type, reasoning=p.reasoning) for p in asked]
    for name, found in predict_baselines(train, asked).items():
        blind = predict_baselines(train, hidden)[name]
        assert [p.prediction for p in found] == [p.prediction for p in blind]
        assert [p.answer for p in found] == [p.answer for p in asked]
        assert {p.probability for p in found} == {None}


def test_the_text_model_equals_scikit_learns_on_all_questions() -> None:
    train = frames(150)
    questions, labels = zip(*((q.question, q.label) for f in train for q in f.questions), strict=True)
    plain = make_pipeline(
        TfidfVectorizer(ngram_range=(1, 3), token_pattern=r"[\w-]+", sublinear_tf=True, min_df=2),
        LogisticRegression(C=5.0, max_iter=200, tol=1e-2),
    ).fit(questions, labels)
    asked = sorted({q.question for f in frames(40, seed=1) for q in f.questions})
    found = TextModel(LabelledQuestions.of_frames(train)).predict(asked)
    assert found.tolist() == plain.predict(asked).tolist()
    assert len(set(found.tolist())) > 5


def test_a_single_label_needs_no_regression() -> None:
    train = LabelledQuestions.of_frames([frame(1, [("Is it?", "True", "exist"), ("Was it?", "True", "exist")])])
    assert predict_from_text(train, ["Is it?", "What?"]).tolist() == [LABEL_INDEX["True"]] * 2


def test_a_question_that_training_answers_in_one_way_is_looked_up() -> None:
    """A question whose answer depends on the order of its words, which frequent ones cannot tell from others."""
    train = [frame(n, [("Is a left of b?", "True", "exist"), ("Is b left of a?", "False", "exist")]) for n in range(20)]
    found = predict_from_text(LabelledQuestions.of_frames(train), ["Is b left of a?", "Is a left of b?"])
    assert [LABELS[label] for label in found] == ["False", "True"]


def test_a_large_training_split_is_sampled_for_the_regression_only(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes: list[int] = []

    class Counting(TextModel):
        def __init__(self, train: LabelledQuestions) -> None:
            sizes.append(len(train.text))
            super().__init__(train)

    monkeypatch.setattr(baselines, "TextModel", Counting)
    monkeypatch.setattr(baselines, "MAX_FITTED", 100)
    train = LabelledQuestions.of_frames(frames(60))
    first = predict_from_text(train, train.texts)
    assert sizes == [100, 100]
    assert np.array_equal(first, predict_from_text(train, train.texts))  # the draw is seeded


def test_no_questions_give_no_predictions() -> None:
    assert predict_from_text(LabelledQuestions.of_frames(frames(20)), []).tolist() == []
