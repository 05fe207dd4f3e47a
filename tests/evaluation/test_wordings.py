"""Two wordings of the same questions: figures by hand, and what has no partner."""

import dataclasses

import pytest

from surgvivqa.data.labels import LabelSet
from surgvivqa.evaluation.predictions import Prediction
from surgvivqa.evaluation.wordings import compute_wordings, format_wordings

LABELS = LabelSet("paired", ("a", "b", "c"))


def answer(pair: str, wording: str, answer: int, prediction: int, video: str = "1", kind: str = "Action") -> Prediction:
    return Prediction(
        video, 0, f"{pair} {wording}?", answer, prediction, type=kind, label_set=LABELS, pair_id=pair, wording=wording
    )


PREDICTIONS = [
    answer("p1", "original", 0, 0),
    answer("p2", "original", 1, 1),
    answer("p3", "original", 2, 2, "2", "Target"),
    answer("p4", "original", 2, 0, "2", "Target"),
    answer("p1", "less_biased", 0, 0),
    answer("p2", "less_biased", 1, 0),
    answer("p3", "less_biased", 2, 1, "2", "Target"),
    answer("p4", "less_biased", 2, 2, "2", "Target"),
]


def test_the_figures_of_a_pair_of_wordings() -> None:
    found = compute_wordings(PREDICTIONS, ("original", "less_biased"))
    assert found is not None
    (pair,) = found.pairs
    figures = pair.overall
    assert (figures.n, figures.reference.value, figures.other.value) == (4, 0.75, 0.5)
    assert (figures.both.value, figures.changed.value) == (0.25, 0.75)
    assert pair.difference.by_video == {"1": -0.5, "2": 0.0}
    assert (pair.difference.right_to_wrong, pair.difference.wrong_to_right) == (2, 1)
    assert pair.by_type["Target"].both.value == 0.0 and pair.unpaired == 0


def test_the_first_wording_of_the_description_is_the_reference() -> None:
    found = compute_wordings(PREDICTIONS[::-1], ("original", "less_biased"))
    assert found is not None and found.pairs[0].reference == "original"


def test_questions_without_a_partner_are_counted() -> None:
    extra = [answer("p5", "original", 0, 0), answer("p6", "original", 0, 0), answer("p6", "less_biased", 1, 1)]
    found = compute_wordings([*PREDICTIONS, *extra])
    assert found is not None and found.pairs[0].overall.n == 4 and found.pairs[0].unpaired == 3
    assert "3 questions without a partner" in format_wordings(found)


def test_a_pair_that_several_questions_might_be_is_left_out() -> None:
    extra = [answer("p5", wording, 0, 0) for wording in ("original", "less_biased")]
    twin = dataclasses.replace(extra[1], question="another question of the same type?")
    found = compute_wordings([*PREDICTIONS, *extra, twin])
    assert found is not None and found.pairs[0].overall.n == 4 and found.pairs[0].unpaired == 3


def test_one_wording_gives_no_section() -> None:
    assert compute_wordings(PREDICTIONS[:4]) is None
    assert compute_wordings([Prediction("1", 0, "q", 0, 0)]) is None


def test_the_text_names_difference_and_robust_share() -> None:
    found = compute_wordings(PREDICTIONS)
    assert found is not None
    text = format_wordings(found)
    assert "less_biased minus original: -25.0 points" in text
    assert "2 answers are right in original only, 1 in less_biased only" in text
    assert "robust to wording (both right): 25.0%" in text


@pytest.mark.parametrize("name", ["pair_id", "wording"])
def test_predictions_keep_their_pair(name: str) -> None:
    line = PREDICTIONS[0].to_json()
    assert Prediction.from_json(line, LABELS) == PREDICTIONS[0]
    assert name in line and name not in Prediction("1", 0, "q", 0, 0).to_json()
