"""Faulty question files: what the parser, its index, ``surgvivqa check`` and ``surgvivqa train`` report."""

import dataclasses
import json
import logging
import os
import shutil
import signal
import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from surgvivqa.cli import main
from surgvivqa.commands.check import CheckConfig, Result, run_checks
from surgvivqa.data import ssgqa
from surgvivqa.data.columns import VideoColumns
from surgvivqa.data.index import open_questions
from surgvivqa.data.labels import LabelSet
from surgvivqa.data.ssgqa import FORMAT_FAULTS, ReadReport, read_question_file, read_split
from surgvivqa.utils.errors import InputError
from tests.conftest import SHARED
from tests.fuzz import fuzz_parser, parser_oracle, question_files
from tests.helpers.runs import sentence

SUMMARY = b"Which anatomical structures are present?|liver\r\nWhich tools are present?|hook\r"
HEAD = "Which anatomical structures are present?|liver, gut\nWhich tools are present?|hook\n"
TEXT = f"{HEAD}Which tool is operating on gallbladder|grasper\n"
TINY = ["--preset=tiny", "--workers=0", "--max-steps=1", "--val-max-samples=8"]


class FaultyFile(NamedTuple):
    """How a faulty file is written, the reason it is counted under, and its message under --strict."""

    write: Callable[[Path], Any]
    reason: str
    message: str


def write_sparse(path: Path, size: int = 100_000_000) -> None:
    path.touch()
    os.truncate(path, size)


FAULTY_FILES = {
    "UTF-16": FaultyFile(
        lambda p: p.write_text(TEXT, "utf-16"), "not_text", " is UTF-16, not UTF-8 text; save it as UTF-8"
    ),
    "UTF-16 without a mark": FaultyFile(
        lambda p: p.write_text(TEXT, "utf-16-be"), "not_text", " is not UTF-8 text (line 1 has a NUL byte); "
    ),
    "Latin-1": FaultyFile(
        lambda p: p.write_text(f"{TEXT}\ré?|1", "latin-1"),
        "not_text",
        " is not UTF-8 text (line 5 has the byte 0xE9); ",
    ),
    "Latin-1 after a mark": FaultyFile(
        lambda p: p.write_bytes(b"\xef\xbb\xbf" + f"{HEAD}é?|1".encode("latin-1")),
        "not_text",
        " is not UTF-8 text (line 3 has the byte 0xE9)",
    ),
    "a NUL": FaultyFile(
        lambda p: p.write_text(f"{TEXT}\r\nHow many\0?|1"),
        "not_text",
        " is not UTF-8 text (line 5 has a NUL byte); save it",
    ),
    "100 MB": FaultyFile(
        write_sparse, "too_large", " has 100.0 MB, too large for the questions of a frame (at most 8 MB); replace it"
    ),
    "10,000 fields": FaultyFile(
        lambda p: p.write_text(f"{HEAD}a?|1{'|x' * 9998}"), "malformed", ":3 has 10000 fields, not 2, 3 or 5; fix or"
    ),
    "no question": FaultyFile(
        lambda p: p.write_text(f"{HEAD} |liver"), "malformed", ":3 has an empty question; fix or"
    ),
    "no pipe": FaultyFile(
        lambda p: p.write_text(f"{HEAD}\nHow many?"), "no_pipe", ":4 has no '|'; fix or remove the line"
    ),
    "another answer": FaultyFile(
        lambda p: p.write_text(f"{HEAD}What?|big liver"),
        "unknown_answer",
        ":3 has the answer 'big liver', which is not one",
    ),
    "a folder": FaultyFile(Path.mkdir, "not_a_file", " is a folder; move it away, or leave out --strict"),
    "a named pipe": FaultyFile(os.mkfifo, "not_a_file", " is a named pipe; move it away, or leave out --strict"),
}
EACH_FAULTY_FILE = pytest.mark.parametrize("bad", list(FAULTY_FILES.values()), ids=list(FAULTY_FILES))


@pytest.fixture(autouse=True)
def _time_limit() -> Iterator[None]:
    """Fails a test that opens a pipe without a writer, which would block."""

    def fail(*_: Any) -> None:
        raise AssertionError("the test hangs")

    old = signal.signal(signal.SIGALRM, fail)
    signal.alarm(120)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, old)


@pytest.fixture
def root(synthetic_set: Path, tmp_path: Path) -> Path:
    """A copy of the synthetic questions."""
    shutil.copytree(synthetic_set / "ssg-qa", tmp_path / "ssg-qa")
    return tmp_path / "ssg-qa"


@pytest.fixture
def flags(synthetic_set: Path, root: Path, tmp_path: Path) -> list[str]:
    """The flags of ``train`` for these questions."""
    data = [f"--image-root={synthetic_set / 'frames'}", f"--splits-dir={synthetic_set / 'splits'}"]
    return [*TINY, f"--ssgvqa-root={root}", *data, f"--checkpoint-dir={tmp_path / 'run'}"]


def train_result(synthetic_set: Path, root: Path) -> Result:
    """The result of ``check`` for the training split, without the later checks."""
    config = CheckConfig(ssgvqa_root=root, image_root=synthetic_set / "frames", splits_dir=synthetic_set / "splits")
    return next(result for result in run_checks(config) if result.name == "train")


@EACH_FAULTY_FILE
def test_parser_index_and_check_report_a_faulty_file(root: Path, synthetic_set: Path, bad: FaultyFile) -> None:
    expected, _ = read_split(root, ["VID04"])
    path = root / "VID04" / "12.txt"
    bad.write(path)
    frames, report = read_split(root, ["VID04"])
    indexed, index_report = open_questions(root, ["VID04"])
    assert frames == expected == list(indexed) and report == index_report
    assert report.skipped[bad.reason] == 1 and report.examples[bad.reason][0].startswith(str(path))
    result = train_result(synthetic_set, root)
    assert result.status == "WARN"
    assert f"1 {FORMAT_FAULTS[bad.reason]} (first: {path}" in result.message


@EACH_FAULTY_FILE
def test_strict_reports_the_file_the_fault_and_the_remedy(
    root: Path, flags: list[str], capsys: pytest.CaptureFixture[str], bad: FaultyFile
) -> None:
    path = root / "VID04" / "12.txt"
    bad.write(path)
    with pytest.raises(InputError) as plain:
        read_split(root, ["VID04"], strict=True)
    with pytest.raises(InputError) as indexed:
        open_questions(root, ["VID04"], strict=True)
    assert f"{path}{bad.message}" in str(plain.value) and str(plain.value) == str(indexed.value)
    assert main(["train", *flags, "--strict"]) == 2
    assert sentence(capsys) == f"surgvivqa: {plain.value}"
    assert str(plain.value).endswith(", or leave out --strict.")


def test_check_reports_the_first_file_of_each_reason(root: Path, synthetic_set: Path) -> None:
    for number, bad in enumerate(FAULTY_FILES.values(), 1001):
        bad.write(root / "VID04" / f"{number}.txt")
    (root / "VID04" / "2000.txt").touch()
    message = train_result(synthetic_set, root).message
    assert "empty_file 1, malformed 2, no_pipe 1, not_a_file 2, not_text 5, " in message
    assert "too_large 1, unknown_answer 1. Check 1 files too large (first: " in message
    firsts = {"not_text": 1001, "too_large": 1006, "malformed": 1007, "not_a_file": 1011, "empty_file": 2000}
    for reason, number in firsts.items():
        assert f" {FORMAT_FAULTS[reason]} (first: {root / 'VID04' / str(number)}.txt" in message


def test_training_skips_faulty_files_and_counts_them(
    root: Path, flags: list[str], caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    for number, bad in enumerate(FAULTY_FILES.values(), 1001):
        bad.write(root / "VID04" / f"{number}.txt")
    logger = logging.getLogger("surgvivqa")
    logger.addHandler(caplog.handler)
    try:
        assert main(["train", *flags]) == 0
    finally:
        logger.removeHandler(caplog.handler)
    (line,) = {r.getMessage() for r in caplog.records if r.getMessage().startswith("Training lines: ")}
    counted = json.loads(line.partition(": ")[2])
    expected = {"not_text": 5, "too_large": 1, "not_a_file": 2, "malformed": 2, "no_pipe": 1, "unknown_answer": 1}
    assert {reason: counted[reason] for reason in expected} == expected
    capsys.readouterr()
    assert main(["check", *flags, "--json"]) == 0
    results = {r["name"]: r for r in json.loads(capsys.readouterr().out)}
    assert results["train"]["status"] == "WARN" and results["gradients"]["status"] == "PASS"


def test_a_large_file_is_not_read(tmp_path: Path) -> None:
    (tmp_path / "VID04").mkdir()
    (tmp_path / "VID04" / "1.txt").write_text(TEXT)
    write_sparse(tmp_path / "VID04" / "12.txt", 10**12)
    tracemalloc.start()
    try:
        frames, report = read_split(tmp_path, ["VID04"])
        open_questions(tmp_path, ["VID04"])
        with pytest.raises(InputError, match=r"has 1000000\.0 MB"):
            open_questions(tmp_path, ["VID04"], strict=True)
        assert tracemalloc.get_traced_memory()[1] < 2_000_000
    finally:
        tracemalloc.stop()
    assert [f.frame for f in frames] == [1] and report.skipped == {"summary": 2, "too_large": 1}


def test_a_file_of_the_maximum_size_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ssgqa, "_MAX_BYTES", len(TEXT))
    path = tmp_path / "1.txt"
    for more, skipped in (("", {"summary": 2}), ("\n", {"too_large": 1})):
        path.write_text(TEXT + more)
        report = ReadReport()
        assert (read_question_file(path, "VID04", 1, report) is None) == bool(more)
        assert report.skipped == skipped


def lock(monkeypatch: pytest.MonkeyPatch, path: Path) -> None:
    """Makes a path unreadable, also for root, who can read all files."""

    def guard(function: Callable[..., Any]) -> Callable[..., Any]:
        def call(where: Any = ".", *rest: Any, **more: Any) -> Any:
            if not isinstance(where, int) and Path(os.fsdecode(where)) == path:
                raise PermissionError(13, "Permission denied", str(path))
            return function(where, *rest, **more)

        return call

    for owner, name in ((os, "scandir"), (os, "listdir"), (Path, "read_bytes"), (Path, "iterdir")):
        monkeypatch.setattr(owner, name, guard(getattr(owner, name)))


def make_unreadable(root: Path, what: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """Makes a part of the training split unreadable; returns the start of the expected message."""
    path = root / "VID04" / "12.txt"
    if what == "a link to nothing":
        path.symlink_to("/nowhere/12.txt")
        return f"Question file {path} cannot be read: it is a link to /nowhere/12.txt, which does not exist; fix or"
    if what == "a link to itself":
        path.symlink_to(path)
        return (
            f"Question file {path} cannot be read (Too many levels of symbolic links); make it readable, or remove it."
        )
    if what == "a locked file":
        path.write_text(TEXT)
        lock(monkeypatch, path)
        return f"Question file {path} cannot be read (Permission denied); make it readable, or remove it."
    if what == "a locked folder":
        lock(monkeypatch, path.parent)
        return (
            f"Question folder {path.parent} cannot be read (Permission denied); make it readable, "
            f"or leave its videos out through --splits-dir."
        )
    is_dir = Path.is_dir

    def raise_permission_error(self: Path) -> bool:
        if self == path.parent:
            raise PermissionError(13, "Permission denied", str(self))
        return is_dir(self)

    monkeypatch.setattr(Path, "is_dir", raise_permission_error)
    return f"Question folder {root} cannot be read (Permission denied); make it readable"


@pytest.mark.parametrize("strict", [False, True])
@pytest.mark.parametrize(
    "what", ["a link to nothing", "a link to itself", "a locked file", "a locked folder", "a locked root"]
)
def test_an_unreadable_file_is_an_error_with_and_without_strict(
    root: Path,
    synthetic_set: Path,
    flags: list[str],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    what: str,
    strict: bool,
) -> None:
    """A later run might be able to read it, and would train on other questions."""
    expected = make_unreadable(root, what, monkeypatch)
    for read in (read_split, open_questions):
        with pytest.raises(InputError) as message:
            read(root, ["VID04"], strict=strict)
        assert str(message.value).startswith(expected)
    assert main(["train", *flags, *(["--strict"] if strict else [])]) == 2
    assert sentence(capsys) == f"surgvivqa: {message.value}"
    result = train_result(synthetic_set, root)
    assert (result.status, result.message) == ("FAIL", str(message.value))


def test_a_lone_cr_ends_a_line(tmp_path: Path) -> None:
    """Without the CR, the answer would be 10."""
    path = tmp_path / "1.txt"
    path.write_bytes(SUMMARY + b"How many?|1\r0\nHow much?|2\r\n\r\r\nHow few?|3")
    report = ReadReport()
    frame = read_question_file(path, "VID04", 1, report)
    assert frame is not None and [(q.answer, q.line) for q in frame.questions] == [("1", 3), ("2", 5), ("3", 8)]
    assert report.skipped == {"summary": 2, "no_pipe": 1}


def test_a_file_with_a_frame_number_beyond_int64_is_not_a_question_file(tmp_path: Path) -> None:
    (tmp_path / "VID04").mkdir()
    for stem in ("9" * 18, "9" * 19, "9" * 200):
        (tmp_path / "VID04" / f"{stem}.txt").write_text(TEXT)
    frames, report = open_questions(tmp_path, ["VID04"])
    assert [f.frame for f in frames] == [10**18 - 1] and report.files == 1
    assert frames.checksum() == open_questions(tmp_path, ["VID04"])[0].checksum()


def test_the_parser_is_correct_on_mutated_files() -> None:
    """A short run of ``tests/fuzz/fuzz_parser.py``."""
    tally, failures = fuzz_parser.fuzz(2500, 20251, question_files.well_formed_lines())
    assert failures == []
    assert tally["files"] == 2500 and tally["files through columns"] == 700
    assert tally["files through an index file"] == 200
    # The mutations cover every reason, and most lines remain questions.
    assert all(tally[reason] > 5 for reason in (*parser_oracle.LINE_REASONS, "not_text", "empty_file"))
    assert tally["questions"] > 2 * tally["files"]


@pytest.mark.skipif(not SHARED.is_dir(), reason="the real data is not here")
def test_the_parser_is_correct_on_mutated_real_files() -> None:
    tally, failures = fuzz_parser.fuzz(1000, 20252, question_files.read_lines(SHARED))
    assert failures == [] and tally["files"] == 1000 and tally["questions"] > 2000


@pytest.mark.parametrize("fault", ["guesses", "forgets", "shifts", "breaks", "index"])
def test_the_fuzz_run_finds_a_fault(
    fault: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    read = ssgqa.read_question_file

    def read_with_fault(
        path: Path, video: str, frame: int, report: ReadReport, strict: bool = False, **more: Any
    ) -> Any:
        parsed = read(path, video, frame, report, strict, **more)
        if fault == "forgets" and report.skipped.pop("no_pipe", 0):
            report.lines -= 1
        if fault == "shifts" and b"\f" in path.read_bytes() and parsed:
            parsed = ssgqa.FrameQuestions(
                video, frame, tuple(dataclasses.replace(q, line=q.line + 1) for q in parsed.questions)
            )
        if fault == "breaks" and report.skipped["malformed"]:
            raise IndexError("list index out of range")
        return parsed

    if fault == "guesses":
        exact = LabelSet.index
        monkeypatch.setattr(LabelSet, "index", lambda labels, answer: exact(labels, answer.split(" ")[-1]))
    elif fault == "index":
        monkeypatch.setattr(VideoColumns, "build_frame", lambda self, row: None)
    else:
        monkeypatch.setattr(fuzz_parser, "read_question_file", read_with_fault)
    assert fuzz_parser.main(["--files=300", "--processes=1", f"--keep={tmp_path / 'kept'}"]) == 1
    first = capsys.readouterr().out.splitlines()[0]
    (number,) = {part.split(" ")[0] for part in first.split("--only ")[1:]}
    kept = tmp_path / "kept" / f"seed-0-file-{number}.txt"
    assert first.startswith("FAILED python -m tests.fuzz.fuzz_parser --seed 0 --only ") and str(kept) in first
    assert fuzz_parser.main([f"--only={number}", f"--keep={tmp_path / 'again'}"]) == 1
    assert (tmp_path / "again" / kept.name).read_bytes() == kept.read_bytes()
