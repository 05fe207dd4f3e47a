"""Runs the comparisons of docs/experiments.md: one row per setting, three seeds each.

    python -m experiments.run [--out runs/experiments] [--only mask,clip] [--seeds 3] [--jobs 2]
    python -m experiments.run --table            # the rows so far, as in docs/experiments.md

The same command resumes a stopped run: each finished run is a line of OUT/results.jsonl. A run fine-tunes the packaged
base with LoRA on the quickstart's synthetic set (with the quickstart's flags unless the row changes them) and evaluates
it on the test videos. ``--jobs`` runs are parallel, one thread each.
"""

import argparse
import atexit
import contextlib
import fcntl
import json
import os
import shutil
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from PIL import Image

from experiments.accuracy import accuracy_by_kind
from experiments.build_base.package_files import weights_sha256
from experiments.rows import ROWS, STEPS, Row
from surgvivqa.checkpoints.packaged import PACKAGED_BASE
from surgvivqa.data.index import subsample
from surgvivqa.data.labels import LABELS
from surgvivqa.data.splits import load_splits
from surgvivqa.data.ssgqa import read_split
from surgvivqa.data.vocabulary import HEIGHT, WIDTH
from surgvivqa.evaluation.baselines import LabelledQuestions, predict_from_text
from surgvivqa.utils.atomic_files import atomic_path

ROOT = Path(__file__).resolve().parents[1]
REAL = ROOT.parent / "shared" / "data" / "real"
BATCH, SCORED = 52, 3000


class Experiments:
    """The runs, their folders and the results file."""

    def __init__(self, out: Path) -> None:
        self.out = out.resolve()
        self.results = self.out / "results.jsonl"
        # Results are comparable only for the same base, number of steps and number of questions.
        self.of = f"base {weights_sha256(PACKAGED_BASE)[:12]}, {STEPS} steps of {BATCH}, {SCORED} scored"
        self.children: list[subprocess.Popen[str]] = []

    def done(self) -> dict[tuple[str, int], dict[str, Any]]:
        """Finished runs by row and seed."""
        found = {}
        text = self.results.read_text(encoding="utf-8") if self.results.is_file() else ""
        for line in text.splitlines():
            with contextlib.suppress(json.JSONDecodeError):  # an incomplete line of a killed run
                record = json.loads(line)
                if record["of"] == self.of:
                    found[record["row"], record["seed"]] = record
        return found

    def roots(self, data: str) -> list[str]:
        """The flags that name the data."""
        if data in ("real", "black"):
            splits = self.out / "real-splits"
            splits.mkdir(exist_ok=True)
            for name, videos in (("train", ["VID68", "VID70", "VID73"]), ("val", []), ("test", ["VID75"])):
                (splits / f"{name}_videos.json").write_text(json.dumps(videos), encoding="utf-8")
            frames = REAL / "frames" if data == "real" else self.black_frames()
            return ["--ssgvqa-root", f"{REAL}/ssg-qa", "--image-root", str(frames), "--splits-dir", str(splits)]
        return ["--ssgvqa-root", f"{self.out}/data/ssg-qa", "--image-root", f"{self.out}/data/frames"]

    def black_frames(self) -> Path:
        """A folder with a black frame under the name of each real frame."""
        folder = self.out / "black-frames"
        for frame in REAL.glob("frames/*/*.png"):
            black = folder / frame.parent.name / frame.name
            if not black.is_file():
                black.parent.mkdir(parents=True, exist_ok=True)
                with atomic_path(black, durable=False, shared=True) as temporary:
                    Image.new("RGB", (WIDTH, HEIGHT)).save(temporary, "PNG")
        return folder

    def graphs(self, data: str) -> Path | None:
        """The folder of scene graphs; the real frames have no complete set."""
        return self.out / "data" / "scene_graph" if data == "synthetic" else None

    def prepare(self) -> None:
        """Writes the quickstart's synthetic set, unless it exists."""
        self.command("synth", "--out", str(self.out / "data"), threads=2)

    def command(self, *arguments: str, threads: int = 1, log: Path | None = None) -> None:
        """Runs a command of the package; its output goes to ``log``.

        Raises:
            RuntimeError: the command failed.
        """
        env = os.environ | {"OMP_NUM_THREADS": str(threads), "SURGVIVQA_CACHE": str(self.out / "index")}
        child = subprocess.Popen(
            [sys.executable, "-m", "surgvivqa", *arguments],
            env=env,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        self.children.append(child)
        output = child.communicate()[0]
        self.children.remove(child)
        if log is not None:
            with log.open("a", encoding="utf-8") as file:
                file.write(f"$ surgvivqa {' '.join(arguments)}\n{output}\n")
        if child.returncode:
            raise RuntimeError(
                f"surgvivqa {' '.join(arguments)} failed with exit code {child.returncode}: {output[-400:]}"
            )

    def end_children(self) -> None:
        """Terminates running commands, so that none writes beside a later start."""
        for child in list(self.children):
            child.terminate()

    def run_row(self, row: Row, seed: int) -> None:
        """Trains and evaluates one run, and writes its line."""
        started = time.monotonic()
        source = next(r for r in ROWS if r.key == row.same_as) if row.same_as else row
        folder, log = self.folder(source, seed), self.out / "log.txt"
        if not self.is_trained(source, seed):
            shutil.rmtree(folder, ignore_errors=True)
            self.command("train", *self.train_flags(source, seed, folder), log=log)
        scored = self.out / "scored" / f"{row.key} {seed}".replace("/", "-").replace(" ", "-")
        some = ["--max-samples", str(SCORED), "--workers", "0", "--check-samples", "0"]
        some += [*self.cache_flags(source), *row.eval]
        self.command("eval", "--checkpoint", str(folder), "--output", str(scored), *some, log=log)
        figures = accuracy_by_kind(scored / "predictions.jsonl", self.graphs(row.data))
        line = {"row": row.key, "seed": seed, "of": self.of, **figures}
        line["seconds"] = round(time.monotonic() - started)
        with self.results.open("a", encoding="utf-8") as file:
            file.write("\n" * self.ends_mid_line() + json.dumps(line) + "\n")
        print(json.dumps(line), flush=True)

    def ends_mid_line(self) -> bool:
        """Whether the results end in an incomplete line."""
        return self.results.is_file() and not (b"\n" + self.results.read_bytes()).endswith(b"\n")

    def folder(self, row: Row, seed: int) -> Path:
        """A run's folder, one per base, number of steps, row and seed."""
        name = f"{row.key} {seed} {self.of}"
        return self.out / "runs" / "".join(c if c.isalnum() else "-" for c in name)

    def is_trained(self, row: Row, seed: int) -> bool:
        """Whether the run's model exists."""
        return (self.folder(row, seed) / "best_model.pth").is_file()

    def train_flags(self, row: Row, seed: int, folder: Path) -> list[str]:
        """The flags of a row's training run."""
        return [
            *("--preset", "tiny", "--batch-size", str(BATCH), "--questions-per-frame", str(row.per_frame)),
            *("--lr", row.lr, "--max-steps", str(row.steps), "--eval-every-steps", "0", "--save-every-steps", "0"),
            *("--workers", "0", "--val-max-samples", "200", "--seed", str(seed), "--checkpoint-dir", str(folder)),
            *self.cache_flags(row),
            *self.roots(row.data),
            *row.train,
        ]

    def cache_flags(self, row: Row) -> list[str]:
        """The flags of the cache: one per data set, since data sets share video names."""
        return ["--cache", str(self.out / f"cache-{row.data}")] if row.cache else []

    def baselines(self) -> Iterator[tuple[str, dict[str, float]]]:
        """Evaluates the question-only model on the test videos of both data sets."""
        for name in ("synthetic", "real"):
            if name == "real" and not REAL.is_dir():
                continue
            flags = self.roots(name)
            splits = load_splits(Path(flags[5]) if name == "real" else None)
            train, test = (read_split(Path(flags[1]), splits.videos(s))[0] for s in ("train", "test"))
            questions = [q for f in subsample(test, SCORED) for q in f.questions]  # as the rows
            guesses = predict_from_text(LabelledQuestions.of_frames(train), [q.question for q in questions])
            path = self.out / f"question-only-{name}.jsonl"
            with path.open("w", encoding="utf-8") as file:
                for q, guess in zip(questions, guesses, strict=True):
                    asked = {"video": q.video, "frame": q.frame, "question": q.question, "type": q.type}
                    said = {"answer": LABELS[q.label], "prediction": LABELS[guess]}
                    file.write(json.dumps(asked | said) + "\n")
            yield name, accuracy_by_kind(path, self.graphs(name))


def results_table(done: dict[tuple[str, int], dict[str, Any]]) -> list[str]:
    """A Markdown table: mean and standard deviation over seeds."""
    kinds = ("all", "existence", "counting", "colour", "object", "verb", "sides", "edge")
    lines = [f"| row | {' | '.join(kinds)} | runs |", "| --- " * (len(kinds) + 2) + "|"]
    for row in ROWS:
        runs = [r for (key, _), r in sorted(done.items()) if key == row.key]
        if runs:
            cells = []
            for kind in kinds:
                values = [r[kind] for r in runs if r.get(kind, float("nan")) == r.get(kind)]
                deviation = f" ± {statistics.stdev(values):.1f}" if len(values) > 1 else ""
                cells.append(f"{statistics.mean(values):.1f}{deviation}" if values else "")
            lines.append(f"| {row.group}: {row.name} | {' | '.join(cells)} | {len(runs)} |")
    return lines


def main() -> int:
    """Runs what is missing; seeds are the outer loop, so that a stopped run leaves complete comparisons."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs/experiments"))
    parser.add_argument("--only", help="groups, comma-separated")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--table", action="store_true", help="print the rows so far and stop")
    options = parser.parse_args()
    work = Experiments(options.out)
    if options.table:
        print("\n".join(results_table(work.done())))
        return 0
    work.out.mkdir(parents=True, exist_ok=True)
    work.prepare()
    for name, figures in work.baselines():
        print(f"question-only, {name}: {json.dumps({k: round(v, 1) for k, v in figures.items()})}", flush=True)
    groups = options.only.split(",") if options.only else None
    unknown = set(groups or ()) - {r.group for r in ROWS}
    if unknown:
        parser.error(f"--only accepts {', '.join(dict.fromkeys(r.group for r in ROWS))}; not {', '.join(unknown)}")
    lock = (work.out / "lock").open("w")
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        parser.error(f"another process is running in {work.out}")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(75))
    atexit.register(work.end_children)
    asked = [r for r in ROWS if groups is None or r.group in groups]
    needed = {r.key for r in asked} | {r.same_as for r in asked}
    rows = [r for r in ROWS if r.key in needed and (r.data != "real" or REAL.is_dir())]
    for seed in range(options.seeds):
        missing = [r for r in rows if (r.key, seed) not in work.done()]
        sources = {r.same_as or r.key for r in missing}
        trained = [r for r in ROWS if r.key in sources and (r in missing or not work.is_trained(r, seed))]
        for part in (trained, [r for r in missing if r.same_as]):
            with ThreadPoolExecutor(options.jobs) as pool:
                list(pool.map(lambda r, s=seed: work.run_row(r, s), part))
    print("\n".join(results_table(work.done())))
    return 0


if __name__ == "__main__":
    sys.exit(main())
