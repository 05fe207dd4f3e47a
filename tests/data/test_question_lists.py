"""Lists of questions for ``eval --only``."""

import json
from pathlib import Path

import pytest

from surgvivqa.data.question_lists import Selection, read_question_list, select_questions
from surgvivqa.data.ssgqa import FrameQuestions, Question
from surgvivqa.utils.errors import InputError
from tests.conftest import CapturedLog


def frame(video: str, number: int, *questions: str) -> FrameQuestions:
    return FrameQuestions(
        video, number, tuple(Question(video, number, q, "1", 1, None, None, n) for n, q in enumerate(questions, 3))
    )


def write_list(path: Path, *names: tuple[str, int, str]) -> Path:
    lines = (json.dumps({"video": v, "frame": f, "question": q, "verdict": "agrees"}) for v, f, q in names)
    path.write_text("".join(f"{line}\n" for line in lines))
    return path


FRAMES = [frame("VID02", 1, "a", "b"), frame("VID02", 2, "a"), frame("VID22", 1, "b", "b")]


def test_the_listed_questions_are_selected(tmp_path: Path, captured_log: CapturedLog) -> None:
    path = write_list(tmp_path / "l.jsonl", ("VID22", 1, "b"), ("VID02", 1, "b"), ("VID02", 1, "b"), ("VID02", 2, "z"))
    wanted = read_question_list(path)
    frames, selection = select_questions(FRAMES, wanted)
    assert [(f.video, f.frame, [q.question for q in f.questions]) for f in frames] == [
        ("VID02", 1, ["b"]),
        ("VID22", 1, ["b", "b"]),
    ]
    assert selection == Selection("l.jsonl", wanted.sha256, listed=3, missing=1, selected=3, of=5)
    assert "1 of the 3 questions of --only l.jsonl are not in the split (first: VID02, frame 2: 'z')" in captured_log()


def test_the_checksum_is_that_of_the_file(tmp_path: Path) -> None:
    first = read_question_list(write_list(tmp_path / "a.jsonl", ("VID02", 1, "a")))
    assert first.sha256 == read_question_list(write_list(tmp_path / "b.jsonl", ("VID02", 1, "a"))).sha256
    assert first.sha256 != read_question_list(write_list(tmp_path / "b.jsonl", ("VID02", 1, "b"))).sha256


@pytest.mark.parametrize(
    "content, message",
    [
        ("\n", "is empty, so nothing would be evaluated"),
        ('{"video": "VID02", "frame": 1, "question": "a"}\nVID02,1,a\n', r"l\.jsonl:2 is not a line of a list"),
        ('{"video": "VID02", "frame": "1", "question": "a"}', r"l\.jsonl:1 .*frame a whole number"),
        ('{"video": "VID02", "question": "a"}', r"l\.jsonl:1 .*'frame'"),
        ("[1, 2]", "it is not an object"),
    ],
)
def test_other_files_are_errors(content: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "l.jsonl").write_text(content)
    with pytest.raises(InputError, match=message):
        read_question_list(tmp_path / "l.jsonl")


def test_a_missing_list_and_a_list_of_other_questions_are_errors(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"none\.jsonl cannot be read"):
        read_question_list(tmp_path / "none.jsonl")
    wanted = read_question_list(write_list(tmp_path / "l.jsonl", ("VID04", 1, "a")))
    with pytest.raises(InputError, match=r"None of the 1 questions of --only l\.jsonl is in the split \(first: VID04"):
        select_questions(FRAMES, wanted)
