"""The parser of question files: every line is a question or is counted by reason."""

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from surgvivqa.data.index import open_questions
from surgvivqa.data.ssgqa import ReadReport, read_question_file, read_split
from surgvivqa.utils.errors import InputError
from tests.conftest import SHARED

LINES = ("Which anatomical structures are present?|liver", "Which tools are present?|hook, grasper")


def write(folder: Path, *lines: str) -> Path:
    path = folder / "7.txt"
    path.write_text("\n".join([*LINES, *lines]), encoding="utf-8")
    return path


def test_lines_have_two_three_or_five_fields(tmp_path: Path) -> None:
    path = write(
        tmp_path,
        "Which tool is operating on gallbladder|grasper",
        "What anatomy is at the top-mid of the frame ?|cystic_plate|[157.0, 60.0]",
        "There is a thing?; what is it?|omentum|single_and.json|query_component|NA",
    )
    report = ReadReport()
    frame = read_question_file(path, "VID04", 7, report)
    assert frame is not None
    assert [(q.answer, q.reasoning, q.type, q.line) for q in frame.questions] == [
        ("grasper", None, None, 3),
        ("cystic_plate", None, None, 4),
        ("omentum", "single_and", "query_component", 5),
    ]
    assert report.skipped == {"summary": 2}


def test_an_answer_that_is_not_a_label_is_counted_and_left_out(tmp_path: Path) -> None:
    path = write(tmp_path, "a?|retract, grasp", "b?|big liver", "no pipe here", "c?|liver|x|y", "d?|yes", "", "e?|1")
    report = ReadReport()
    frame = read_question_file(path, "VID04", 7, report)
    assert frame is not None
    assert [q.answer for q in frame.questions] == ["yes", "1"]
    assert report.skipped == {"summary": 2, "comma_answer": 1, "unknown_answer": 1, "no_pipe": 1, "malformed": 1}
    with pytest.raises(InputError, match=r"7\.txt:4 has the answer 'big liver'"):
        read_question_file(path, "VID04", 7, ReadReport(), strict=True)


@settings(deadline=None, max_examples=200)
@given(st.binary(max_size=400))
def test_every_line_of_any_file_is_counted(tmp_path_factory: pytest.TempPathFactory, raw: bytes) -> None:
    path = tmp_path_factory.mktemp("raw") / "1.txt"
    path.write_bytes(raw)
    report = ReadReport()
    read_question_file(path, "VID04", 1, report)
    left_out = sum(n for reason, n in report.skipped.items() if reason not in ("not_text", "empty_file"))
    assert report.lines == report.questions + left_out


def test_only_named_videos_and_numbered_files_are_read(tmp_path: Path) -> None:
    for folder in ("VID04", "VID04_clean"):
        (tmp_path / folder).mkdir()
        write(tmp_path / folder, "a?|liver")
    (tmp_path / "VID04" / "notes.txt").write_text("x")
    (tmp_path / "VID04" / "007.txt").write_text("x")
    frames, report = read_split(tmp_path, ["VID04"])
    assert report.files == 1
    assert [f.frame for f in frames] == [7]


def test_a_binary_file_is_counted_once(tmp_path: Path) -> None:
    (tmp_path / "VID04").mkdir()
    (tmp_path / "VID04" / "1.txt").write_bytes(b"\x89PNG\0\0\xff")
    _, report = read_split(tmp_path, ["VID04"])
    assert report.skipped == {"not_text": 1}


def test_a_root_without_question_files_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="none of the 1 videos"):
        read_split(tmp_path, ["VID04"])
    (tmp_path / "VID04").mkdir()
    with pytest.raises(InputError, match="holds no question file"):
        read_split(tmp_path, ["VID04"])


@pytest.mark.skipif(not SHARED.is_dir(), reason="the real data is not here")
def test_the_counts_of_the_real_files() -> None:
    _, report = read_split(SHARED / "ssg-qa", ["VID01"])
    assert (report.lines, report.questions, dict(report.skipped)) == (27, 23, {"summary": 4})
    _, report = read_split(SHARED / "real" / "ssg-qa", ["VID68", "VID70", "VID73", "VID75"])
    assert (report.files, report.lines, report.questions) == (440, 6595, 5715)


NAMES = [
    "000002.txt",
    "2.TXT",
    "2 (1).txt",
    "3.txt.txt",
    "2.0.txt",
    "-3.txt",
    "2.txt.gz",
    "2.txt ",
    "２.txt",
    "notes.md",
]


@pytest.mark.parametrize("name", NAMES)
def test_a_file_under_another_name_is_counted_and_an_error_under_strict(name: str, tmp_path: Path) -> None:
    (tmp_path / "VID04").mkdir()
    write(tmp_path / "VID04", "a?|liver")
    (tmp_path / "VID04" / name).write_text("x")
    for read in (read_split, open_questions):
        report = read(tmp_path, ["VID04"])[1]
        assert report.skipped["other_name"] == 1 and report.examples["other_name"] == [f"{tmp_path}/VID04/{name}"]
        with pytest.raises(InputError, match="is not a question file"):
            read(tmp_path, ["VID04"], strict=True)


def test_the_index_notices_a_new_file_under_another_name(tmp_path: Path) -> None:
    (tmp_path / "VID04").mkdir()
    write(tmp_path / "VID04", "a?|liver")
    assert not open_questions(tmp_path, ["VID04"])[1].skipped["other_name"]
    (tmp_path / "VID04" / "008.txt").write_text("x")
    assert open_questions(tmp_path, ["VID04"])[1].skipped["other_name"] == 1


def test_files_of_operating_systems_are_not_reported(tmp_path: Path) -> None:
    (tmp_path / "VID04").mkdir()
    write(tmp_path / "VID04", "a?|liver")
    for name in (".DS_Store", "._7.txt", "Thumbs.db", "desktop.ini"):
        (tmp_path / "VID04" / name).write_text("x")
    assert read_split(tmp_path, ["VID04"], strict=True)[1].skipped == {"summary": 2}


def test_repeated_and_contradicting_lines_are_read_and_reported(tmp_path: Path) -> None:
    path = write(tmp_path, "a?|liver", "b?|1", "a?|liver", "a?|gut", "b?|1|x")
    report = ReadReport()
    frame = read_question_file(path, "VID04", 7, report)
    assert frame is not None and len(frame.questions) == 5
    assert report.suspect == {"repeated": 1, "contradiction": 1}
    assert report.examples["contradiction"] == [f"{path}:6: a?|gut"]
    with pytest.raises(InputError, match=r"7\.txt:5 repeats an earlier line"):
        read_question_file(path, "VID04", 7, ReadReport(), strict=True)


@pytest.mark.parametrize("lines", [("a?|liver", "b?|gut"), (LINES[0], "a?|liver"), (LINES[1], "a?|liver"), LINES[::-1]])
def test_only_the_two_summary_lines_are_left_out(lines: tuple[str, ...], tmp_path: Path) -> None:
    path = tmp_path / "7.txt"
    path.write_text("\n".join([*lines, "c?|1"]))
    report = ReadReport()
    frame = read_question_file(path, "VID04", 7, report)
    summaries = [line for line in lines if line in LINES]
    assert frame is not None and len(frame.questions) == 3 - len(summaries)
    assert report.suspect["no_summary"] == (len(summaries) < 2)
    if len(summaries) < 2:
        with pytest.raises(InputError, match="does not begin with SSG-QA's two summary lines"):
            read_question_file(path, "VID04", 7, ReadReport(), strict=True)


def test_a_video_without_a_question_is_reported(tmp_path: Path) -> None:
    for video, line in (("VID04", "a?|liver"), ("VID05", "a?|big liver")):
        (tmp_path / video).mkdir()
        write(tmp_path / video, line)
    report = read_split(tmp_path, ["VID04", "VID05"])[1]
    assert report.suspect["no_questions"] == 1 and report.examples["no_questions"] == [str(tmp_path / "VID05")]
