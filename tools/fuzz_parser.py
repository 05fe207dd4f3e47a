"""Mutates question files by the million and holds the parser to what it promises, with a plain twin as the judge.

    python tools/fuzz_parser.py [--files 1000000] [--seed 0] [--lines FOLDER] [--processes 2] [--keep DIR]

Every file begins as well-formed lines (made here; with ``--lines`` also those of the question files under FOLDER) and
is broken from zero to five times: bytes, characters, fields, answers, lines, line ends, encodings, sizes. File N of a
seed is always the same bytes (with the same ``--lines``), so ``--only N`` makes and checks that one again.

Of every file: ``read_file`` returns and raises nothing; each non-blank line is a question or has exactly one reason;
questions, labels, line numbers, reasons and examples are the twin's; the label is the index of the answer's text, the
line of that number holds question and answer; the report goes through JSON. Of every fourth file: ``strict`` raises one
sentence (InputError) that names the file and the line where it must, and nothing otherwise. A quarter of the files is
also parsed into Arrow columns, another twentieth goes through an index file: the same frames, the same report.

Exit code 0 if all of it holds, else 1, with the first failing files in ``--keep``.
"""

import argparse
import io
import itertools
import json
import os
import random
import shutil
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass, field
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from surgvivqa.data.columns import VideoColumns, parse_video
from surgvivqa.data.index import open_questions
from surgvivqa.data.ssgqa import FrameQuestions, ReadReport, read_file
from surgvivqa.utils.errors import InputError

VIDEO = "VID04"
BATCH = 100  # files in a folder at a time
COLUMNS_EVERY, INDEX_EVERY, STRICT_EVERY = 4, 20, 4
MOST_KEPT = 20

# --- The format once more, from its description and not from the project's parser -----------------------------------

WORDS = (
    "0 1 10 2 3 4 5 6 7 8 9 False True abdominal_wall_cavity adhesion anatomy aspirate bipolar blood_vessel blue brown "
    "clip clipper coagulate cut cystic_artery cystic_duct cystic_pedicle cystic_plate dissect fluid gallbladder grasp "
    "grasper gut hook instrument irrigate irrigator liver omentum pack peritoneum red retract scissors silver "
    "specimen_bag specimenbag white yellow"
).split()
# Every spelling that names a class: the words themselves, and four words in any case.
SPELLED = {word: index for index, word in enumerate(WORDS)} | {
    "".join(letters): WORDS.index(named)
    for word, named in (("yes", "True"), ("no", "False"), ("true", "True"), ("false", "False"))
    for letters in itertools.product(*((c, c.upper()) for c in word))
}
HOPS = {f"{hop}{end}": hop for hop in ("zero_hop", "one_hop", "single_and") for end in ("", ".json")}
KINDS = {"count", "exist", "query_color", "query_type", "query_component", "query_location"}
BLANKS = frozenset("\t\n\v\f\r\x1c\x1d\x1e\x1f \x85\xa0\u1680\u2028\u2029\u202f\u205f\u3000").union(
    map(chr, range(0x2000, 0x200B))
)
MOST_BYTES = 8_000_000
LINE_REASONS = ("summary", "no_pipe", "malformed", "comma_answer", "unknown_answer")
STRICT_FAULTS = ("too_large", "not_text", "no_pipe", "malformed", "unknown_answer")


@dataclass
class Verdict:
    """What the twin makes of a file. A question is (line, question, answer, label, reasoning, type)."""

    questions: list[tuple[int, str, str, int, str | None, str | None]] = field(default_factory=list)
    reasons: list[tuple[str, int, str]] = field(default_factory=list)  # reason, line (0: the file), the line's text
    texts: list[str] = field(default_factory=list)


def bare(text: str) -> str:
    """The text without the blanks around it."""
    start, end = 0, len(text)
    while start < end and text[start] in BLANKS:
        start += 1
    while end > start and text[end - 1] in BLANKS:
        end -= 1
    return text[start:end]


def twin(raw: bytes, size: int) -> Verdict:
    """Reads a file of these bytes, and NULs up to ``size``, as the format's description says."""
    verdict = Verdict()
    if size > MOST_BYTES:
        verdict.reasons.append(("too_large", 0, ""))
        return verdict
    try:
        str(raw, "utf-8")
    except UnicodeDecodeError:
        verdict.reasons.append(("not_text", 0, ""))
        return verdict
    if 0 in raw or size > len(raw):
        verdict.reasons.append(("not_text", 0, ""))
        return verdict
    count = 0
    # Python's own text file finds the line ends.
    for number, line in enumerate(io.TextIOWrapper(io.BytesIO(raw.removeprefix(b"\xef\xbb\xbf")), "utf-8"), 1):
        verdict.texts.append(line)
        content = bare(line)
        if not content:
            continue
        count += 1
        pipes = content.count("|")
        question, _, rest = content.partition("|")
        answer, _, rest = rest.partition("|")
        question, written, answer = bare(question), answer, bare(answer)
        if count <= 2:
            verdict.reasons.append(("summary", number, content))
        elif pipes == 0:
            verdict.reasons.append(("no_pipe", number, content))
        elif pipes not in (1, 2, 4) or question == "":
            verdict.reasons.append(("malformed", number, content))
        elif written.count(","):
            verdict.reasons.append(("comma_answer", number, content))
        elif answer not in SPELLED:
            verdict.reasons.append(("unknown_answer", number, content))
        else:
            hop = kind = None
            if pipes == 4:
                third, fourth, _ = rest.split("|")
                hop, kind = HOPS.get(bare(third)), bare(fourth)
            verdict.questions.append((number, question, answer, SPELLED[answer], hop, kind if kind in KINDS else None))
    if count == 0:
        verdict.reasons.append(("empty_file", 0, ""))
    return verdict


# --- Making files ----------------------------------------------------------------------------------------------------


def made_lines() -> list[str]:
    """Well-formed lines of every kind, some with letters beyond ASCII."""
    rng, lines = random.Random(0), []
    things = [w for w in WORDS if not w.isdigit() and w not in ("True", "False")]
    places = ["top-left", "top-mid", "top-right", "bottom-left", "bottom-mid", "bottom-right"]
    aside = ["", "", "", "", "", " (gallbladder\u2019s)", " naïve", " 胆嚢", " \U0001f52a", " ½"]
    for _ in range(400):
        a, b, place, odd = rng.choice(things), rng.choice(things), rng.choice(places), rng.choice(aside)
        lines += [
            f"Which tool is operating on {a}{odd}|{b}",
            f"What is the action being performed on {a}{odd}?|{b}",
            f"What anatomy is at the {place} of the frame{odd} ?|{a}|[{rng.randrange(430)}.0, 60.5]",
            f"How many {place} instruments are there{odd}?|{rng.randrange(11)}|zero_hop.json|count|NA",
            f"Is there a {a} left of the {b}{odd}?|{rng.choice(['True', 'False'])}|one_hop.json|exist|relate_spatial",
            f"The {a} within the {b} is what color{odd}?|red|single_and.json|query_color|NA",
            f"There is a {a}{odd}?; what name is it?|{b}|one_hop.json|query_component|relate_spatial",
            f"What kind is the {place} {a}{odd}?|anatomy|zero_hop.json|{rng.choice(sorted(KINDS))}|NA",
        ]
    return lines


def lines_of(folder: Path) -> list[str]:
    """The lines of the question files under a folder, in order of their paths."""
    return [line for path in sorted(folder.rglob("*.txt")) for line in path.read_text("utf-8").splitlines() if line]


ODD_CHARACTERS = "\0\x01\t\v\f\r\n\x1a\x1c\x1d\x1e\x1f\x7f\x85\xa0\xad\u061c\u1680\u180e\u200b\u200f\u2028\u2029\u202f"
ODD_CHARACTERS += "\u3000\ufeff\ufffe\ud800\udfff\U000e0041|｜¦,，;?\"'\\/{}[]%"
ODD_BLANKS = ["", "", " ", *"\t\f\v\x1c\x85\xa0\u2028\u2029\u3000\ufeff\u200b", " \t "]
DIGITS = "0123456789٠١٢٣٤٥٦٧٨٩０１２３４５６７８９²³¹½Ⅻ𝟘𝟙①"
WRONG = ["", "big liver", "specimen bag", *"liver. livers 11 01 1.0 -1 +1 NA None tru ja ＹＥＳ Kelvin".split()]
ENDS = ["\n", "\r\n", "\r", "\n\r", "\r\r\n", "\n\n", "\f", "\u2028", "\x85", "\x1e", ""]
ENCODINGS = ["utf-16", "utf-16-le", "utf-16-be", "utf-32", "latin-1", "cp1252", "shift_jis", "utf-7", "utf-8-sig"]
SEQUENCES = [
    *(b"\xef\xbb\xbf", b"\xff\xfe", b"\xfe\xff", b"\xed\xa0\x80", b"\xed\xbf\xbf", b"\xc0\x80", b"\xf4\x90\x80\x80"),
    *(b"\0", b"\0\0", b"\x80", b"\xff", b"\xe2\x80\xa8", b"\xe2\x80", b"\r", b"\n", b"\r\n", b"|", b"|||", b"\x0c"),
]


def broken_answer(rng: random.Random, lines: list[str], at: int) -> None:
    fields = lines[at].split("|")
    if len(fields) < 2:
        return
    answer = fields[1]
    change = rng.randrange(9)
    if change == 0:
        answer = rng.choice([answer.upper(), answer.title(), answer.swapcase(), answer.capitalize()])
    elif change == 1:
        answer = rng.choice(ODD_BLANKS) + answer + rng.choice(ODD_BLANKS)
    elif change == 2:
        answer = rng.choice([f"{answer}, {rng.choice(WORDS)}", f",{answer}", f"{answer},", ",", f"{answer}，{answer}"])
    elif change == 3:
        answer = rng.choice(DIGITS) + rng.choice(["", "", rng.choice(DIGITS)])
    elif change == 4:
        answer = "".join(rng.choice((c, c.upper())) for c in rng.choice(("yes", "no", "true", "false")))
    elif change == 5:
        answer = rng.choice(WRONG)
    elif change == 6:
        answer = rng.choice(WORDS)
    elif change == 7:
        answer = answer[: rng.randrange(len(answer) + 1)]
    else:
        answer = answer.replace("_", rng.choice([" ", "-", "", "__", "\u0332"])).replace("i", rng.choice("iıİí"))
    fields[1] = answer
    lines[at] = "|".join(fields)


def broken_fields(rng: random.Random, lines: list[str], at: int) -> None:
    fields = lines[at].split("|")
    change = rng.randrange(8)
    if change == 0:
        fields.insert(rng.randrange(len(fields) + 1), rng.choice(["", " ", rng.choice(WORDS), "NA"]))
    elif change == 1:
        del fields[rng.randrange(len(fields))]
    elif change == 2:
        rng.shuffle(fields)
    elif change == 3:
        fields[0] = rng.choice(ODD_BLANKS)
    elif change == 4 and len(fields) > 2:
        hop = rng.choice(
            ["zero_hop", "one_hop.json", "single_and.json.json", "ZERO_HOP.json", "two_hop.json", " one_hop "]
        )
        fields[2] = hop + rng.choice(ODD_BLANKS)
    elif change == 5 and len(fields) > 3:
        fields[3] = rng.choice(["Count", "exist ", "query", "", "query_location", "query_color\u200b", "\tcount"])
    elif change == 6:
        lines[at] = rng.choice(["||", "｜", "\\|", " | "]).join(fields)
        return
    else:
        fields = fields[:1] + fields[1:] * rng.randrange(4)
    lines[at] = "|".join(fields)


def broken_characters(rng: random.Random, lines: list[str], at: int) -> None:
    line = lines[at]
    for _ in range(rng.choice((1, 1, 1, 2, 5))):
        place = rng.randrange(len(line) + 1)
        line = line[:place] + rng.choice(ODD_CHARACTERS) + line[place + rng.randrange(2) :]
    lines[at] = line


def broken_lines(rng: random.Random, lines: list[str], at: int) -> None:
    change, other, line = rng.randrange(8), rng.randrange(len(lines)), lines[at]
    if change == 0:
        lines[at : at + 2] = ["".join(lines[at : at + 2])]
    elif change == 1:
        place = rng.randrange(len(line) + 1)
        lines[at : at + 1] = [line[:place], line[place:]]
    elif change == 2:
        lines[at], lines[other] = lines[other], lines[at]
    elif change == 3:
        lines.insert(other, line)
    elif change == 4:
        del lines[at]
    elif change == 5:
        lines[at:at] = [rng.choice(ODD_BLANKS) for _ in range(rng.choice((1, 1, 2, 6)))]
    elif change == 6:
        lines[at] = rng.choice(ODD_BLANKS) + line + rng.choice(ODD_BLANKS)
    else:
        rng.shuffle(lines)


def broken_length(rng: random.Random, lines: list[str], at: int) -> None:
    """Seldom, as such a file costs as much as a hundred others."""
    many = rng.choice((1000, 10_000, 100_000))
    if rng.random() < 0.8:
        many = rng.choice((40, 300))
    change, fields = rng.randrange(4), lines[at].split("|")
    if change == 0:
        fields[0] += " very" * many
        lines[at] = "|".join(fields)
    elif change == 1:
        lines[at] += "|" * (min(many, 10_000) - len(fields))  # as many fields
    elif change == 2:
        lines[at] += " " * many
    else:
        lines[at] = fields[0] + "|" + ", ".join(WORDS[:40]) * (many // 40)


def broken_bytes(rng: random.Random, raw: bytes) -> bytes:
    at = rng.randrange(len(raw) + 1)
    change = rng.randrange(9)
    if change == 0 and raw:
        flipped = bytearray(raw)
        for _ in range(rng.choice((1, 1, 2, 8))):
            flipped[rng.randrange(len(raw))] ^= 1 << rng.randrange(8)
        return bytes(flipped)
    if change == 1:
        return raw[:at] + raw[at + rng.choice((1, 1, 2, 30)) :]
    if change == 2:
        return raw[:at] + rng.randbytes(rng.choice((1, 1, 2, 30))) + raw[at:]
    if change == 3:
        return raw[:at]
    if change == 4:
        end = at + rng.randrange(60)
        return raw[:end] + raw[at:]
    if change == 5:
        return raw[at:] + raw[:at]
    if change == 6 and raw:
        return raw[:at] + bytes([rng.randrange(32, 127)]) + raw[at + 1 :]
    return raw[:at] + rng.choice(SEQUENCES) + raw[at + rng.randrange(2) :]


LINE_CHANGES: list[Callable[[random.Random, list[str], int], None]] = [
    *(broken_answer, broken_answer, broken_fields, broken_fields, broken_characters, broken_lines, broken_lines),
]


def make(rng: random.Random, seed: int, number: int, pool: Sequence[str]) -> tuple[bytes, int]:
    """File ``number`` of a seed: its bytes, and its size where that is larger (NULs that take no room on disk)."""
    rng.seed(f"{seed}/{number}")
    lines = ["Which anatomical structures are present?|liver, gut", "Which tools are present?|hook"]
    lines += rng.choices(pool, k=rng.choice((0, 1, 3, 5, 6, 8, 10, 20)))
    for _ in range(rng.choice((0, 1, 1, 2, 3, 5))):
        change = broken_length if rng.random() < 0.01 else rng.choice(LINE_CHANGES)
        # The two summary lines less often than others: what follows them is what counts.
        change(rng, lines, rng.randrange(len(lines)))
        if not lines:
            break
    style = rng.randrange(16)
    if style < 10:
        text = "\n".join(lines)
    elif style < 13:
        text = ENDS[style - 9].join(lines)
    else:
        text = "".join(line + (rng.choice(ENDS) if rng.random() < 0.3 else "\n") for line in lines)
    if rng.random() < 0.5:
        text += rng.choice(ENDS)
    draw = rng.random()
    if draw < 0.06:
        raw = text.encode(rng.choice(ENCODINGS), "replace")
    else:
        raw = text.encode("utf-8", "surrogatepass")
    if draw > 0.6:
        for _ in range(rng.choice((1, 1, 2, 4))):
            raw = broken_bytes(rng, raw)
    rare = rng.random()
    if rare < 0.004:
        raw = rng.choice(
            (b"", b"\n", b" \n\t\r\n", b"\xef\xbb\xbf", b"\xef\xbb", b"\xef", b"\r", raw[:3], rng.randbytes(60))
        )
    size = len(raw)
    if rare > 0.9999:
        size = max(size, rng.choice((size + 1, 1_000_000, MOST_BYTES, MOST_BYTES + 1, 10**8, 10**12)))
    return raw, size


# --- Checking --------------------------------------------------------------------------------------------------------


class Unequal(Exception):
    """A promise that the parser did not keep."""


def must(holds: bool, what: str) -> None:
    if not holds:
        raise Unequal(what)


def check_file(
    path: Path, number: int, raw: bytes, size: int, strict: bool, tally: Counter[str]
) -> FrameQuestions | None:
    """Reads a file and holds what comes out against the twin.

    Raises:
        Unequal: something differs.
    """
    expected = twin(raw, size)
    report = ReadReport()
    frame = read_file(path, VIDEO, number, report)
    questions = frame.questions if frame else ()
    got = [(q.line, q.question, q.answer, q.label, q.reasoning, q.type) for q in questions]
    must(got == expected.questions, f"questions {got[:3]}..., not {expected.questions[:3]}...")
    must((frame is None) == (not got), "a frame without a question")
    must(
        frame is None or all((q.video, q.frame) == (VIDEO, number) for q in (frame, *questions)), "another frame's name"
    )
    skipped = Counter(reason for reason, _, _ in expected.reasons)
    must(dict(report.skipped) == dict(skipped), f"skipped {dict(report.skipped)}, not {dict(skipped)}")
    left_out = sum(report.skipped[reason] for reason in LINE_REASONS)
    must(report.files == 1 and report.questions == len(got), "files or questions counted wrongly")
    must(report.lines == len(got) + left_out, f"{report.lines} lines, {len(got)} questions, {left_out} left out")
    examples: dict[str, list[str]] = {}
    for reason, line, text in expected.reasons:
        shown = examples.setdefault(reason, [])
        if len(shown) < 5:
            shown.append(f"{path}:{line}: {text}"[:300] if line else str(path))
    must(examples.keys() == report.examples.keys(), "examples of other reasons")
    for reason, shown in examples.items():
        same = (
            report.examples[reason] == shown
            if reason in LINE_REASONS
            else report.examples[reason][0].startswith(shown[0])
        )
        must(same, f"{reason} examples {report.examples[reason]}, not {shown}")
    for line, question, answer, label, _, _ in got:
        must(SPELLED[answer] == label, f"label {label} of the answer {answer!r}")
        text = expected.texts[line - 1]
        must(question in text and answer in text, f"line {line} does not hold its question")
    told = report.to_dict()
    must(json.loads(json.dumps(told, allow_nan=False)) == told, "the report does not go through JSON")
    tally.update(skipped)
    tally.update({"files": 1, "bytes": len(raw), "lines": report.lines, "questions": len(got)})
    if strict:
        tally["files read strictly"] += 1
        first = next((f"{path}:{n}" if n else str(path) for r, n, _ in expected.reasons if r in STRICT_FAULTS), None)
        try:
            again = read_file(path, VIDEO, number, ReadReport(), strict=True)
        except InputError as error:
            sentence = str(error)
            must(first is not None, f"strict refuses a file in order: {sentence}")
            must(f"{first} " in sentence and "\n" not in sentence, f"strict says {sentence!r}, not {first}")
        else:
            must(first is None and again == frame, f"strict lets {first} pass")
    return frame


def check_columns(root: Path, numbers: Iterable[int], through_file: bool) -> None:
    """Holds the Arrow columns of the folder's files, or a whole index file of them, against the plain reader.

    Raises:
        Unequal: a frame or the report differs.
    """
    expected, frames = ReadReport(), []
    for number in sorted(numbers):
        frame = read_file(root / VIDEO / f"{number}.txt", VIDEO, number, expected)
        frames += [frame] if frame else []
    if through_file:
        found, report = open_questions(root, [VIDEO], index_dir=root / "index")
        got = list(found)
        must(len(list((root / "index").glob("*.arrow"))) == 1, "no index file")
        found.checksum()
    else:
        columns = VideoColumns(parse_video(root, VIDEO, None), root)
        got, report = [columns.frame(row) for row in range(len(columns.numbers))], columns.report()
    must(got == frames, "the index gives other frames")
    must(report == expected, f"the index reports {report}, not {expected}")


def check_batch(
    root: Path, seed: int, numbers: Sequence[int], pool: Sequence[str], index: str, tally: Counter[str]
) -> list[tuple[int, bytes, str]]:
    """Makes and checks some files in a folder; gives the failures as (number, bytes, what was wrong).

    ``index`` is ``""``, ``"columns"`` or ``"file"``: whether and how far they go through the index.
    """
    folder, rng, failures = root / VIDEO, random.Random(), []
    folder.mkdir(parents=True)
    made = {}
    for number in numbers:
        raw, size = make(rng, seed, number, pool)
        made[number] = raw
        path = folder / f"{number}.txt"
        path.write_bytes(raw)
        if size > len(raw):
            os.truncate(path, size)
        try:
            check_file(path, number, raw, size, number % STRICT_EVERY == 0, tally)
        except Exception as error:
            failures.append((number, raw, told(error)))
    if index:
        tally["files through columns" if index == "columns" else "files through an index file"] += len(numbers)
        try:
            check_columns(root, numbers, index == "file")
        except Exception as error:
            # Which one? Each alone; where none fails alone, the first stands for the batch.
            guilty, what = numbers[0], f"{told(error)} (files {numbers[0]} to {numbers[-1]} together)"
            for number in numbers if len(numbers) > 1 else ():
                alone = root / "alone"
                (alone / VIDEO).mkdir(parents=True)
                (folder / f"{number}.txt").rename(alone / VIDEO / f"{number}.txt")
                try:
                    check_columns(alone, [number], index == "file")
                except Exception as single:
                    guilty, what = number, told(single)
                    break
                finally:
                    shutil.rmtree(alone)
            failures.append((guilty, made[guilty], what))
    shutil.rmtree(root)
    return failures


def told(error: Exception) -> str:
    """What went wrong, with the place of an error that nobody raised on purpose."""
    if isinstance(error, Unequal):
        return str(error)[:500]
    last = traceback.extract_tb(error.__traceback__)[-1]
    return f"{type(error).__name__}: {str(error)[:300]} ({Path(last.filename).name}:{last.lineno})"


def check_some(
    seed: int, start: int, stop: int, pool: Sequence[str], index: str | None = None
) -> tuple[Counter[str], list[tuple[int, bytes, str]]]:
    """Makes and checks files ``start`` to ``stop``; ``index`` (see ``check_batch``) instead of each batch's own way."""
    tally, failures = Counter[str](), []
    memory = Path("/dev/shm")
    with tempfile.TemporaryDirectory(prefix="fuzz-", dir=memory if os.access(memory, os.W_OK) else None) as name:
        for first in range(start, stop, BATCH):
            batch = first // BATCH
            own = "file" if batch % INDEX_EVERY == 1 else "columns" if batch % COLUMNS_EVERY == 0 else ""
            numbers = range(first, min(first + BATCH, stop))
            failures += check_batch(Path(name) / "ssg-qa", seed, numbers, pool, own if index is None else index, tally)
    return tally, failures


def fuzz(
    files: int, seed: int, pool: Sequence[str], processes: int = 1, console: Console | None = None
) -> tuple[Counter[str], list[tuple[int, bytes, str]]]:
    """Checks that many files in several processes; shows how far it is where ``console`` is a terminal."""
    tally, failures = Counter[str](), []
    step = 20 * BATCH
    parts = [(seed, start, min(start + step, files), pool) for start in range(0, files, step)]
    columns = (
        TextColumn("fuzz"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[bad]} bad"),
    )
    with Progress(*columns, console=console, disable=console is None or not console.is_terminal) as progress:
        task = progress.add_task("fuzz", total=files, bad=0)

        def count(part: tuple[Counter[str], list[tuple[int, bytes, str]]]) -> None:
            tally.update(part[0])
            failures.extend(part[1])
            progress.update(task, completed=tally["files"], bad=len(failures))

        if processes == 1:
            for part in parts:
                count(check_some(*part))
        else:
            with ProcessPoolExecutor(processes) as workers:
                for done in as_completed([workers.submit(check_some, *part) for part in parts]):
                    count(done.result())
    return tally, sorted(failures)


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the test."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--files", type=int, default=1_000_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--lines", type=Path, help="folder of question files whose lines are mutated too")
    parser.add_argument("--processes", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--keep", type=Path, default=Path("runs/fuzz"), help="where failing files are left")
    parser.add_argument("--only", type=int, help="make and check this one file")
    options = parser.parse_args(arguments)
    pool = made_lines()
    if options.lines:
        real = lines_of(options.lines)
        if not real:
            parser.error(f"--lines {options.lines} holds no line of a question file.")
        pool += real
    started = time.monotonic()
    if options.only is not None:
        tally, failures = Counter[str](), []
        for index in ("columns", "file"):
            some, bad = check_some(options.seed, options.only, options.only + 1, pool, index)
            tally, failures = some, failures + bad
    else:
        tally, failures = fuzz(options.files, options.seed, pool, options.processes, Console(stderr=True))
    seconds = time.monotonic() - started
    again = f"python tools/fuzz_parser.py --seed {options.seed}" + (
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
