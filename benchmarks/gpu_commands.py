"""The real commands in processes of their own: ``train`` and ``eval`` on a synthetic set, with local model folders."""

import json
import os
import re
import shutil
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from benchmarks.gpu_rows import Deadline, Row
from benchmarks.models import write_parts
from surgvivqa.checkpoints.folders import load_folder
from surgvivqa.checkpoints.packaged import PACKAGED_BASE
from surgvivqa.data.index import question_counts
from surgvivqa.data.labels import LABELS
from surgvivqa.data.prompt_tokens import PromptTokenizer
from surgvivqa.data.prompts import build_prompt
from surgvivqa.data.splits import load_splits
from surgvivqa.data.ssgqa import read_split

ROOT = Path(__file__).resolve().parents[1]
STOPPED = 75  # exit code of a run that --max-hours stops, after it wrote a checkpoint
START = "eval, a few questions, to measure its start"
THROUGHPUT = "train, throughput flags"
LIVE = f"{THROUGHPUT}, live"


@dataclass(frozen=True)
class Amounts:
    """How much the commands do at one size.

    Attributes:
        videos: videos of the synthetic set.
        frames: frames of each.
        batch: questions of a step with the throughput flags.
        seconds: time limit of a training loop (``--max-hours``).
        steps: ``--max-steps`` of all training commands but the recipe.
        recipe_steps: the same of the recipe.
        log_interval: steps between two lines of the log.
        questions: questions of an evaluation.
        few: questions of the evaluation that measures the start.
        workers: ``--workers``.
        together: number of commands that run at a time; more than 1 only where times mean nothing.
        extra: further flags of ``train``.
    """

    videos: int
    frames: int
    batch: int
    seconds: float
    steps: int
    recipe_steps: int
    log_interval: int
    questions: int
    few: int
    workers: int
    together: int
    extra: tuple[str, ...] = ()


def amounts(size: str) -> Amounts:
    """The amounts of a size; the small one tests the benchmark itself."""
    if size == "small":
        return Amounts(45, 1, 12, 2.0, 8, 4, 1, 60, 4, 0, 2, ("--num-frames=4", "--max-train-samples=24"))
    workers = max(1, min(12, len(os.sched_getaffinity(0)) - 2))
    return Amounts(45, 8, 312, 5.0, 10_000, 30_000, 10, 8000, 400, workers, 1)


class Appearance:
    """As a context manager, records when a path first exists.

    Args:
        path: the path, looked for 100 times a second; None for none.

    Attributes:
        time: of ``time.perf_counter``; None if the path did not appear.
    """

    def __init__(self, path: Path | None) -> None:
        self.time: float | None = None
        self._path, self._stop = path, threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def _watch(self) -> None:
        while self._path is not None and not self._stop.wait(0.01):
            if self._path.exists():
                self.time = time.perf_counter()
                return

    def __enter__(self) -> "Appearance":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()


class Commands:
    """Runs the commands in one folder.

    Args:
        size: ``full`` or ``small``.
        device: with ``cpu`` the commands see no GPU.
        work: an empty folder for the set, the parts and the runs.
        deadline: a command that is running then is stopped.
    """

    def __init__(self, size: str, device: str, work: Path, deadline: Deadline) -> None:
        self.amounts, self.device, self.work, self.deadline = amounts(size), device, work, deadline
        path = os.pathsep.join(filter(None, (str(ROOT / "src"), os.environ.get("PYTHONPATH"))))
        self.environment = os.environ | {
            "PYTHONPATH": path,
            "HF_HUB_OFFLINE": "1",
            "TOKENIZERS_PARALLELISM": "false",
            "SURGVIVQA_CACHE": str(work / "index"),
        }
        if device == "cpu":
            self.environment["CUDA_VISIBLE_DEVICES"] = ""
        self.parts = write_parts(size, work / "parts")
        self.data = [f"--ssgvqa-root={work / 'set' / 'ssg-qa'}", f"--image-root={work / 'set' / 'frames'}"]
        made = self.run(
            "synth", f"--out={work / 'set'}", f"--videos={self.amounts.videos}",
            f"--frames-per-video={self.amounts.frames}", "--no-masks",
        )  # fmt: skip
        if "error" in made:
            raise RuntimeError(f"synth failed: {made['error']}")

    def run(self, *arguments: str, begins: Path | None = None) -> Row:
        """Runs one command of the project.

        Args:
            arguments: the command and its flags.
            begins: a file or folder that the command creates when it has loaded its model and data.

        Returns:
            ``command``, with the work folder written as ``WORK``; ``wall_s``, the seconds of the whole command, and
            ``own_s``, those after ``begins`` appeared; if it fails or does not end in time, ``error``, one line of
            its output.
        """
        line = [sys.executable, "-W", "ignore", "-m", "surgvivqa", *arguments]
        row: Row = {"command": " ".join(["surgvivqa", *arguments]).replace(str(self.work), "WORK")}
        if self.deadline.passed:
            return row | {"error": "left out: the section's time is used up"}
        started = time.perf_counter()
        try:
            with Appearance(begins) as appearance:
                done = subprocess.run(
                    line,
                    env=self.environment,
                    cwd=self.work,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.STDOUT,
                    text=True,
                    timeout=self.deadline.left,
                    check=False,
                )
        except subprocess.TimeoutExpired:
            return row | {"error": "stopped: the section's time is used up"}
        ended = time.perf_counter()
        row |= {"wall_s": ended - started, "own_s": ended - (appearance.time or started)}
        if done.returncode not in (0, STOPPED):
            row["error"] = error_line(done.stdout) or f"exit code {done.returncode}"
        return row

    def train(self, name: str, folder: str, *flags: str, steps: int = 0, warm_epoch: bool = False) -> Row:
        """Runs ``train`` and reads its rate from ``metrics.jsonl``.

        Args:
            name: name of the row.
            folder: name of the run folder.
            flags: the flags that the row is about.
            steps: ``--max-steps``; by default the one for this size.
            warm_epoch: leave out the lines of the first epoch, which fills a cache; the time limit is longer.
        """
        run, chosen = self.work / folder, self.amounts
        seconds = chosen.seconds * (4 if warm_epoch else 1)  # the cache is filled in the first epoch
        row: Row = {"name": name} | self.run(
            "train", *self.data, *self.parts, f"--checkpoint-dir={run}", f"--workers={chosen.workers}",
            f"--max-steps={steps or chosen.steps}", f"--log-interval={chosen.log_interval}", "--val-max-samples=8",
            f"--max-hours={seconds / 3600:.6f}", *chosen.extra, *flags,
        )  # fmt: skip
        if "error" not in row:
            row |= read_rates(run / "metrics.jsonl", warm_epoch)
        return row

    def evaluate(self, name: str, checkpoint: Path, samples: int, *flags: str) -> Row:
        """Runs ``eval`` on training questions; its rate is derived by ``add_evaluation_rates``."""
        output = self.work / re.sub(r"\W+", "-", name)
        row: Row = {"name": name} | self.run(
            "eval", f"--checkpoint={checkpoint}", "--split=train", f"--output={output}",
            f"--max-samples={samples}", f"--workers={self.amounts.workers}",
            "--check-samples=0", *flags, begins=output,  # the rate is that of the evaluation alone
        )  # fmt: skip
        predictions = output / "predictions.jsonl"
        if "error" not in row:
            row["questions"] = len(predictions.read_text(encoding="utf-8").splitlines())
        return row

    def describe_set(self) -> Row:
        """The training questions: frames, questions per frame, and tokens per prompt and label."""
        frames, _ = read_split(self.work / "set" / "ssg-qa", load_splits(None).train)
        tokens = PromptTokenizer(load_folder(PACKAGED_BASE).tokenizer, "simple", 10**6)
        questions = [q.question for frame in frames for q in frame.questions][:2000]
        return {
            "frames": len(frames),
            "questions_per_frame": sum(question_counts(frames)) / len(frames),
            "prompt_tokens": statistics.mean(len(tokens.prompt_ids(q)) for q in questions),
            "label_tokens": sum(map(len, tokens.label_ids)) / len(LABELS),
            "example": build_prompt(questions[0], "simple"),
        }


def read_rates(path: Path, warm_epoch: bool = False) -> Row:
    """Reads the questions per second of a run.

    Args:
        path: its ``metrics.jsonl``.
        warm_epoch: leave out the lines of the first epoch, and the next one, part of which belongs to it.

    Returns:
        ``rates`` of the lines after the first, their median ``rate`` and the run's ``steps``; or ``error``.
    """
    lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    lines = [line for line in lines if "questions_per_second" in line]
    used = [line for line in lines if line["epoch"] > 0] if warm_epoch else lines
    rates = [line["questions_per_second"] for line in used[1:]]
    if not rates:
        return {"error": f"too few lines of the log to read a rate ({len(lines)})"}
    return {"rates": rates, "rate": statistics.median(rates), "steps": lines[-1]["step"]}


def add_evaluation_rates(rows: Sequence[Row]) -> None:
    """Adds ``rate`` to the rows of ``eval``: the questions beyond the few of the first row, by the time beyond its.

    The time is that after the model and the questions are loaded. It includes the start of the device and of the worker
    processes, which the difference removes.
    """
    start = next((row for row in rows if row["name"] == START and "error" not in row), None)
    for row in rows:
        if row["name"] == START or "error" in row or not row["name"].startswith("eval"):
            continue
        seconds = row["own_s"] - start["own_s"] if start else 0.0
        if start and seconds > 0:
            row["rate"] = (row["questions"] - start["questions"]) / seconds
        else:
            row["error"] = "no longer than its start, which was measured in the row before" if start else "no start"


def error_line(text: str) -> str:
    """The line of a command's output that says why it failed, at most 200 characters."""
    lines = [line.strip(" │╭╰─╮╯") for line in text.splitlines()]
    lines = [line for line in lines if any(c.isalpha() for c in line)]
    told = [line for line in lines if line.startswith(("surgvivqa: ", "Unrecognized options: "))]
    return (told or lines or [""])[-1][:200]


def run_commands(size: str, device: str, work: Path, deadline: Deadline, pattern: str = "") -> tuple[list[Row], Row]:
    """Runs all commands.

    Args:
        size: ``full`` or ``small``.
        device: ``cuda`` or ``cpu``.
        work: a folder that is emptied.
        deadline: rows that do not fit are left out.
        pattern: a regular expression that the names of the rows must match; ``eval`` reads the run of the live row.

    Returns:
        The rows, and what the questions are like. A row whose command fails has ``error``; the others go on.
    """
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)
    commands = Commands(size, device, work, deadline)
    chosen, cache = commands.amounts, f"--cache={work / 'cache'}"
    recipe = ("--batch-size=8", "--lr=5e-4", "--prompt-mode=simple")
    wide = ("--questions-per-frame=39", f"--batch-size={chosen.batch}")
    bf16 = ("--bf16",) if device == "cuda" else ()
    train, plain = commands.train, ("--encode-ahead=1", "--cuda-graphs=off")

    def score(name: str, *flags: str, count: int = chosen.questions) -> Row:
        return commands.evaluate(name, newest_checkpoint(work / "live"), count, *flags)

    # In the order of their worth: the last ones are left out if time is short. Jobs of one phase may run together.
    phases: list[dict[str, Callable[[str], Row]]] = [
        {
            "train, the recipe's flags": lambda name: train(name, "recipe", *recipe, steps=chosen.recipe_steps),
            LIVE: lambda name: train(name, "live", *wide),
            f"{THROUGHPUT}, --cache": lambda name: train(name, "cached", *wide, cache, warm_epoch=True),
        },
        {
            f"{THROUGHPUT}, --cache --cache-text": lambda name: train(
                name, "text", *wide, cache, "--cache-text", warm_epoch=True
            ),
            START: lambda name: score(name, *bf16, count=chosen.few),
            "eval, 51 scores": lambda name: score(name, *bf16),
            "eval, --answer-only": lambda name: score(name, *bf16, "--answer-only"),
            "train, the recipe's flags, --encode-ahead 1 --cuda-graphs off": lambda name: train(
                name, "recipe-plain", *recipe, *plain, steps=chosen.recipe_steps
            ),
            f"{LIVE}, --fp16": lambda name: train(name, "fp16", *wide, "--fp16"),
            "eval, 51 scores, --fp16": lambda name: score(name, "--fp16"),
        },
    ]
    rows: list[Row] = []
    with ThreadPoolExecutor(chosen.together) as pool:
        for jobs in phases:
            wanted = [name for name in jobs if re.search(pattern, name)]
            rows += pool.map(lambda name, jobs=jobs: jobs[name](name), wanted)
    add_evaluation_rates(rows)
    return rows, commands.describe_set()


def newest_checkpoint(run: Path) -> Path:
    """The newest checkpoint of a run that may have been stopped: of its ``checkpoints/``, else its ``best/``."""
    return max(run.glob("checkpoints/step-*"), default=run / "best")
