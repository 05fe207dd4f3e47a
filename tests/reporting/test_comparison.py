"""The comparison of runs: the same questions only, paired, with what a reader must know."""

import dataclasses
from pathlib import Path
from typing import Any

import pytest

from surgvivqa.data.labels import LABELS
from surgvivqa.data.splits import TEST_VIDEOS
from surgvivqa.evaluation.environment import Environment
from surgvivqa.evaluation.metrics import compute_grouped_metrics
from surgvivqa.evaluation.paired import compare_accuracy
from surgvivqa.evaluation.predictions import Prediction
from surgvivqa.reporting.comparison import OTHER_LINES, Changes, compare_runs
from surgvivqa.reporting.comparison_document import (
    build_document,
    describe_difference,
    describe_tests,
    metrics_table,
    most_changed,
    summarise,
)
from surgvivqa.reporting.results import RunResults, read_results
from surgvivqa.reporting.tables import Points, Table, render_latex, render_markdown, render_text
from surgvivqa.utils.errors import InputError
from tests.helpers.evaluations import answer_questions, write_evaluation


def run(tmp_path: Path, name: str, predictions: list[Prediction], flags: Any = None, **report: Any) -> RunResults:
    write_evaluation(tmp_path / name, predictions)
    results = read_results(tmp_path / name)
    changed = dataclasses.replace(results.report, **report)
    return dataclasses.replace(results, report=changed, flags=flags or {})


HITS = {"VID02": "110", "VID22": "100", "VID43": "101"}
BETTER = {"VID02": "111", "VID22": "110", "VID43": "101"}


def typed(
    answer: int, prediction: int, type_: str | None, frame: int, reasoning: str | None = "zero_hop"
) -> Prediction:
    return Prediction("VID02", frame, "q", answer, prediction, reasoning=reasoning, type=type_)


def test_the_difference_is_of_the_run_minus_the_reference(tmp_path: Path) -> None:
    found = compare_runs([run(tmp_path, "a", answer_questions(HITS)), run(tmp_path, "b", answer_questions(BETTER))])
    assert [m.acc for m in found.metrics] == pytest.approx([5 / 9, 7 / 9])
    assert found.differences[0]["acc"].difference == pytest.approx(2 / 9)
    assert found.changes[0] == Changes(5, 2, 0, 2, 0)
    assert found.videos == 3


def test_changes_tell_the_same_mistake_from_another() -> None:
    right, wrong, other = (Prediction("V", 0, "q", 1, p) for p in (1, 2, 3))
    pairs = [(right, right), (right, wrong), (wrong, right), (wrong, wrong), (wrong, other), (other, wrong)]
    changes = Changes.of_pairs(pairs)
    assert changes == Changes(1, 1, 1, 1, 2)
    assert (changes.questions, changes.changed) == (6, 4)


def test_questions_that_only_one_has_are_named(tmp_path: Path) -> None:
    less = {"VID02": "110", "VID22": "10"}
    with pytest.raises(InputError) as raised:
        compare_runs([run(tmp_path, "a", answer_questions(HITS)), run(tmp_path, "b", answer_questions(less))])
    sentence = str(raised.value)
    assert "b and a do not answer the same questions: 5 questions are in both; 4 only in a" in sentence
    assert 'VID22 frame 2: "Are there any tools?" True' in sentence
    assert "VID43 only in a" in sentence and "--max-samples" in sentence


def test_a_question_with_another_true_answer_is_another_question(tmp_path: Path) -> None:
    first = answer_questions({"VID02": "11"})
    second = [dataclasses.replace(first[0], answer=LABELS.index("False")), first[1]]
    with pytest.raises(
        InputError, match=r"1 questions are in both; 1 only in a .*1 questions have another true answer"
    ):
        compare_runs([run(tmp_path, "a", first), run(tmp_path, "b", second)])


def test_one_run_and_an_empty_run_are_refused(tmp_path: Path) -> None:
    one = run(tmp_path, "a", answer_questions(HITS))
    with pytest.raises(InputError, match="at least two runs, but 1 are given"):
        compare_runs([one])
    empty = dataclasses.replace(one, predictions=[])
    with pytest.raises(InputError, match="has no predictions"):
        compare_runs([one, empty])
    with pytest.raises(InputError, match="has no predictions"):
        compare_runs([empty, empty])


def test_a_type_that_is_alone_in_its_group_is_shown_once(tmp_path: Path) -> None:
    kinds = ["exist", "count", "query_color", "query_type", None]
    questions = [typed(1, 1, kind, i, None if kind is None else "zero_hop") for i, kind in enumerate(kinds)]
    found = compare_runs([run(tmp_path, "a", questions), run(tmp_path, "b", questions)])
    names = [group.name for group in found.groups["type"]]
    assert names == ["existence", "counting", "attribute", "query_color", "query_type", OTHER_LINES]
    assert [group.name for group in found.groups["reasoning"]] == ["zero_hop", OTHER_LINES]


def test_groups_have_the_metrics_of_their_questions(tmp_path: Path) -> None:
    first = [typed(t, p, k, i) for i, (t, p, k) in enumerate([(1, 1, "count"), (3, 1, "count"), (12, 12, "exist")])]
    second = [dataclasses.replace(p, prediction=p.answer) for p in first]
    found = compare_runs([run(tmp_path, "a", first), run(tmp_path, "b", second)])
    counting = next(group for group in found.groups["type"] if group.name == "counting")
    assert counting.metrics[0].acc == compute_grouped_metrics(first).by_type["counting"].acc == 0.5
    assert (counting.differences[0].difference, counting.changes[0].wrong_to_right) == (0.5, 1)
    assert [group.name for group in most_changed(found, 0, "label", 5)] == ["2"]


FLAGS = {"lr": 0.001, "lora_r": 8, "seed": 0, "checkpoint_dir": "/a", "workers": 2}


def notes(tmp_path: Path, first: dict[str, Any], second: dict[str, Any], **report: Any) -> str:
    questions = answer_questions(HITS)
    runs = [run(tmp_path, "a", questions, first), run(tmp_path, "b", questions, second, **report)]
    return " ".join(compare_runs(runs).notes)


def test_seeds_of_one_recipe_are_said_to_be_that(tmp_path: Path) -> None:
    other = FLAGS | {"seed": 3, "checkpoint_dir": "/b", "workers": 0}
    assert "a and b are the same recipe with the seeds 0, 3" in notes(tmp_path, FLAGS, other)


def test_flags_that_differ_are_listed_without_paths_and_machine(tmp_path: Path) -> None:
    questions, other = answer_questions(HITS), FLAGS | {"lora_r": 16, "checkpoint_dir": "/b", "workers": 0}
    found = compare_runs([run(tmp_path, "a", questions, FLAGS), run(tmp_path, "b", questions, other)])
    assert found.settings == {"lora_r": [8, 16]}
    assert "Each recipe was trained with one seed." in " ".join(found.notes)
    assert "--lora-r" in render_text(build_document(found))


def test_different_scoring_is_said(tmp_path: Path) -> None:
    found = notes(tmp_path, FLAGS, FLAGS, score_norm="mean", mask="bidirectional")
    assert "different --score-norm: a sum, b mean" in found and "different --mask: a prefix, b bidirectional" in found


def test_different_precisions_are_said(tmp_path: Path) -> None:
    environment = Environment({"torch": "2"}, "CPU", "bfloat16", 1, 1.0, "2026")
    assert "a not recorded, b bfloat16" in notes(tmp_path, FLAGS, FLAGS, environment=environment)


def test_recipes_of_unknown_runs_are_not_compared(tmp_path: Path) -> None:
    assert "The training flags of b are not known" in notes(tmp_path, FLAGS, {})


def test_several_comparisons_are_said_not_to_be_adjusted(tmp_path: Path) -> None:
    questions = answer_questions(HITS)
    runs = [run(tmp_path, name, questions, FLAGS | {"seed": i}) for i, name in enumerate("abc")]
    assert "not adjusted for the number of comparisons" in " ".join(compare_runs(runs).notes)


@pytest.mark.parametrize(
    ("changed", "expected"),
    [
        ({"synthetic": False}, True),
        ({"synthetic": True}, False),
        ({"synthetic": None}, False),
        ({"synthetic": False, "max_samples": 50_000}, False),
    ],
)
def test_published_rows_stand_beside_official_runs_only(
    tmp_path: Path, changed: dict[str, Any], expected: bool
) -> None:
    questions = [dataclasses.replace(typed(12, 12, "exist", 1), video=video) for video in sorted(TEST_VIDEOS)]
    metrics = compute_grouped_metrics(questions)
    all_questions = dataclasses.replace(metrics, overall=dataclasses.replace(metrics.overall, n=107_000))
    runs = [run(tmp_path, name, questions, metrics=all_questions, **changed) for name in "ab"]
    text = render_text(build_document(compare_runs(runs)))
    assert ("SSG-VQA-Net, weights run again (2026)" in text) == expected
    assert ("75.8" in text) == expected  # SSG-VQA-Net's F1 on existence
    assert "GNN-SurgVQA" not in text  # its questions are not known to be the same


def test_the_summary_says_what_the_videos_show(tmp_path: Path) -> None:
    first, second = (
        {"VID02": "1100", "VID22": "1000", "VID43": "1000"},
        dict.fromkeys(("VID02", "VID22", "VID43"), "1110"),
    )
    found = compare_runs([run(tmp_path, "a", answer_questions(first)), run(tmp_path, "b", answer_questions(second))])
    sentences = summarise(found)
    assert (
        "b answers 75.0% correctly and a 33.3%, on the same 12 questions: +41.7 points on average over 3 videos"
        in (sentences[0])
    )
    assert "better in 3 of 3, worse in 0." in sentences[0]
    assert "exact sign-flip test over videos p = 0.25 (the least that 3 videos allow is 0.25)" in sentences[1]
    assert "in 80% of cases" in sentences[1]


def test_a_test_of_random_flips_has_no_exact_least_p() -> None:
    found = compare_accuracy(
        answer_questions({f"VID{number:02}": "11" for number in range(30)}),
        answer_questions({f"VID{number:02}": "10" for number in range(30)}),
    )
    assert "; sign-flip test over videos p < 0.0001. Without" in describe_tests(found)
    assert "all videos have the same difference" in describe_tests(found)


def test_an_interval_around_zero_is_no_verdict(tmp_path: Path) -> None:
    found = compare_runs([run(tmp_path, "a", answer_questions(HITS)), run(tmp_path, "b", answer_questions(BETTER))])
    assert "these videos do not show which is better" in describe_difference(found.differences[0]["acc"])


def test_one_video_has_no_interval_and_says_so(tmp_path: Path) -> None:
    runs = [run(tmp_path, name, answer_questions({"VID02": hits})) for name, hits in (("a", "10"), ("b", "11"))]
    found = compare_runs(runs)
    accuracy = found.differences[0]["acc"]
    assert "there is no interval and no test" in describe_difference(accuracy)
    assert "At least two videos" in describe_tests(accuracy)
    assert len(metrics_table(found).rows) == 2
    for render in (render_text, render_markdown, render_latex):
        assert "+50.0" in render(build_document(found))


def test_equal_runs_are_said_to_be_equal(tmp_path: Path) -> None:
    runs = [run(tmp_path, name, answer_questions(HITS)) for name in "ab"]
    found = compare_runs(runs)
    text = render_text(build_document(found))
    assert "b and a give the same answers to all questions." in text
    assert "No t-test, as all videos have the same difference" in describe_tests(found.differences[0]["acc"])


def test_three_runs_are_compared_with_the_first(tmp_path: Path) -> None:
    hits = (HITS, BETTER, dict.fromkeys(HITS, "111"))
    found = compare_runs([run(tmp_path, n, answer_questions(h)) for n, h in zip("abc", hits, strict=True)])
    assert [round(d["acc"].difference, 3) for d in found.differences] == [0.222, 0.444]
    document = build_document(found)
    tables = {
        block.name: block for section in document.sections for block in section.blocks if isinstance(block, Table)
    }
    assert [row[0] for row in tables["changes"].rows] == ["b", "c"]
    assert all(len(row) == len(table.head) for table in tables.values() for row in table.rows)
    short = document.sections[0].blocks[0]
    assert isinstance(short, Points) and len(short.sentences) == 4
