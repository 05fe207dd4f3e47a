"""Accuracy by frame flags: the table's format and its faults, and the figures against plain computations."""

import json
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from surgvivqa.evaluation.predictions import Prediction
from surgvivqa.evaluation.strata import check_overlap, compute_strata, format_strata, read_flag_table
from surgvivqa.utils.errors import InputError

ROWS = [
    ("VID02", 1, True, False),
    ("VID02", 2, False, False),
    ("VID22", 1, True, None),
    ("VID22", 3, False, True),
    ("VID43", 7, False, False),
]


def write_csv(folder: Path, text: str) -> Path:
    path = folder / "flags.csv"
    path.write_text(text, encoding="utf-8")
    return path


def write_table(folder: Path, kind: str = "csv") -> Path:
    if kind == "json":
        path = folder / "flags.json"
        path.write_text(json.dumps([{"video": v, "frame": f, "smoke": s, "blood": b} for v, f, s, b in ROWS]))
        return path
    spelled = {True: "True", False: "0", None: ""}
    lines = [f"{v},{f:06d},{spelled[s]},{spelled[b]}" for v, f, s, b in ROWS]
    return write_csv(folder, "\n".join(["video,frame, smoke,blood", *lines]) + "\n")


def predictions() -> list[Prediction]:
    rng = np.random.default_rng(0)
    return [
        Prediction(video, frame, f"question {n}", 1, int(rng.integers(0, 2)))
        for video, frame in [*((v, f) for v, f, _, _ in ROWS), ("VID74", 1), ("VID74", 2)]
        for n in range(7)
    ]


@pytest.mark.parametrize("kind", ["csv", "json"])
def test_both_formats_give_the_same_table(kind: str, tmp_path: Path) -> None:
    table = read_flag_table(write_table(tmp_path, kind))
    assert table.flags == ("smoke", "blood")
    assert table.frames == {(v, f): (s, b) for v, f, s, b in ROWS}


@pytest.mark.parametrize(
    "text",
    [
        "video;frame;smoke\r\nVID02;1;1\r\nVID02;2;0\r\nVID22;3;\r\n",
        "video\tframe\tsmoke\nVID02\t1\t1\nVID02\t2\t0\nVID22\t3\t\n",
        "\ufeffvideo,frame,smoke\nVID02,1,1\nVID02,2,0\nVID22,3,\n",
        '"frame","video","smoke"\n"1","VID02","1"\n"2","VID02","0"\n"3","VID22",""\n',
        "video,frame,smoke\nVID02,000001.png,yes\nVID02,000002.png,no\nVID22,000003.png,na\n",
        "video,frame,smoke\nVID02,1,1.0\nVID02,2,0.0\nVID22,3,\n",
    ],
    ids=["semicolons", "tabs", "byte order mark", "quotes", "files of images", "numbers with unknown ones"],
)
def test_tables_that_programs_write_are_read(text: str, tmp_path: Path) -> None:
    found = read_flag_table(write_csv(tmp_path, text))
    assert found.flags == ("smoke",)
    assert found.frames == {("VID02", 1): (True,), ("VID02", 2): (False,), ("VID22", 3): (None,)}


def test_the_figures_are_those_of_a_plain_count(tmp_path: Path) -> None:
    asked = predictions()
    found = compute_strata(read_flag_table(write_table(tmp_path)), asked)
    assert (found.source, found.frames, found.frames_not_listed) == ("flags.csv", 5, 2)
    assert (found.n, found.n_not_listed) == (35, 14)

    def accuracy(*frames: tuple[str, int]) -> float:
        return float(np.mean([p.correct for p in asked if (p.video, p.frame) in frames]))

    smoke, blood = found.rows
    assert (smoke.flag, smoke.n_inside, smoke.n_outside) == ("smoke", 14, 21)
    assert (smoke.frames_inside, smoke.frames_outside, smoke.videos) == (2, 3, 2)
    assert smoke.inside.value == accuracy(("VID02", 1), ("VID22", 1))
    assert smoke.outside.value == accuracy(("VID02", 2), ("VID22", 3), ("VID43", 7))
    pairs = [(("VID02", 1), ("VID02", 2)), (("VID22", 1), ("VID22", 3))]
    differences = [accuracy(inside) - accuracy(outside) for inside, outside in pairs]
    low, high = stats.t.interval(0.95, 1, np.mean(differences), stats.sem(differences))
    assert (smoke.difference.value, smoke.difference.low, smoke.difference.high) == pytest.approx(
        (np.mean(differences), max(low, -1), min(high, 1))  # a difference of fractions
    )
    # The frame whose flag is empty is in neither group, so no video has both.
    assert (blood.frames_inside, blood.frames_outside, blood.videos) == (1, 3, 0)
    assert blood.difference.value is None and blood.inside.value == accuracy(("VID22", 3))
    text = format_strata(found)
    assert text.splitlines()[1].split()[:2] == ["smoke", "14"]
    assert text.endswith("left out: 14 questions on 2 frames that flags.csv does not name")


def test_a_flag_that_no_frame_has_has_no_accuracy_inside(tmp_path: Path) -> None:
    table = read_flag_table(write_csv(tmp_path, "video,frame,smoke\nVID02,1,0\nVID22,1,\n"))
    (row,) = compute_strata(table, predictions()).rows
    assert (row.n_inside, row.inside.value, row.n_outside, row.videos) == (0, None, 7, 0)


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("frame,smoke\n1,0\n", "has no column video; it needs video, frame and one for each flag"),
        ("video,frame\nVID02,1\n", "has no flag besides video and frame"),
        ("video,frame,smoke\nVID02,1,0.5\n", "line 2: smoke is '0.5', not true, false, 1 or 0"),
        ("video,frame,phase\nVID02,1,1\nVID02,2,clipping\n", "line 3: phase is 'clipping'"),
        ("video,frame,smoke\nVID02,1,0\nVID02,000001,1\n", "line 3: VID02 frame 1 occurs a second time"),
        ("video,frame,smoke\nVID02,first,0\n", "line 2: frame is 'first', not a number"),
        ("video,frame,smoke\n,1,0\n", "line 2: video is '', not a name"),
        ("video,frame,smoke\nVID02,1\n", "line 2 has another number of values than the header"),
        ("video,frame,smoke\nVID02,1,0,1\n", "line 2 has another number of values than the header"),
        ("video,frame,smoke,smoke\nVID02,1,0,1\n", "its header names a column twice"),
        ("", "has no row"),
        ("video,frame,smoke\n", "has no row"),
    ],
)
def test_a_fault_of_the_table_is_named_with_its_place(text: str, fault: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=fault):
        read_flag_table(write_csv(tmp_path, text))


@pytest.mark.parametrize(
    ("content", "fault"),
    [
        ("{}", "it is not a list of objects"),
        ("[1]", "it is not a list of objects"),
        ("[", "cannot be read as a table"),
        ('[{"video": "VID02", "frame": 1, "smoke": [1]}]', r"entry 1: smoke is \[1\], not true"),
        ('[{"video": "VID02", "frame": true, "smoke": 1}]', "entry 1: frame is True, not a number"),
    ],
)
def test_a_fault_of_a_json_table_is_named(content: str, fault: str, tmp_path: Path) -> None:
    path = tmp_path / "flags.json"
    path.write_text(content)
    with pytest.raises(InputError, match=fault):
        read_flag_table(path)


def test_a_table_that_is_missing_or_about_other_frames_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot be read"):
        read_flag_table(tmp_path / "none.csv")
    table = read_flag_table(write_table(tmp_path))
    check_overlap(table, [("VID02", 2), ("VID02", 99)])
    with pytest.raises(InputError, match=r"names none of the 1 frames .*of VID01; the table has VID02, VID22, VID43"):
        check_overlap(table, [("VID01", 1)])
