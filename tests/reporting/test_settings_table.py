"""The table of a run's flags, and the spread over seeds."""

import dataclasses
from pathlib import Path

import pytest

from surgvivqa.reporting.results import read_results
from surgvivqa.reporting.seeds import recipe_rows
from surgvivqa.reporting.settings_table import settings_of
from tests.helpers.runs_on_disk import make_predictions, write_run


def test_changed_flags_come_first_with_their_defaults() -> None:
    rows = settings_of({"batch_size": 8, "lr": 0.002, "weight_decay": 0.01, "other": 3})
    assert [(row.flag, row.value, row.default, row.changed) for row in rows] == [
        ("--lr", "0.002", "0.0005", True),
        ("--batch-size", "8", "8", False),
        ("--weight-decay", "0.01", "0.01", False),
        ("--other", "3", "", False),
    ]


def test_trackers_are_named() -> None:
    (given,), (left_out,) = settings_of({"report_to": ["tensorboard", "wandb"]}), settings_of({"report_to": []})
    assert (given.value, given.default, given.changed) == ("tensorboard, wandb", "none", True)
    assert (left_out.value, left_out.changed) == ("none", False)


def test_folders_are_left_out_and_parts_go_by_name() -> None:
    flags = {"image_root": "/home/me/frames", "checkpoint_dir": "/home/me/run", "text_model": "/home/me/blip"}
    assert [(row.flag, row.value) for row in settings_of(flags)] == [("--text-model", "blip")]


def test_the_spread_is_over_seeds_of_one_recipe(tmp_path: Path) -> None:
    predictions = make_predictions(60)
    for seed, name in enumerate(("a", "b", "c")):
        write_run(tmp_path / name, predictions, seed=seed)
    a, b, c = (read_results(tmp_path / name) for name in ("a", "b", "c"))
    for run, acc in ((a, 0.5), (b, 0.6)):
        overall = dataclasses.replace(run.report.metrics.overall, acc=acc)
        metrics = dataclasses.replace(run.report.metrics, overall=overall)
        object.__setattr__(run, "report", dataclasses.replace(run.report, metrics=metrics))
    other = dataclasses.replace(c, flags={**c.flags, "lr": 1.0})
    (row,) = recipe_rows([a, b, other])
    assert (row.names, row.seeds) == (["a", "b"], ["0", "1"])
    spread = row.metrics["acc"]
    assert (spread.mean, spread.sd, spread.least, spread.most) == pytest.approx((0.55, 0.0707107, 0.5, 0.6))
    assert recipe_rows([a, a]) == []
