"""Kills a tiny training run with SIGKILL at random moments and compares it with a run that was never killed.

The run is started again after each kill. Weights, figures and losses must be equal bit for bit.

    python tools/kill_test.py [--kills 200] [--seed 0] [--out runs/kill-test]

Each start is a fork of this process, which has imported everything, so that kills fall into the run and not into
Python's imports. Every step saves a checkpoint and every second one validates, so that many kills fall into writing.
The exit code is 0 if all is equal, else 1; ``OUT/report.json`` says where the kills fell.
"""

import argparse
import contextlib
import hashlib
import json
import os
import random
import shutil
import signal
import sys
import time
import traceback
from collections import Counter
from pathlib import Path

import torch

from surgvivqa import cli
from surgvivqa.data.splits import load_splits
from surgvivqa.synthetic import write
from surgvivqa.training import trainer
from surgvivqa.training.run_log import TIMINGS

assert trainer  # imported here, once, for all forks
STEPS = 60
FLAGS = [
    *("train", "--preset=tiny", "--batch-size=6", "--questions-per-frame=3", f"--max-steps={STEPS}", "--lr=2e-3"),
    *("--warmup-steps=3", "--eval-every-steps=2", "--save-every-steps=1", "--val-max-samples=6", "--log-interval=3"),
    *("--workers=0", "--max-train-samples=40"),
]


def fork(arguments: list[str], log: Path) -> int:
    """Starts the command in a child with a session of its own, and returns its process id."""
    child = os.fork()
    if child:
        return child
    code = 70
    try:
        os.setsid()
        handle = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(handle, 1)
        os.dup2(handle, 2)
        code = cli.main(arguments)
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(code)


def finished(child: int, within: float) -> int | None:
    """The child's exit code, or None if it is still running after ``within`` seconds."""
    until = time.monotonic() + within
    while time.monotonic() < until:
        found, status = os.waitpid(child, os.WNOHANG)
        if found:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.005)
    return None


def state_of(run: Path) -> str:
    """Where the kill fell, by the names of the unfinished files that it left."""
    asides = list(run.rglob(".*.writing")) if run.is_dir() else []
    if any("step-" in p.name for p in asides):
        return "writing checkpoints/"
    if any(p.name == ".best.writing" for p in asides):
        return "writing best/"
    if asides:
        return f"writing {asides[0].name[1:].removesuffix('.writing')}"
    if not (run / "best").exists() and (run / ".best.replaced").exists():
        return "between the renames of best/"
    if not any((run / "checkpoints").glob("step-*")) if run.is_dir() else True:
        return "before the first checkpoint"
    return "elsewhere in the run"


def outcome(run: Path) -> dict[str, str]:
    """SHA-256 of everything that a run leaves and that must be equal."""
    lines = []
    for line in (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines():
        record = json.loads(line)
        for name in TIMINGS:
            record.pop(name, None)
        lines.append(json.dumps(record, sort_keys=True))
    files = ["best/model.safetensors", f"checkpoints/step-{STEPS:07d}/model.safetensors"]
    files += [f"checkpoints/step-{STEPS:07d}/training.safetensors"]
    tensors = torch.load(run / "best_model.pth", weights_only=True)
    weights = b"".join(t.numpy().tobytes() for _, t in sorted(tensors.items()))
    found = {"metrics.jsonl": "\n".join(lines).encode(), "best_model.pth": weights}
    found |= {name: (run / name).read_bytes() for name in files}
    return {name: hashlib.sha256(content).hexdigest() for name, content in found.items()}


def main() -> int:
    """Runs the test."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("runs/kill-test"))
    options = parser.parse_args()
    torch.set_num_threads(1)
    out = options.out.resolve()
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)
    os.environ["SURGVIVQA_CACHE"] = str(out / "index")
    write.write_synthetic(write.SynthConfig(out=out / "data", videos=3, frames_per_video=4, workers=1, masks=False))
    (out / "splits").mkdir()
    videos = sorted(p.name for p in (out / "data" / "ssg-qa").iterdir())
    tests = [v for v in videos if v in load_splits(None).test]
    train, val = [v for v in videos if v not in tests][:2]
    for split, chosen in (("train", [train]), ("val", [val]), ("test", tests)):
        (out / "splits" / f"{split}_videos.json").write_text(json.dumps(chosen), encoding="utf-8")
    roots = [f"--ssgvqa-root={out / 'data' / 'ssg-qa'}", f"--image-root={out / 'data' / 'frames'}"]
    flags = [*FLAGS, *roots, f"--splits-dir={out / 'splits'}"]

    started = time.monotonic()
    child = fork([*flags, f"--checkpoint-dir={out / 'whole'}"], out / "whole.log")
    if finished(child, 3600) != 0:
        print(f"the run without kills failed; see {out / 'whole.log'}", file=sys.stderr)
        return 1
    spent = time.monotonic() - started
    expected = outcome(out / "whole")

    rng, where, kills, runs, failures = random.Random(options.seed), Counter[str](), 0, 0, []
    while kills < options.kills:
        # A run is killed and started again until it finishes; then the next one begins.
        run, log = out / "killed", out / "killed.log"
        shutil.rmtree(run, ignore_errors=True)
        log.unlink(missing_ok=True)
        code: int | None = None
        while code is None:
            child = fork([*flags, f"--checkpoint-dir={run}"], log)
            # Uniform over a start and several steps; after the wanted number of kills the run may finish.
            within = rng.uniform(0, 1.2 + spent / 8) if kills < options.kills else 3600.0
            code = finished(child, within)
            if code is None:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(child, signal.SIGKILL)
                os.waitpid(child, 0)
                kills += 1
                where[state_of(run)] += 1
        runs += 1
        if code != 0:
            failures.append(f"run {runs} ended with {code}: {log.read_text(encoding='utf-8')[-600:]}")
            break
        got = outcome(run)
        failures += [f"run {runs}: {name} differs" for name in expected if got[name] != expected[name]]
        print(f"{kills} kills, {runs} complete runs, {len(failures)} differences", flush=True)
        if failures:
            break
    report = {"kills": kills, "runs": runs, "where": dict(where.most_common()), "failures": failures}
    report["seconds"] = round(time.monotonic() - started)
    (out / "report.json").write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    print(json.dumps(report, indent=2))
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
