"""The question index against plain reading, on generated question files of SSG-QA's size: time, and memory of workers.

    python -m benchmarks.index --frames 25000 --questions 39 --out /tmp/x [--json figures.json]

Every measurement runs in a process of its own; times exclude Python's start and imports. The files and the index stay
in ``--out``; files of the same size are reused.
"""

import argparse
import json
import os
import random
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import psutil
from torch.utils.data import DataLoader, Dataset

from surgvivqa.data.index import _scan, open_questions
from surgvivqa.data.ssgqa import read_split

VIDEOS = [f"VID{i:02d}" for i in range(1, 41)]
COLOURS = ["red", "brown", "white", "yellow", "blue", "silver"]
THINGS = [
    "gallbladder",
    "liver",
    "omentum",
    "cystic_plate",
    "cystic_duct",
    "gut",
    "hook",
    "grasper",
    "bipolar",
    "clipper",
]
PLACES = [f"{row}-{column}" for row in ("top", "bottom") for column in ("left", "mid", "right")]
SIDES = ["to the left of", "to the right of", "above", "below", "within"]
KINDS = ["anatomy", "instrument", "object", "thing"]
TEMPLATES = [
    ("What is the action being performed on {t}?", "dissect", ""),
    ("Which tool is operating on {t}", "grasper", ""),
    ("What anatomy is at the {p} of the frame ?", "cystic_plate", "|[157.0, 60.0]"),
    ("How many {p} {k}s are there?", "1", "|zero_hop.json|count|NA"),
    ("What number of {t} objects are {s} the {c} {k}?", "0", "|one_hop.json|count|relate_spatial"),
    ("Are there any {p} {k}s {s} the {c} {t} {k}?", "True", "|one_hop.json|exist|relate_spatial"),
    ("The {k} {s} the {c} {p} {k} is what color?", "red", "|one_hop.json|query_color|relate_spatial"),
    ("What type is the {c} thing {s} the {p} {t} {k}?", "instrument", "|one_hop.json|query_type|relate_spatial"),
    ("There is a {k} that is {s} the {c} {t} and within the {t} object?; what name is it?", "omentum",
     "|single_and.json|query_component|NA"),
]  # fmt: skip


def make_tree(root: Path, frames: int, questions: int) -> None:
    """Writes files of two summary lines and ``questions`` questions; frames are distributed over the videos."""
    rng = random.Random(0)
    for video in VIDEOS:
        (root / video).mkdir(parents=True)
    for index in range(frames):
        lines = ["Which anatomical structures are present?|liver, omentum", "Which tools are present?|hook"]
        for _ in range(questions):
            question, answer, rest = rng.choice(TEMPLATES)
            slots = {"t": THINGS, "p": PLACES, "s": SIDES, "c": COLOURS, "k": KINDS}
            lines.append(question.format(**{k: rng.choice(v) for k, v in slots.items()}) + f"|{answer}{rest}")
        path = root / VIDEOS[index % len(VIDEOS)] / f"{index // len(VIDEOS) + 1}.txt"
        path.write_text("\n".join(lines), encoding="utf-8")


def timed(work: Callable[[], Any]) -> tuple[float, Any]:
    """Seconds of a call, and its result."""
    started = time.perf_counter()
    result = work()
    return time.perf_counter() - started, result


def megabytes(kind: str, process: int | str = "self") -> float:
    """``Rss`` or ``Pss`` of a process in MB (10^6 bytes)."""
    for line in Path(f"/proc/{process}/smaps_rollup").read_text().splitlines():
        if line.startswith(f"{kind}:"):
            return int(line.split()[1]) * 1024 / 1e6
    return 0.0


class QuestionCounts(Dataset[int]):
    """A data set whose item is a frame's number of questions; every question is built."""

    def __init__(self, frames: Sequence[Any]) -> None:
        self.frames = frames

    def __len__(self) -> int:
        return len(self.frames)

    def __getitem__(self, index: int) -> int:
        return sum(len(q.question) > 0 for q in self.frames[index].questions)


def walk(frames: Sequence[Any], method: str | None) -> dict[str, float]:
    """Peak memory of five processes while four workers read all frames; PSS counts shared pages once."""
    batches: Any = DataLoader(
        QuestionCounts(frames), batch_size=50, num_workers=4, persistent_workers=True, multiprocessing_context=method
    )
    highest: dict[str, float] = {"pss_mb": 0.0, "rss_mb": 0.0}
    questions = 0
    started = time.perf_counter()
    for index, batch in enumerate(batches):
        questions += int(batch.sum())
        if index % 50 == 0 or index == len(batches) - 1:
            processes = [os.getpid(), *(child.pid for child in psutil.Process().children())]
            highest["pss_mb"] = max(highest["pss_mb"], sum(megabytes("Pss", p) for p in processes))
            highest["rss_mb"] = max(highest["rss_mb"], *(megabytes("Rss", p) for p in processes))
    return {**highest, "questions": questions, "seconds": time.perf_counter() - started}


def phases(out: Path) -> Iterator[tuple[str, Callable[[], dict[str, float]]]]:
    """The measurements by name."""
    root, index_dir = out / "ssg-qa", out / "index"

    def plain() -> dict[str, float]:
        before = megabytes("Rss")
        seconds, (frames, _) = timed(lambda: read_split(root, VIDEOS))
        distinct, _ = timed(lambda: {q.question for f in frames for q in f.questions})
        return {"seconds": seconds, "rss_grown_mb": megabytes("Rss") - before, "distinct_seconds": distinct}

    def build() -> dict[str, float]:
        for old in index_dir.glob("*.arrow"):
            old.unlink()
        seconds, _ = timed(lambda: open_questions(root, VIDEOS, index_dir=index_dir))
        return {"seconds": seconds, "file_mb": sum(f.stat().st_size for f in index_dir.iterdir()) / 1e6}

    def opened() -> dict[str, float]:
        before = megabytes("Rss")
        seconds, (frames, report) = timed(lambda: open_questions(root, VIDEOS, index_dir=index_dir))
        grown = megabytes("Rss") - before
        rng = random.Random(0)
        chosen = [rng.randrange(len(frames)) for _ in range(2000)]
        result = {
            "seconds": seconds,
            "of_it_stat_seconds": timed(lambda: [_scan(root / v) for v in VIDEOS])[0],
            "rss_grown_mb": grown,
            "questions": report.questions,
            "counts_seconds": timed(lambda: frames.counts)[0],
            "access_2000_seconds": timed(lambda: [frames[i] for i in chosen])[0],
            "all_frames_seconds": timed(lambda: sum(1 for _ in frames))[0],
        }
        distinct, questions = timed(frames.unique_questions)
        return result | {"distinct_seconds": distinct, "distinct": len(questions)}

    yield "plain reading", plain
    yield "index, building", build
    yield "index, opening", opened
    yield "4 workers, no data", lambda: walk(open_questions(root, VIDEOS, index_dir=index_dir)[0][:50], None)
    yield "4 workers, index", lambda: walk(open_questions(root, VIDEOS, index_dir=index_dir)[0], None)
    yield "4 workers, index, spawn", lambda: walk(open_questions(root, VIDEOS, index_dir=index_dir)[0], "spawn")
    yield "4 workers, plain list", lambda: walk(read_split(root, VIDEOS)[0], None)


def main() -> None:
    """Writes the files, runs each measurement in a new process, prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--frames", type=int, default=25_000)
    parser.add_argument("--questions", type=int, default=39, help="per frame")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--phase", help=argparse.SUPPRESS)
    options = parser.parse_args()
    out = options.out / f"{options.frames}x{options.questions}"
    if options.phase:
        print(json.dumps(dict(phases(out))[options.phase]()))
        return
    if not (out / "made").exists():
        make_tree(out / "ssg-qa", options.frames, options.questions)
        (out / "made").touch()
        time.sleep(2.5)  # the index rereads files modified in the last two seconds
    figures = {}
    for name, _ in phases(out):
        command = [sys.executable, "-m", "benchmarks.index", *sys.argv[1:], "--phase", name]
        figures[name] = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
        values = "  ".join(f"{key} {value:,.3f}".removesuffix(".000") for key, value in figures[name].items())
        print(f"{name:<24} {values}", flush=True)
    if options.json:
        options.json.write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
