"""``make bench``: the plain way and the project's, side by side, at full size.

    python -m benchmarks.run [--size small] [--only compare|scaling] [--rounds 2] [--out runs/bench] [--json]

About a quarter of an hour on two processor cores. Processes run in turns (plain, ours, plain, ours), each as it comes;
ours keeps freed memory, as the product's commands do, and serves several stages, of which the first has its memory
measured. ``--size small`` runs all stages in this process, to try the benchmark itself: its times and its memory mean
nothing. Leaves ``summary.json``, ``table.md`` and ``scaling.png``.
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

from surgvivqa.utils.atomic_files import write_text

ROOT = Path(__file__).resolve().parents[1]
TOLERANCE = 1e-4
PROCESSES = (("plain_train",), ("train", "train_cached", "train_text"), ("plain_score",), ("score", "answer"))
IN_TURNS = tuple(stage for process in PROCESSES for stage in process)
SCALING = ("scale_questions", "scale_labels", "scale_frames")
TITLES = {
    "gemm": "the machine's matrix products",
    "plain_train": "training step, plain way",
    "train": "training step, ours, live",
    "train_cached": "training step, ours, video tokens cached",
    "train_text": "training step, ours, BLIP's outputs cached",
    "plain_train_kept": "training step, plain way, freed memory kept",
    "plain_score": "scoring 51 labels, plain way",
    "score": "scoring 51 labels, ours",
    "answer": "the answer alone, ours, trained model",
    "untrained": "the answer alone, ours, untrained model",
    "scale_questions": "1 to 64 questions a frame",
    "scale_labels": "51 to 204 labels",
    "scale_frames": "1 to 10,000 frames cached",
}
AGAINST = {
    "train": "plain_train",
    "train_cached": "plain_train",
    "train_text": "plain_train",
    "score": "plain_score",
    "answer": "plain_score",
    "untrained": "plain_score",
}
RATIOS = {
    "train_ratio": "train",
    "train_ratio_cached": "train_cached",
    "train_ratio_cached_text": "train_text",
    "score_ratio": "score",
    "answer_ratio": "answer",
}


class Runner:
    """Runs stages and says so."""

    def __init__(self, options: argparse.Namespace, work: Path) -> None:
        self.options, self.work, self.started = options, work, time.monotonic()

    def __call__(self, *stages: str, number: int = 1) -> dict[str, dict[str, Any]]:
        """The figures of the stages of one process."""
        for stage in stages:
            self.say(f"{TITLES[stage]} (round {number})" if stage in IN_TURNS else TITLES[stage])
        began = time.monotonic()
        if self.options.size == "small":
            from benchmarks.stages import Options, run_stages

            results = run_stages(stages, Options("small", self.options.device, self.work, number))
        else:
            results = run_process(stages, self.options.size, self.options.device, self.work, number)
        for stage, figures in results.items():
            if "seconds" in figures:
                passes = ", ".join(f"{s / figures['questions']:.3g}" for s in figures["seconds"])
                self.say(f"    {passes} s a question: {TITLES[stage]}")
        self.say(f"    the process took {time.monotonic() - began:.0f} s")
        return results

    def say(self, text: str) -> None:
        """A line of progress, on stderr."""
        print(f"[{time.monotonic() - self.started:6.1f} s] {text}", file=sys.stderr, flush=True)


def run_process(stages: Sequence[str], size: str, device: str, work: Path, number: int) -> dict[str, dict[str, Any]]:
    """Stages in a new process.

    Raises:
        SystemExit: the stage failed; its own message is on stderr.
    """
    command = [sys.executable, "-W", "ignore", "-m", "benchmarks.stages", "--stage", *stages]
    command += ["--size", size, "--device", device, "--work", str(work), "--round", str(number)]
    path = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
    done = subprocess.run(
        command, stdout=subprocess.PIPE, text=True, cwd=ROOT, env=os.environ | {"PYTHONPATH": path}, check=False
    )
    if done.returncode:
        raise SystemExit(f"The stage {' '.join(stages)} ended with exit code {done.returncode}; there are no figures.")
    results: dict[str, dict[str, Any]] = json.loads(done.stdout.splitlines()[-1])
    return results


def gather(rounds: list[dict[str, dict[str, Any]]], speed: float) -> dict[str, dict[str, Any]]:
    """For each stage all its timings in seconds a question, their median and least, its floor and its peak memory."""
    stages: dict[str, dict[str, Any]] = {}
    for name in ("plain_train_kept", *IN_TURNS, "untrained"):
        every = [r[name] for r in rounds if name in r]
        each = [s / f["questions"] for f in every for s in f["seconds"]]
        figures: dict[str, Any] = {"raw": each, "median": statistics.median(each), "min": min(each)}
        figures["questions"] = every[0]["questions"]
        figures["peak_bytes"] = max((f["peak_bytes"] for f in every if "peak_bytes" in f), default=None)
        for key in (
            "nodes_a_question",
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
    stages["plain_train_kept"]["ratio_of_ours"] = stages["plain_train_kept"]["median"] / stages["train"]["median"]
    for name, other in AGAINST.items():
        stages[name]["ratio"] = stages[other]["median"] / stages[name]["median"]
    return stages


def largest_difference(ours: Any, plain: Any) -> float:
    """Over nested lists of numbers, as far as the plain one goes; NaN counts as infinite."""
    if isinstance(plain, list):
        return max(largest_difference(a, b) for a, b in zip(ours, plain, strict=False))
    return abs(ours - plain) if ours == ours and plain == plain else float("inf")


def compare(run: Runner, rounds: int) -> dict[str, Any]:
    """Both ways in turns; the summary without the scaling."""
    machine = run("gemm")["gemm"]
    results: list[dict[str, dict[str, Any]]] = []
    for number in range(1, rounds + 1):
        results.append({})
        for process in PROCESSES:
            results[-1] |= run(*process, number=number)
        if number == 1:
            results[-1] |= run("plain_train_kept", number=2)
        if "untrained" in results[-1]["answer"]:
            results[-1]["untrained"] = results[-1]["answer"]["untrained"]
    stages, first = gather(results, machine["flops_a_second"]), results[0]
    # Of what one could spare the plain way: its logits at 128 positions of every label.
    score = first["plain_score"]
    without = stages["plain_score"]["median"] * (1 - score["output_layer_seconds"] / sum(score["seconds"]))
    return {
        **{key: stages[name]["ratio"] for key, name in RATIOS.items()},
        "max_loss_diff": largest_difference(first["train"]["losses"], first["plain_train"]["losses"]),
        "max_score_diff": max(largest_difference(r["score"]["scores"], r["plain_score"]["scores"]) for r in results),
        "peak_memory_ratio": stages["train"]["peak_bytes"] / stages["plain_train"]["peak_bytes"],
        "machine": {
            "processor": processor(),
            "cores": os.cpu_count(),
            "device": run.options.device,
            "gemm_flops_a_second": machine["flops_a_second"],
        },
        "threads": machine["threads"],
        "train_ratio_same_allocator": stages["plain_train_kept"]["ratio_of_ours"],
        "score_ratio_without_plain_output_layer": without / stages["score"]["median"],
        "size": run.options.size,
        "rounds": rounds,
        "peak_memory_ratio_scoring": stages["score"]["peak_bytes"] / stages["plain_score"]["peak_bytes"],
        "stages": stages,
    }


def processor() -> str:
    """The processor's name, where Linux tells it."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text(encoding="utf-8").splitlines() if info.exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def table(summary: dict[str, Any]) -> list[str]:
    """The comparison as Markdown."""
    machine = summary["machine"]
    lines = [
        f"{summary['size']} size, fp32, {machine['device']}, {summary['threads']} threads, {machine['processor']}; "
        f"a product of 1568x768 and 768x3072 runs at {machine['gemm_flops_a_second'] / 1e9:,.0f} GFLOP/s.",
        "",
        "| stage | questions a pass | s a question, median (least) | plain / ours | floor, s | over floor | peak, GB |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for name, f in summary["stages"].items():
        ratio = f"{f['ratio']:.1f}" if "ratio" in f else ""
        floor = f"{f['floor']:.3g} | {f['over_floor']:.2f}" if "floor" in f else " | "
        peak = f"{f['peak_bytes'] / 1e9:.2f}" if f["peak_bytes"] else ""
        lines.append(
            f"| {TITLES[name]} | {f['questions']} | {f['median']:.3g} ({f['min']:.3g}) | {ratio} | {floor} | {peak} |"
        )
    lines += ["", "The floor is what the stage's matrix products take at that speed; in GFLOP a question:", ""]
    parts = list(summary["stages"]["train"]["flops"])
    lines += [f"| stage | {' | '.join(parts)} |", "| --- " * (len(parts) + 1) + "|"]
    for name, f in summary["stages"].items():
        if "flops" in f:
            counts = " | ".join(f"{f['flops'][part] / 1e9:.2f}" for part in parts)
            lines.append(f"| {TITLES[name]} | {counts} |")
    trained, untrained = summary["stages"]["answer"], summary["stages"]["untrained"]
    lines += [
        "",
        f"Equal numbers: losses differ by {summary['max_loss_diff']:.1e} at most, scores by "
        f"{summary['max_score_diff']:.1e}. Peak memory, ours over plain: training {summary['peak_memory_ratio']:.2f}, "
        f"scoring {summary['peak_memory_ratio_scoring']:.2f}.",
        f"Where the plain way keeps freed memory too, train_ratio is {summary['train_ratio_same_allocator']:.1f}.",
        f"Were the plain way's output layer free in scoring, score_ratio would be "
        f"{summary['score_ratio_without_plain_output_layer']:.1f}.",
        f"The answer alone feeds {trained['nodes_a_question']:.2f} of 29 inner nodes a question on the trained model "
        f"({trained['answers']} different answers to 39 questions, accuracy {trained['accuracy']:.2f}), "
        f"{untrained['nodes_a_question']:.2f} on the untrained one.",
        f"Its adapters were trained for {trained['training_seconds']:.0f} s: from {trained['training_losses'][0]:.1f} "
        f"to {statistics.mean(trained['training_losses'][-20:]):.2f} nats an answer (mean of the last 20 steps), "
        f"{trained['held_out_loss']:.2f} on the questions asked; no model can have less than "
        f"{trained['best_possible'][0]:.2f}, nor an accuracy above {trained['best_possible'][1]:.2f}.",
    ]
    return lines


def write(folder: Path, summary: dict[str, Any], text: str) -> None:
    """Both files, each by rename."""
    for name, content in (("summary.json", json.dumps(summary, indent=2) + "\n"), ("table.md", text + "\n")):
        write_text(folder / name, content)


def main(arguments: list[str] | None = None) -> int:
    """Runs what was asked for; 1 where the two ways disagree."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=("full", "small"), default="full")
    parser.add_argument("--device", choices=("cpu", "cuda"), help="default: cuda where there is one")
    parser.add_argument("--only", choices=("compare", "scaling"))
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--out", type=Path, default=Path("runs/bench"))
    parser.add_argument("--json", action="store_true", help="print the summary instead of the table")
    options = parser.parse_args(arguments)
    if options.rounds < 1:
        parser.error("--rounds must be 1 or more")
    if options.device is None:
        # Asked of another process: a parent that has loaded torch would show in its children's peak memory.
        asked = "import torch; print('cuda' if torch.cuda.is_available() else 'cpu')"
        options.device = subprocess.run([sys.executable, "-c", asked], capture_output=True, text=True).stdout.strip()
    options.out.mkdir(parents=True, exist_ok=True)
    summary: dict[str, Any] = {}
    lines: list[str] = []
    with tempfile.TemporaryDirectory(prefix="surgvivqa-bench-") as work:
        run = Runner(options, Path(work))
        if options.only != "scaling":
            summary = compare(run, options.rounds)
            lines += table(summary)
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
            f"The two ways disagree: losses by {summary['max_loss_diff']:.1e}, scores by "
            f"{summary['max_score_diff']:.1e}, and no more than {TOLERANCE:.0e} is allowed.",
            file=sys.stderr,
        )
        return 1
    return 0


def report_scaling(results: dict[str, dict[str, Any]], path: Path, run: Runner) -> list[str]:
    """The plot, where matplotlib is there, and the table of slopes."""
    from benchmarks.scaling import described, plot

    try:
        plot(results, path)
    except ImportError:
        run.say(f"{path.name} was not drawn: matplotlib is missing (pip install -e '.[bench]')")
    return described(results)


if __name__ == "__main__":
    sys.exit(main())
