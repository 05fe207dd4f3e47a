"""Reading the results of runs."""

from pathlib import Path

import pytest

from surgvivqa.reporting.results import name_apart, read_results
from surgvivqa.utils.errors import InputError
from tests.helpers.evaluations import PREDICTIONS, write_evaluation


def test_a_run_folder_gives_its_evaluation_flags_and_log(tmp_path: Path) -> None:
    run = tmp_path / "lora"
    write_evaluation(run / "eval-test")
    (run / "config.yaml").write_text("lr: 0.001\n")
    (run / "metrics.jsonl").write_text('{"step": 50, "loss": 2.5}\n{"step": 100, "lo')
    results = read_results(run)
    assert (results.name, results.predictions, results.flags) == ("lora", PREDICTIONS, {"lr": 0.001})
    assert (results.log, results.run_folder) == ([{"step": 50, "loss": 2.5}], run)


def test_a_cross_validation_has_flags_and_no_log(tmp_path: Path) -> None:
    write_evaluation(tmp_path / "eval-test")
    (tmp_path / "config.yaml").write_text("lr: 0.001\n")
    (tmp_path / "folds.json").write_text("{}")
    results = read_results(tmp_path)
    assert (results.flags, results.log, results.run_folder) == ({"lr": 0.001}, [], tmp_path)


def test_an_evaluation_without_its_run_has_no_flags_and_no_log(tmp_path: Path) -> None:
    write_evaluation(tmp_path / "eval")
    results = read_results(tmp_path / "eval")
    assert (results.run_folder, results.flags, results.log) == (None, {}, [])


def test_a_folder_without_an_evaluation_is_an_error_that_says_how_to_evaluate(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"surgvivqa eval --checkpoint .* --split test"):
        read_results(tmp_path)


@pytest.mark.parametrize("line", ["{", "[]", '{"video": "VID02"}', '{"answer": "nothing"}'])
def test_a_wrong_line_is_named(tmp_path: Path, line: str) -> None:
    write_evaluation(tmp_path / "eval")
    with (tmp_path / "eval" / "predictions.jsonl").open("a") as file:
        file.write(line + "\n")
    with pytest.raises(InputError, match=r"predictions\.jsonl:3 is not a line"):
        read_results(tmp_path / "eval")


def test_evaluations_of_the_same_name_get_longer_ones(tmp_path: Path) -> None:
    for parent in ("lora", "full"):
        write_evaluation(tmp_path / parent / "eval-test")
    runs = [read_results(tmp_path / parent / "eval-test") for parent in ("lora", "full")]
    assert [run.name for run in name_apart(runs)] == ["lora/eval-test", "full/eval-test"]


def test_run_folders_of_the_same_name_go_by_the_folder_above(tmp_path: Path) -> None:
    for parent in ("a", "b"):
        write_evaluation(tmp_path / parent / "lora" / "eval-test")
    first, second = (read_results(tmp_path / parent / "lora") for parent in ("a", "b"))
    assert [run.name for run in name_apart([first, second])] == ["a/lora", "b/lora"]
    assert [run.name for run in name_apart([first, second, first])] == ["a/lora", "b/lora", "a/lora (2)"]


def test_a_run_that_is_given_twice_keeps_its_name(tmp_path: Path) -> None:
    write_evaluation(tmp_path / "lora" / "eval-test")
    run = read_results(tmp_path / "lora")
    assert [found.name for found in name_apart([run, run])] == ["lora", "lora (2)"]
