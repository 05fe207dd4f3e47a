"""``make bench``: the reference implementation and the project, side by side, at full size.

    python -m benchmarks.run [--size small] [--only compare|scaling] [--rounds 2] [--out runs/bench] [--json]

Takes about ten minutes on two CPU cores. Processes alternate (reference, project, reference, project); a
process of the project runs several stages, and its memory is measured at the first. ``--size small`` runs all stages in
this process, to test the benchmark itself: its times and memory mean nothing. Writes ``summary.json``, ``table.md`` and
``scaling.png``.
"""

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.report import TITLES, comparison_table
from surgvivqa.utils.atomic_files import write_text

ROOT = Path(__file__).resolve().parents[1]
TOLERANCE = 1e-4
PROCESSES = (
    ("reference_train",),
    ("train", "train_cached", "train_text", "train_eight", "train_eight_ahead"),
    ("reference_score",),
    ("score", "answer"),
)
ALTERNATING = tuple(stage for process in PROCESSES for stage in process)
SCALING = ("scale_questions", "scale_labels", "scale_frames")
REFERENCES = {
    "train": "reference_train",
    "train_cached": "reference_train",
    "train_text": "reference_train",
    "train_eight": "reference_train",
    "train_eight_ahead": "reference_train",
    "score": "reference_score",
    "answer": "reference_score",
    "untrained": "reference_score",
}
RATIOS = {
    "train_ratio": "train",
    "train_ratio_cached": "train_cached",
    "train_ratio_cached_text": "train_text",
    "train_ratio_eight": "train_eight",
    "train_ratio_eight_ahead": "train_eight_ahead",
    "score_ratio": "score",
    "answer_ratio": "answer",
}


class Runner:
    """Runs stages and reports progress."""

    def __init__(self, options: argparse.Namespace, work: Path) -> None:
        self.options, self.work, self.started = options, work, time.monotonic()

    def __call__(self, *stages: str, number: int = 1) -> dict[str, dict[str, Any]]:
        """Runs the stages of one process; returns their figures by name."""
        for stage in stages:
            self.say(f"{TITLES[stage]} (round {number})" if stage in ALTERNATING else TITLES[stage])
        began = time.monotonic()
        if self.options.size == "small":
            from benchmarks.project_model import Options
            from benchmarks.stages import run_stages

            results = run_stages(stages, Options("small", self.options.device, self.work, number))
        else:
            results = run_process(stages, self.options.size, self.options.device, self.work, number)
        for stage, figures in results.items():
            if "seconds" in figures:
                passes = ", ".join(f"{s / figures['questions']:.3g}" for s in figures["seconds"])
                self.say(f"    {passes} s per question: {TITLES[stage]}")
        self.say(f"    the process took {time.monotonic() - began:.0f} s")
        return results

    def say(self, text: str) -> None:
        """A line of progress, on stderr."""
        print(f"[{time.monotonic() - self.started:6.1f} s] {text}", file=sys.stderr, flush=True)


def run_process(stages: Sequence[str], size: str, device: str, work: Path, number: int) -> dict[str, dict[str, Any]]:
    """Runs stages in a new process.

    Raises:
        SystemExit: the process failed; its message is on stderr.
    """
    command = [sys.executable, "-W", "ignore", "-m", "benchmarks.stages", "--stage", *stages]
    command += ["--size", size, "--device", device, "--work", str(work), "--round", str(number)]
    path = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
    done = subprocess.run(
        command, stdout=subprocess.PIPE, text=True, cwd=ROOT, env=os.environ | {"PYTHONPATH": path}, check=False
    )
    if done.returncode:
        raise SystemExit(f"Stage {' '.join(stages)} failed with exit code {done.returncode}; see its message above.")
    results: dict[str, dict[str, Any]] = json.loads(done.stdout.splitlines()[-1])
    return results


def gather(rounds: list[dict[str, dict[str, Any]]], speed: float) -> dict[str, dict[str, Any]]:
    """For each stage its timings in seconds per question, their median and minimum, its floor and its peak memory."""
    stages: dict[str, dict[str, Any]] = {}
    for name in ("reference_train_memory_kept", *ALTERNATING, "untrained"):
        every = [r[name] for r in rounds if name in r]
        each = [s / f["questions"] for f in every for s in f["seconds"]]
        figures: dict[str, Any] = {"raw": each, "median": statistics.median(each), "min": min(each)}
        figures["questions"] = every[0]["questions"]
        figures["peak_bytes"] = max((f["peak_bytes"] for f in every if "peak_bytes" in f), default=None)
        for key in (
            "nodes_per_question",
            "accuracy",
            "answers",
            "best_possible",
            "held_out_loss",
            "training_losses",
            "training_seconds",
        ):
            figures |= {key: every[0][key]} if key in every[0] else {}
        if "flops" in every[0]:
            parts = {k: v / every[0]["questions"] for k, v in every[0]["flops"].items()}
            floor = sum(parts.values()) / speed
            figures |= {"flops": parts, "floor": floor, "over_floor": figures["median"] / floor}
        stages[name] = figures
    kept = stages["reference_train_memory_kept"]
    kept["ratio_to_project"] = kept["median"] / stages["train"]["median"]
    for name, other in REFERENCES.items():
        stages[name]["ratio"] = stages[other]["median"] / stages[name]["median"]
    return stages


def largest_difference(project: Any, reference: Any) -> float:
    """The largest difference of nested lists, as far as the reference goes; NaN counts as infinite."""
    if isinstance(reference, list):
        return max(largest_difference(a, b) for a, b in zip(project, reference, strict=False))
    return abs(project - reference) if project == project and reference == reference else float("inf")


def compare(run: Runner, rounds: int) -> dict[str, Any]:
    """Runs both implementations in turns; returns the summary without the scaling."""
    machine = run("gemm")["gemm"]
    results: list[dict[str, dict[str, Any]]] = []
    for number in range(1, rounds + 1):
        results.append({})
        for process in PROCESSES:
            results[-1] |= run(*process, number=number)
        if number == 1:
            results[-1] |= run("reference_train_memory_kept", number=2)
        if "untrained" in results[-1]["answer"]:
            results[-1]["untrained"] = results[-1]["answer"]["untrained"]
    stages, first = gather(results, machine["flops_per_second"]), results[0]
    # Favours the reference: as if its logits at all positions took no time.
    score = first["reference_score"]
    without = stages["reference_score"]["median"] * (1 - score["output_layer_seconds"] / sum(score["seconds"]))
    return {
        **{key: stages[name]["ratio"] for key, name in RATIOS.items()},
        "max_loss_diff": largest_difference(first["train"]["losses"], first["reference_train"]["losses"]),
        "max_score_diff": max(
            largest_difference(r["score"]["scores"], r["reference_score"]["scores"]) for r in results
        ),
        "peak_memory_ratio": stages["train"]["peak_bytes"] / stages["reference_train"]["peak_bytes"],
        "machine": {
            "processor": processor(),
            "cores": os.cpu_count(),
            "device": run.options.device,
            "gemm_flops_per_second": machine["flops_per_second"],
        },
        "threads": machine["threads"],
        "train_ratio_reference_memory_kept": stages["reference_train_memory_kept"]["ratio_to_project"],
        "score_ratio_without_reference_output_layer": without / stages["score"]["median"],
        "size": run.options.size,
        "rounds": rounds,
        "peak_memory_ratio_scoring": stages["score"]["peak_bytes"] / stages["reference_score"]["peak_bytes"],
        "stages": stages,
    }


def processor() -> str:
    """The processor's name."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text(encoding="utf-8").splitlines() if info.exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def write(folder: Path, summary: dict[str, Any], text: str) -> None:
    """Writes ``summary.json`` and ``table.md``."""
    for name, content in (("summary.json", json.dumps(summary, indent=2) + "\n"), ("table.md", text + "\n")):
        write_text(folder / name, content)


def main(arguments: list[str] | None = None) -> int:
    """Runs the benchmark; returns 1 if the two implementations disagree."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=("full", "small"), default="full")
    parser.add_argument("--device", choices=("cpu", "cuda"), help="default: cuda if available")
    parser.add_argument("--only", choices=("compare", "scaling"))
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--out", type=Path, default=Path("runs/bench"))
    parser.add_argument("--json", action="store_true", help="print the summary instead of the table")
    options = parser.parse_args(arguments)
    if options.rounds < 1:
        parser.error("--rounds must be 1 or more")
    if options.device is None:
        # In another process: torch in the parent would add to its children's peak memory.
        check = "import torch; print('cuda' if torch.cuda.is_available() else 'cpu')"
        options.device = subprocess.run([sys.executable, "-c", check], capture_output=True, text=True).stdout.strip()
    options.out.mkdir(parents=True, exist_ok=True)
    summary: dict[str, Any] = {}
    lines: list[str] = []
    with tempfile.TemporaryDirectory(prefix="surgvivqa-bench-") as work:
        run = Runner(options, Path(work))
        if options.only != "scaling":
            summary = compare(run, options.rounds)
            lines += comparison_table(summary)
            write(options.out, summary, "\n".join(lines))
        if options.only != "compare":
            results = run(*SCALING)
            summary["scaling"] = results
            lines += ["", *report_scaling(results, options.out / "scaling.png", run)]
    if options.only == "scaling":
        (options.out / "scaling.json").write_text(json.dumps(summary, indent=2) + "\n", encoding="utf-8")
    else:
        write(options.out, summary, "\n".join(lines))
    print(json.dumps(summary) if options.json else "\n".join(lines))
    if options.only != "scaling" and not max(summary["max_loss_diff"], summary["max_score_diff"]) <= TOLERANCE:
        print(
            f"The implementations disagree: losses by {summary['max_loss_diff']:.1e}, scores by "
            f"{summary['max_score_diff']:.1e}; the tolerance is {TOLERANCE:.0e}.",
            file=sys.stderr,
        )
        return 1
    return 0


def report_scaling(results: dict[str, dict[str, Any]], path: Path, run: Runner) -> list[str]:
    """Draws the plot, if matplotlib is installed; returns the table of slopes."""
    from benchmarks.scaling_report import plot, scaling_table

    try:
        plot(results, path)
    except ImportError:
        run.say(f"{path.name} was not drawn: matplotlib is not installed (pip install -e '.[bench]')")
    return scaling_table(results)


if __name__ == "__main__":
    sys.exit(main())
