"""What cannot be measured on the licensed data here, measured on the synthetic set: one row a choice, three seeds each.

    python -m experiments.run [--out runs/experiments] [--only mask,clip] [--seeds 3] [--jobs 2]
    python -m experiments.run --table            # the rows so far, as in docs/experiments.md

Run again, it goes on where it was stopped: each finished run is a line of OUT/results.jsonl. A run trains the packaged
base with LoRA alone on the quickstart's synthetic set (its default flags unless the row says otherwise) and scores
questions of the test videos. ``--jobs`` runs go side by side, one thread each.
"""

import argparse
import atexit
import contextlib
import fcntl
import json
import os
import re
import shutil
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from PIL import Image

from experiments.build_base.package_files import weights_sha256
from surgvivqa.checkpoints.loading import PACKAGED_BASE
from surgvivqa.synthetic.scene import HEIGHT, WIDTH
from surgvivqa.utils.atomic_files import atomic_path

ROOT = Path(__file__).resolve().parents[1]
REAL = ROOT.parent / "shared" / "data" / "real"
STEPS, BATCH, SCORED = 500, 52, 3000
VERBS = ("aspirate", "clip", "coagulate", "cut", "dissect", "grasp", "irrigate", "pack", "retract")


@dataclass(frozen=True)
class Row:
    """One choice: flags of train and of eval that differ from the default, and the data it runs on."""

    group: str
    name: str
    train: tuple[str, ...] = ()
    eval: tuple[str, ...] = ()
    cache: bool = True
    per_frame: int = 13
    lr: str = "2e-3"
    data: str = "synthetic"
    steps: int = STEPS
    same_as: str | None = field(default=None)  # a row whose trained model is scored again

    @property
    def key(self) -> str:
        """Its name in results.jsonl."""
        return f"{self.group}/{self.name}"


ROWS = (
    Row("mask", "prefix"),
    Row("mask", "causal", ("--mask", "causal")),
    Row("mask", "bidirectional (the answer leaks)", ("--mask", "bidirectional")),
    Row("scoring", "sum", same_as="mask/prefix"),
    Row("scoring", "mean", eval=("--score-norm", "mean"), same_as="mask/prefix"),
    Row("frame fit", "squash", same_as="mask/prefix"),
    Row("frame fit", "crop", ("--frame-fit", "crop")),
    Row("frame fit", "pad", ("--frame-fit", "pad")),
    Row("clip", "repeat", same_as="mask/prefix"),
    Row("clip", "past", ("--clip-mode", "past")),
    Row("questions per frame", "1", per_frame=1),
    Row("questions per frame", "4", per_frame=4),
    Row("questions per frame", "16", per_frame=16),
    Row("questions per frame", "39", per_frame=39),
    Row("prompt", "simple", same_as="mask/prefix"),
    Row("prompt", "choices", ("--prompt-mode", "choices", "--max-length", "256")),
    Row("LoRA rank", "2", ("--lora-r", "2", "--lora-alpha", "8")),
    Row("LoRA rank", "8", same_as="mask/prefix"),
    Row("LoRA rank", "32", ("--lora-r", "32", "--lora-alpha", "128")),
    Row("what trains", "LoRA", same_as="mask/prefix"),
    Row("what trains", "LoRA (rate 1e-3)", lr="1e-3"),
    Row("what trains", "LoRA (rate 3e-4)", lr="3e-4"),
    Row("what trains", "LoRA, patch embedding (tokens not cached)", ("--train-video", "patch-embed"), cache=False),
    Row("what trains", "LoRA, last BLIP layer (rate 1e-3)", ("--unfreeze-blip-last-n", "1"), lr="1e-3"),
    Row("what trains", "BLIP and GPT-2, no LoRA (rate 3e-4)", ("--full-finetune", "--train-blip"), lr="3e-4"),
    *(
        Row("real frames", name + blind, flags, lr=rate, data=data, per_frame=15, steps=steps)
        for name, flags, rate, steps in (
            ("LoRA", (), "2e-3", 200),
            ("BLIP and GPT-2, no LoRA (rate 3e-4)", ("--full-finetune", "--train-blip"), "3e-4", 400),
        )
        # Black pictures with the same names: what a model of the same kind gets from the questions alone.
        for blind, data in (("", "real"), (", black pictures", "black"))
    ),
)


def names_what_is_cut_away(record: dict[str, Any], graphs: Path) -> bool:
    """Whether a question, or its answer, names an object of the frame that centre-cropping to a square would lose: its
    centre lies beyond the square, as do those of all objects of that name.
    """
    path = graphs / f"{record['video']}_{record['frame']}.json"
    if not path.is_file():
        return False
    said = f"{record['question']} {record['answer']}".replace("_", " ")
    centres: dict[str, list[float]] = {}
    for item in json.loads(path.read_text(encoding="utf-8"))["scenes"][0]["objects"]:
        centres.setdefault(item["component"].replace("_", " "), []).append(item["center"][0])
    return any(
        re.search(rf"\b{name}\b", said) and all(abs(x - WIDTH / 2) > HEIGHT / 2 for x in places)
        for name, places in centres.items()
    )


def measured(predictions: Path, graphs: Path | None) -> dict[str, float]:
    """Accuracy in all, by type, on verbs, and on what lies at the sides, in per cent."""
    records = [json.loads(line) for line in predictions.read_text(encoding="utf-8").splitlines()]
    kinds: dict[str, Callable[[dict[str, Any]], bool]] = {
        "all": lambda r: True,
        "existence": lambda r: r["type"] == "exist",
        "counting": lambda r: r["type"] == "count",
        "colour": lambda r: r["type"] == "query_color",
        "object": lambda r: r["type"] == "query_component",
        "verb": lambda r: r["type"] is None and r["answer"] in VERBS,
        "sides": lambda r: "-left" in r["question"] or "-right" in r["question"],
        "edge": lambda r: graphs is not None and names_what_is_cut_away(r, graphs),
    }
    figures = {}
    for name, of in kinds.items():
        hits = [r["answer"].lower() == r["prediction"].lower() for r in records if of(r)]
        figures[name] = 100 * sum(hits) / len(hits) if hits else float("nan")
    return figures


class Experiments:
    """The runs: their folders, and the results file."""

    def __init__(self, out: Path) -> None:
        self.out = out.resolve()
        self.results = self.out / "results.jsonl"
        # What makes results comparable: another base, length or number of questions, and they are not.
        self.of = f"base {weights_sha256(PACKAGED_BASE)[:12]}, {STEPS} steps of {BATCH}, {SCORED} scored"
        self.children: list[subprocess.Popen[str]] = []

    def done(self) -> dict[tuple[str, int], dict[str, Any]]:
        """Finished runs by row and seed."""
        found = {}
        text = self.results.read_text(encoding="utf-8") if self.results.is_file() else ""
        for line in text.splitlines():
            with contextlib.suppress(json.JSONDecodeError):  # a line cut off when the script was killed
                record = json.loads(line)
                if record["of"] == self.of:
                    found[record["row"], record["seed"]] = record
        return found

    def roots(self, data: str) -> list[str]:
        """Flags that name the data."""
        if data in ("real", "black"):
            splits = self.out / "real-splits"
            splits.mkdir(exist_ok=True)
            for name, videos in (("train", ["VID68", "VID70", "VID73"]), ("val", []), ("test", ["VID75"])):
                (splits / f"{name}_videos.json").write_text(json.dumps(videos), encoding="utf-8")
            frames = REAL / "frames" if data == "real" else self.black_frames()
            return ["--ssgvqa-root", f"{REAL}/ssg-qa", "--image-root", str(frames), "--splits-dir", str(splits)]
        return ["--ssgvqa-root", f"{self.out}/data/ssg-qa", "--image-root", f"{self.out}/data/frames"]

    def black_frames(self) -> Path:
        """A folder with a black picture in the place of each real frame."""
        folder = self.out / "black-frames"
        for frame in REAL.glob("frames/*/*.png"):
            black = folder / frame.parent.name / frame.name
            if not black.is_file():
                black.parent.mkdir(parents=True, exist_ok=True)
                with atomic_path(black, durable=False, shared=True) as temporary:
                    Image.new("RGB", (WIDTH, HEIGHT)).save(temporary, "PNG")
        return folder

    def graphs(self, data: str) -> Path | None:
        """Where the scene graphs lie that say what is at the frame's sides; the real frames have no whole set."""
        return self.out / "data" / "scene_graph" if data == "synthetic" else None

    def prepare(self) -> None:
        """The quickstart's synthetic set."""
        self.command("synth", "--out", str(self.out / "data"), threads=2)  # at once where it is there already

    def command(self, *arguments: str, threads: int = 1, log: Path | None = None) -> None:
        """One of the project's commands; its output goes to ``log``.

        Raises:
            RuntimeError: it failed.
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
        said = child.communicate()[0]
        self.children.remove(child)
        if log is not None:
            with log.open("a", encoding="utf-8") as file:
                file.write(f"$ surgvivqa {' '.join(arguments)}\n{said}\n")
        if child.returncode:
            raise RuntimeError(f"surgvivqa {' '.join(arguments)} ended with {child.returncode}: {said[-400:]}")

    def end_children(self) -> None:
        """Ends the commands that are running, so that none goes on writing beside a later start."""
        for child in list(self.children):
            child.terminate()

    def one(self, row: Row, seed: int) -> None:
        """Trains and scores one run, and writes its line."""
        started = time.monotonic()
        source = next(r for r in ROWS if r.key == row.same_as) if row.same_as else row
        folder, log = self.folder(source, seed), self.out / "log.txt"
        if not self.is_trained(source, seed):
            shutil.rmtree(folder, ignore_errors=True)
            self.command("train", *self.train_flags(source, seed, folder), log=log)
        scored = self.out / "scored" / f"{row.key} {seed}".replace("/", "-").replace(" ", "-")
        some = ["--max-samples", str(SCORED), "--workers", "0", *self.cache_flags(source), *row.eval]
        self.command("eval", "--checkpoint", str(folder), "--output", str(scored), *some, log=log)
        figures = measured(scored / "predictions.jsonl", self.graphs(row.data))
        line = {"row": row.key, "seed": seed, "of": self.of, **figures}
        line["seconds"] = round(time.monotonic() - started)
        with self.results.open("a", encoding="utf-8") as file:
            file.write("\n" * self.cut_off() + json.dumps(line) + "\n")
        print(json.dumps(line), flush=True)

    def cut_off(self) -> bool:
        """Whether the results end in the middle of a line."""
        return self.results.is_file() and not (b"\n" + self.results.read_bytes()).endswith(b"\n")

    def folder(self, row: Row, seed: int) -> Path:
        """A run's folder: one for each base, length, row and seed."""
        name = f"{row.key} {seed} {self.of}"
        return self.out / "runs" / "".join(c if c.isalnum() else "-" for c in name)

    def is_trained(self, row: Row, seed: int) -> bool:
        """Whether the run's model is there."""
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
        """A cache for each data set: they share names of videos."""
        return ["--cache", str(self.out / f"cache-{row.data}")] if row.cache else []

    def baselines(self) -> Iterator[tuple[str, dict[str, float]]]:
        """The question-only model on both data sets, on the test videos."""
        from surgvivqa.data.index import subsample
        from surgvivqa.data.labels import LABELS
        from surgvivqa.data.splits import load_splits
        from surgvivqa.data.ssgqa import read_split
        from surgvivqa.evaluation.baselines import question_only_baseline

        for name in ("synthetic", "real"):
            if name == "real" and not REAL.is_dir():
                continue
            flags = self.roots(name)
            splits = load_splits(Path(flags[5]) if name == "real" else None)
            train, test = (read_split(Path(flags[1]), splits.videos(s))[0] for s in ("train", "test"))
            questions = [q for f in subsample(test, SCORED) for q in f.questions]  # those that the rows are scored on
            path = self.out / f"question-only-{name}.jsonl"
            with path.open("w", encoding="utf-8") as file:
                for q, guess in zip(questions, question_only_baseline(train, subsample(test, SCORED)), strict=True):
                    asked = {"video": q.video, "frame": q.frame, "question": q.question, "type": q.type}
                    said = {"answer": LABELS[q.label], "prediction": LABELS[guess]}
                    file.write(json.dumps(asked | said) + "\n")
            yield name, measured(path, self.graphs(name))


def table(done: dict[tuple[str, int], dict[str, Any]]) -> list[str]:
    """Rows with mean and standard deviation over seeds, as Markdown."""
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
    """Runs what is missing, rows in order, seeds in the outer loop, so that early stops leave whole comparisons."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs/experiments"))
    parser.add_argument("--only", help="groups, with commas between")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--table", action="store_true", help="print the rows so far and stop")
    options = parser.parse_args()
    work = Experiments(options.out)
    if options.table:
        print("\n".join(table(work.done())))
        return 0
    work.out.mkdir(parents=True, exist_ok=True)
    work.prepare()
    for name, figures in work.baselines():
        print(f"question-only, {name}: {json.dumps({k: round(v, 1) for k, v in figures.items()})}", flush=True)
    groups = options.only.split(",") if options.only else None
    unknown = set(groups or ()) - {r.group for r in ROWS}
    if unknown:
        parser.error(f"--only knows {', '.join(dict.fromkeys(r.group for r in ROWS))}; not {', '.join(unknown)}")
    lock = (work.out / "lock").open("w")
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        parser.error(f"another start is at work in {work.out}")
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
                list(pool.map(lambda r, s=seed: work.one(r, s), part))
    print("\n".join(table(work.done())))
    return 0


if __name__ == "__main__":
    sys.exit(main())
