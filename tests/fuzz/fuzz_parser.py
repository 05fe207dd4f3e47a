"""Fuzz test of the question parser: compares it with an independent reader on mutated files.

    python -m tests.fuzz.fuzz_parser [--files 1000000] [--seed 0] [--lines FOLDER] [--processes 2] [--keep DIR]

A file starts as well-formed lines (generated; with ``--lines`` also those of the question files under FOLDER) and is
mutated up to five times: bytes, characters, fields, answers, lines, line ends, encodings, sizes. ``--only N`` makes and
checks file N of a seed again.

For every file: ``read_question_file`` raises nothing; each non-blank line is a question or has exactly one reason;
questions, labels, line numbers, reasons and examples equal the oracle's; the report survives JSON. For every fourth
file ``strict`` raises one sentence that names the file and the line where it must. A quarter of the files is also read
through Arrow columns, a twentieth through an index file, with the same result.

Exits with 1 if a file fails, and leaves the first failing files in ``--keep``.
"""

import argparse
import contextlib
import json
import os
import random
import shutil
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path

from rich.progress import track

from surgvivqa.data.columns import VideoColumns, parse_video
from surgvivqa.data.index import open_questions
from surgvivqa.data.ssgqa import FrameQuestions, QuestionFileNames, ReadReport, read_question_file, read_video
from surgvivqa.utils.errors import InputError
from tests.fuzz.parser_oracle import LINE_REASONS, SPELLED, STRICT_REASONS, SUSPECT_REASONS, read_expected
from tests.fuzz.question_files import make_file, read_lines, well_formed_lines

VIDEO = "VID04"
BATCH = 100  # files in a folder at a time
COLUMNS_EVERY, INDEX_EVERY, STRICT_EVERY = 4, 20, 4
MOST_KEPT = 20
Failure = tuple[int, bytes, str]  # number, bytes, what is wrong


class Unequal(Exception):
    """The parser's result differs from the expected one."""


def check(condition: bool, message: str) -> None:
    if not condition:
        raise Unequal(message)


def check_file(
    path: Path, number: int, raw: bytes, size: int, strict: bool, tally: Counter[str]
) -> FrameQuestions | None:
    """Reads a file and compares the result with the oracle's.

    Raises:
        Unequal: something differs.
    """
    expected = read_expected(raw, size)
    report = ReadReport()
    frame = read_question_file(path, VIDEO, number, report)
    questions = frame.questions if frame else ()
    got = [(q.line, q.question, q.answer, q.label, q.reasoning, q.type) for q in questions]
    check(got == expected.questions, f"questions {got[:3]}..., not {expected.questions[:3]}...")
    check((frame is None) == (not got), "a frame without questions")
    names = {(q.video, q.frame) for q in questions} | ({(frame.video, frame.frame)} if frame else set())
    check(names <= {(VIDEO, number)}, "the name of another frame")
    skipped = Counter(reason for reason, _, _ in expected.reasons if reason not in SUSPECT_REASONS)
    suspect = Counter(reason for reason, _, _ in expected.reasons if reason in SUSPECT_REASONS)
    check(dict(report.suspect) == dict(suspect), f"suspect {dict(report.suspect)}, not {dict(suspect)}")
    check(dict(report.skipped) == dict(skipped), f"skipped {dict(report.skipped)}, not {dict(skipped)}")
    left_out = sum(report.skipped[reason] for reason in LINE_REASONS)
    check(report.files == 1 and report.questions == len(got), "wrong count of files or questions")
    check(report.lines == len(got) + left_out, f"{report.lines} lines, {len(got)} questions, {left_out} skipped")
    examples: dict[str, list[str]] = {}
    for reason, line, text in expected.reasons:
        shown = examples.setdefault(reason, [])
        if len(shown) < 5:
            shown.append(f"{path}:{line}: {text}"[:300] if line else str(path))
    check(examples.keys() == report.examples.keys(), "examples of other reasons")
    for reason, shown in examples.items():
        same = (
            report.examples[reason] == shown
            if reason in (*LINE_REASONS, *SUSPECT_REASONS)
            else report.examples[reason][0].startswith(shown[0])
        )
        check(same, f"{reason} examples {report.examples[reason]}, not {shown}")
    for line, question, answer, label, _, _ in got:
        check(SPELLED[answer] == label, f"label {label} of the answer {answer!r}")
        text = expected.texts[line - 1]
        check(question in text and answer in text, f"line {line} does not hold its question")
    record = report.to_dict()
    check(json.loads(json.dumps(record, allow_nan=False)) == record, "the report does not survive JSON")
    tally.update(skipped)
    tally.update({"files": 1, "bytes": len(raw), "lines": report.lines, "questions": len(got)})
    if strict:
        tally["files read strictly"] += 1
        first = next((f"{path}:{n}" if n else str(path) for r, n, _ in expected.reasons if r in STRICT_REASONS), None)
        try:
            again = read_question_file(path, VIDEO, number, ReadReport(), strict=True)
        except InputError as error:
            sentence = str(error)
            check(first is not None, f"strict rejects a valid file: {sentence}")
            check(f"{first} " in sentence and "\n" not in sentence, f"strict says {sentence!r}, not {first}")
        else:
            check(first is None and again == frame, f"strict accepts {first}")
    return frame


def check_columns(root: Path, numbers: Iterable[int], through_file: bool) -> None:
    """Compares the Arrow columns of the folder's files, or an index file of them, with the plain reader.

    Raises:
        Unequal: a frame or the report differs.
    """
    expected = ReadReport()
    frames = read_video(root, VIDEO, QuestionFileNames(tuple(sorted(numbers))), expected)
    if through_file:
        found, report = open_questions(root, [VIDEO], index_dir=root / "index")
        got = list(found)
        check(len(list((root / "index").glob("*.arrow"))) == 1, "no index file")
        found.checksum()
    else:
        columns = VideoColumns(parse_video(root, VIDEO, None), root)
        got, report = [columns.build_frame(row) for row in range(len(columns.numbers))], columns.build_report()
    check(got == frames, "the index returns other frames")
    check(report == expected, f"the index reports {report}, not {expected}")


def check_batch(
    root: Path, seed: int, numbers: Sequence[int], pool: Sequence[str], index: str, tally: Counter[str]
) -> list[Failure]:
    """Makes and checks files in one folder.

    ``index`` is ``""``, ``"columns"`` or ``"file"``: whether and how the files are also read through the index.
    """
    folder, rng, failures = root / VIDEO, random.Random(), []
    folder.mkdir(parents=True)
    made = {}
    for number in numbers:
        raw, size = make_file(rng, seed, number, pool)
        made[number] = raw
        path = folder / f"{number}.txt"
        path.write_bytes(raw)
        if size > len(raw):
            os.truncate(path, size)
        try:
            check_file(path, number, raw, size, number % STRICT_EVERY == 0, tally)
        except Exception as error:
            failures.append((number, raw, describe(error)))
    if index:
        tally["files through columns" if index == "columns" else "files through an index file"] += len(numbers)
        try:
            check_columns(root, numbers, index == "file")
        except Exception as error:
            alone = {number: fails_alone(folder / f"{number}.txt", index == "file") for number in numbers}
            number = next((number for number in numbers if alone[number]), numbers[0])
            what = alone[number] or f"{describe(error)} (files {numbers[0]} to {numbers[-1]} together)"
            failures.append((number, made[number], what))
    shutil.rmtree(root)
    return failures


def fails_alone(path: Path, through_file: bool) -> str:
    """What is wrong with one file's columns or index file; empty if nothing is."""
    with tempfile.TemporaryDirectory(dir=path.parents[2]) as name:
        (Path(name) / VIDEO).mkdir()
        path.rename(Path(name) / VIDEO / path.name)
        try:
            check_columns(Path(name), [int(path.stem)], through_file)
        except Exception as error:
            return describe(error)
    return ""


def describe(error: Exception) -> str:
    """The error's message, with the source line of an unexpected one."""
    if isinstance(error, Unequal):
        return str(error)[:500]
    last = traceback.extract_tb(error.__traceback__)[-1]
    return f"{type(error).__name__}: {str(error)[:300]} ({Path(last.filename).name}:{last.lineno})"


def check_range(
    seed: int, start: int, stop: int, pool: Sequence[str], index: str | None = None
) -> tuple[Counter[str], list[Failure]]:
    """Makes and checks files ``start`` to ``stop``; ``index`` (see ``check_batch``) replaces each batch's own."""
    tally, failures = Counter[str](), []
    memory = Path("/dev/shm")
    with tempfile.TemporaryDirectory(prefix="fuzz-", dir=memory if os.access(memory, os.W_OK) else None) as name:
        for first in range(start, stop, BATCH):
            batch = first // BATCH
            own = "file" if batch % INDEX_EVERY == 1 else "columns" if batch % COLUMNS_EVERY == 0 else ""
            numbers = range(first, min(first + BATCH, stop))
            failures += check_batch(Path(name) / "ssg-qa", seed, numbers, pool, own if index is None else index, tally)
    return tally, failures


def fuzz(files: int, seed: int, pool: Sequence[str], processes: int = 1) -> tuple[Counter[str], list[Failure]]:
    """Checks that many files in several processes; shows progress on a terminal."""
    tally, step = Counter[str](), 20 * BATCH
    failures: list[Failure] = []
    parts = [(seed, start, min(start + step, files), pool) for start in range(0, files, step)]
    with ProcessPoolExecutor(processes) if processes > 1 else contextlib.nullcontext() as workers:
        jobs = [workers.submit(check_range, *part) for part in parts] if workers else []
        results = (job.result() for job in as_completed(jobs)) if workers else (check_range(*part) for part in parts)
        for some, bad in track(results, "fuzz", total=len(parts), disable=not sys.stderr.isatty()):
            tally.update(some)
            failures += bad
    return tally, sorted(failures)


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the fuzz test; returns 1 if a file fails."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--files", type=int, default=1_000_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--lines", type=Path, help="folder of question files whose lines are also mutated")
    parser.add_argument("--processes", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--keep", type=Path, default=Path("runs/fuzz"), help="folder for failing files")
    parser.add_argument("--only", type=int, help="make and check this file alone")
    options = parser.parse_args(arguments)
    pool = well_formed_lines()
    if options.lines:
        real = read_lines(options.lines)
        if not real:
            parser.error(f"--lines {options.lines} contains no question file with lines.")
        pool += real
    started = time.monotonic()
    if options.only is not None:
        failures: list[Failure] = []
        for index in ("columns", "file"):
            tally, bad = check_range(options.seed, options.only, options.only + 1, pool, index)
            failures += bad
    else:
        tally, failures = fuzz(options.files, options.seed, pool, options.processes)
    seconds = time.monotonic() - started
    again = f"python -m tests.fuzz.fuzz_parser --seed {options.seed}" + (
        f" --lines {options.lines}" if options.lines else ""
    )
    for number, raw, what in failures[:MOST_KEPT]:
        options.keep.mkdir(parents=True, exist_ok=True)
        kept = options.keep / f"seed-{options.seed}-file-{number}.txt"
        kept.write_bytes(raw)
        print(f"FAILED {again} --only {number} ({kept}): {what}")
    first = ("files", "bytes", "lines", "questions")
    counts = ", ".join(f"{tally[name]} {name}" for name in first)
    others = ", ".join(f"{name} {count}" for name, count in sorted(tally.items()) if name not in first)
    print(
        f"{counts}; {others}; {len(failures)} failures; {seconds:.0f} s, "
        f"{tally['files'] / max(seconds, 1e-9):.0f} files/s, {options.processes} processes, seed {options.seed}"
    )
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
