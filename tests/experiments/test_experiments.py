"""The experiments: rows name real flags, the table adds up."""

import json
from pathlib import Path

import pytest

from experiments.accuracy import accuracy_by_kind, names_cropped_object
from experiments.rows import ROWS, Row
from experiments.run import Experiments, results_table
from surgvivqa.cli import parse
from surgvivqa.commands.eval_config import EvalConfig
from surgvivqa.config import TrainConfig, check_ranges
from surgvivqa.model.freezing import check_cache_flags


@pytest.mark.parametrize("row", ROWS, ids=lambda r: r.key)
def test_a_row_is_a_valid_run(row: Row, tmp_path: Path) -> None:
    flags = Experiments(tmp_path).train_flags(row, 0, tmp_path / "run")
    config = parse("train", TrainConfig, flags)
    check_ranges(config)
    check_cache_flags(config)
    parse("eval", EvalConfig, ["--checkpoint", "x", *row.eval])
    assert row.same_as is None or row.same_as in {r.key for r in ROWS if r.same_as is None}


FRAME = {"video": "VID01", "frame": 0}


def test_row_names_are_distinct() -> None:
    assert len({r.key for r in ROWS}) == len(ROWS)


def test_figures_by_kind_of_question(tmp_path: Path) -> None:
    records = [
        {
            "question": "Are there any top-left things?",
            "answer": "True",
            "prediction": "True",
            "type": "exist",
            **FRAME,
        },
        {"question": "q", "answer": "2", "prediction": "3", "type": "count", **FRAME},
        {"question": "q", "answer": "cut", "prediction": "cut", "type": None, **FRAME},
        {"question": "q", "answer": "liver", "prediction": "cut", "type": None, **FRAME},
    ]
    path = tmp_path / "predictions.jsonl"
    path.write_text("".join(json.dumps(r) + "\n" for r in records))
    figures = accuracy_by_kind(path, tmp_path)
    assert (figures["all"], figures["existence"], figures["counting"], figures["verb"]) == (50, 100, 0, 100)
    assert figures["sides"] == 100
    assert figures["colour"] != figures["colour"]  # no such question


def test_objects_that_a_square_crop_removes(tmp_path: Path) -> None:
    objects = [
        {"component": "grasper", "center": [30.0, 100.0]},
        {"component": "cystic_plate", "center": [470.0, 100.0]},
        {"component": "cystic_plate", "center": [240.0, 100.0]},
        {"component": "liver", "center": [110.0, 100.0]},
    ]
    (tmp_path / "VID01_4.json").write_text(json.dumps({"scenes": [{"objects": objects}]}))

    def lost(question: str, answer: str = "1", frame: int = 4) -> bool:
        record = {"video": "VID01", "frame": frame, "question": question, "answer": answer}
        return names_cropped_object(record, tmp_path)

    assert lost("What is the grasper doing?") and lost("What is that?", "grasper")
    assert not lost("What is the cystic plate?")  # one of them stays
    assert not lost("What is the liver?") and not lost("What is the hook doing?") and not lost("the grasper", frame=5)


def test_the_table_gives_mean_and_spread_over_seeds() -> None:
    kinds = ("all", "existence", "counting", "colour", "object", "verb", "sides", "edge")
    done = {("mask/prefix", s): {"row": "mask/prefix", "seed": s} | dict.fromkeys(kinds, 50.0 + s) for s in range(3)}
    lines = results_table(done)
    assert lines[2].startswith("| mask: prefix | 51.0 ± 1.0 |") and lines[2].endswith("| 3 |")
    assert len(lines) == 3


def test_finished_runs_are_read_except_other_bases_and_incomplete_lines(tmp_path: Path) -> None:
    work = Experiments(tmp_path)
    records = [{"row": "mask/prefix", "seed": n, "of": of} for n, of in enumerate((work.of, "another base", work.of))]
    text = "".join(json.dumps(r) + "\n" for r in records)
    (tmp_path / "results.jsonl").write_text(text + '{"row": "mask/pre')
    assert set(work.done()) == {("mask/prefix", 0), ("mask/prefix", 2)}
    assert work.ends_mid_line()
    (tmp_path / "results.jsonl").write_text(text)
    assert not work.ends_mid_line()
