"""Figures of generated answers: computed by hand, by the packages directly, and written and read back."""

import json
from pathlib import Path
from typing import Any

import pytest
import sacrebleu
from rouge_score.rouge_scorer import RougeScorer  # type: ignore[import-untyped]

from surgvivqa.evaluation import generation
from surgvivqa.evaluation.build_report import build_report
from surgvivqa.evaluation.generation import compute_generation, format_generation, has_keywords, is_same_text
from surgvivqa.evaluation.predictions import Prediction
from surgvivqa.evaluation.report import EvaluationReport
from surgvivqa.reporting.sections import build_sections
from surgvivqa.utils.errors import InputError
from tests.helpers.label_sets import SEVEN

PAIRS = [
    ("Yes, there is a polyp in view.", "Yes, there is a polyp in view.", "yes"),
    ("No polyp is seen.", "No, there is no polyp in this part of the colon.", "no"),
    ("A snare is used.", "A cold snare removes the polyp.", "cold snare"),
    ("yes there is a polyp  in view", "Yes, there is a polyp in view.", "polyp"),
]


def predictions() -> list[Prediction]:
    return [
        Prediction(
            f"colon{n % 2}", n, f"q{n}", SEVEN.labels.index(label), 0, type="a" if n < 2 else "b",
            long_answer=reference, generated=text, label_set=SEVEN,
        )
        for n, (text, reference, label) in enumerate(PAIRS)
    ]  # fmt: skip


def test_the_figures_are_those_of_the_packages_and_of_a_count_by_hand() -> None:
    found = compute_generation(predictions())
    assert found is not None
    texts, references = [p[0] for p in PAIRS], [p[1] for p in PAIRS]
    assert found.figures.bleu4 == pytest.approx(sacrebleu.corpus_bleu(texts, [references]).score / 100)
    rouge = RougeScorer(["rougeL"], use_stemmer=True)
    scores = [
        rouge.score(reference, text)["rougeL"].fmeasure for text, reference in zip(texts, references, strict=True)
    ]
    assert found.figures.rouge_l == pytest.approx(sum(scores) / 4) and scores[0] == 1
    assert found.figures.keyword_accuracy == 0.75 and found.figures.exact_match == 0.5
    assert found.figures.acc == 0.25 and found.distinct == 4 and found.without_long_answer == 0
    assert found.by_type["a"].n == 2 and found.by_type["a"].exact_match == 0.5
    assert found.by_type["b"].keyword_accuracy == 0.5
    low, high = found.figures.keyword_accuracy_interval or (1, 0)
    assert 0 <= low <= 0.75 <= high <= 1


@pytest.mark.parametrize(
    ("text", "label", "expected"),
    [
        ("No, there is none.", "no", True),
        ("None.", "no", True),  # another spelling of it
        ("It is unknown.", "no", False),
        ("The COLD_SNARE is open.", "cold snare", True),
        ("The snare is cold.", "cold snare", False),
        ("There are 12.", "2", False),
        ("There are 2.", "2", True),
        ("", "yes", False),
    ],
)
def test_a_short_answer_occurs_as_whole_words(text: str, label: str, expected: bool) -> None:
    assert has_keywords(text, label, SEVEN) is expected


def test_texts_are_equal_apart_from_case_punctuation_and_white_space() -> None:
    assert is_same_text("Yes, it is.", " yes it  is") and not is_same_text("Yes, it is.", "Yes it was.")


def test_a_perfect_model_has_perfect_figures() -> None:
    perfect = [
        Prediction("v", n, "q", 0, 0, long_answer=r, generated=r, label_set=SEVEN) for n, (_, r, _) in enumerate(PAIRS)
    ]
    found = compute_generation(perfect)
    assert found is not None
    assert (found.figures.bleu4, found.figures.rouge_l, found.figures.exact_match) == (1, 1, 1)
    assert found.figures.rouge_l_interval is None  # one video


def test_nothing_generated_or_nothing_to_compare_with_is_no_section() -> None:
    assert compute_generation([Prediction("v", 0, "q", 0, 0, label_set=SEVEN)]) is None
    assert compute_generation([Prediction("v", 0, "q", 0, 0, generated="x", label_set=SEVEN)]) is None
    some = [*predictions(), Prediction("v", 9, "q", 0, 0, generated="x", label_set=SEVEN)]
    found = compute_generation(some)
    assert found is not None and found.without_long_answer == 1 and found.figures.n == 4


def test_the_section_is_written_read_and_shown() -> None:
    fields: dict[str, Any] = {
        "skipped": {},
        "skipped_frames": [],
        "checkpoint": "run",
        "split": "test",
        "max_samples": None,
    }
    settings = {"synthetic": True, "mask": "prefix", "prompt_mode": "simple", "score_norm": "sum"}
    report = build_report(predictions(), **fields, **settings)
    content = json.loads(json.dumps(report.to_json()))
    assert EvaluationReport.from_json(content).generation == report.generation
    assert report.generation is not None
    text = format_generation(report.generation)
    assert "K-ACC" in text and "4 distinct texts" in text and text.splitlines()[1].split()[:2] == ["all", "4"]
    verdicts = [verdict.text for verdict in build_sections(content).verdicts]
    assert any("75.0%" in v and "of the generated answers hold the short answer" in v for v in verdicts)


def test_predictions_keep_their_texts() -> None:
    for prediction in predictions():
        line = json.loads(json.dumps(prediction.to_json()))
        assert line["generated"] and line["long_answer"]
        assert Prediction.from_json(line, SEVEN) == prediction
    assert "generated" not in Prediction("v", 0, "q", 0, 0).to_json()


def test_a_missing_package_is_one_sentence(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(__import__("sys").modules, "sacrebleu.metrics", None)
    with pytest.raises(InputError, match=r"pip install 'surgvivqa\[generation\]'"):
        generation.check_packages()
