"""``make bench-gpu``: the project beside the plain way on a GPU, in at most four minutes and without a network.

    python -m benchmarks.gpu [--device cuda|cpu] [--size full|small] [--sections engine-train,commands] [--out DIR]

Sections: ``engine-train`` and ``engine-score`` time one training step or scoring pass at a time, ``accuracy`` compares
bf16 and fp16 with fp32, ``commands`` runs the real ``train`` and ``eval`` on a synthetic set. Rows that fail, or do not
fit into the time, say so in the report. Writes ``gpu.json`` and ``gpu.md``. ``--device cpu --size small`` tests the
benchmark itself.
"""

import argparse
import datetime
import functools
import json
import os
import platform
import shlex
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
import transformers

from benchmarks.gpu_accuracy import run_accuracy
from benchmarks.gpu_commands import run_commands
from benchmarks.gpu_engine import Models, run_cases, scoring_cases, training_cases
from benchmarks.gpu_report import format_report
from benchmarks.gpu_rows import Deadline, Row, one_line, product_rate
from benchmarks.models import SIZES
from surgvivqa.utils.atomic_files import write_text

SECONDS = 235.0
# Of them, at most these for each section; ``commands`` takes what is left.
BUDGETS = {"engine-train": 45.0, "engine-score": 20.0, "accuracy": 15.0, "commands": SECONDS}
PRODUCTS = {"cuda": (8192, ("bf16", "fp16", "fp32")), "cpu": (512, ("bf16", "fp32"))}


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the benchmark; returns 1 if the two implementations disagree in fp32."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--size", choices=SIZES, default="full", help="small tests the benchmark itself")
    parser.add_argument("--sections", type=_section_names, default=list(BUDGETS), help="names, separated by commas")
    parser.add_argument("--rows", default="", help="only the rows whose name matches this regular expression")
    parser.add_argument("--out", type=Path, default=Path("runs/bench-gpu"))
    parser.add_argument("--seconds", type=float, default=SECONDS, help="time of the whole benchmark")
    options = parser.parse_args(arguments)
    if options.device == "cuda" and not torch.cuda.is_available():
        parser.error("no GPU is visible to PyTorch; --device cpu --size small tests the benchmark itself")
    started, whole = time.monotonic(), Deadline(options.seconds)
    command = ["python", "-m", "benchmarks.gpu", *(sys.argv[1:] if arguments is None else arguments)]
    results: dict[str, Any] = {"machine": describe_machine(options.device, options.size, command), "sections": {}}
    machine, models = results["machine"], Models(options.size, options.device)
    for name in options.sections:
        began = time.monotonic()
        deadline = Deadline(min(BUDGETS[name] * options.seconds / SECONDS, whole.left))
        results["sections"][name] = run_section(name, models, deadline, machine["products"], options.rows)
        machine["section_seconds"][name] = time.monotonic() - began
        machine["seconds"] = time.monotonic() - started
        report = format_report(results)  # after every section, so that a crash leaves the earlier ones
        options.out.mkdir(parents=True, exist_ok=True)
        write_text(options.out / "gpu.json", json.dumps(results, indent=1) + "\n")
        write_text(options.out / "gpu.md", report)
        print(f"{name}: {machine['section_seconds'][name]:.0f} s", file=sys.stderr, flush=True)
    print(report)
    rows = results["sections"].get("accuracy", [])
    return 0 if all(row.get("within_tolerance", True) for row in rows) else 1


def _section_names(text: str) -> list[str]:
    names = text.split(",")
    unknown = sorted(set(names) - set(BUDGETS))
    if unknown:
        raise argparse.ArgumentTypeError(f"{', '.join(unknown)}: the sections are {', '.join(BUDGETS)}")
    return [name for name in BUDGETS if name in names]  # in their order: the last takes the time that is left


def describe_machine(device: str, size: str, command: Sequence[str]) -> Row:
    """Versions, device, command, and the measured product rates in operations per second by precision."""
    product_size, precisions = PRODUCTS[device]
    return {
        "device": device,
        "name": torch.cuda.get_device_name() if device == "cuda" else f"CPU, {platform.machine()}",
        "size": size,
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "cuda": torch.version.cuda,
        "python": platform.python_version(),
        "cores": len(os.sched_getaffinity(0)),
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "command": shlex.join(command),
        "product_size": product_size,
        "products": {name: product_rate(device, name, product_size) for name in precisions},
        "section_seconds": {},
        "seconds": 0.0,
    }


def run_section(name: str, models: Models, deadline: Deadline, rates: dict[str, float], pattern: str = "") -> Any:
    """Runs one section.

    Args:
        name: a key of ``BUDGETS``.
        models: the models, which the sections share.
        deadline: rows that do not fit are left out.
        rates: the measured product rates by precision.
        pattern: a regular expression that the names of the rows must match.

    Returns:
        The rows; for ``commands`` a dict of ``rows`` and ``set``. If the section cannot start, one row with ``error``.
    """
    sections: dict[str, Callable[[], Any]] = {
        "engine-train": lambda: run_cases(training_cases(models), models, deadline, rates, pattern),
        "engine-score": lambda: run_cases(scoring_cases(models), models, deadline, rates, pattern),
        "accuracy": lambda: run_accuracy(models, deadline, pattern),
        "commands": functools.partial(_run_commands, models, deadline, pattern),
    }
    try:
        return sections[name]()
    except Exception as error:  # the other sections go on
        row = {"name": name, "precision": "", "against": "", "command": "", "error": one_line(error)}
        models.release()
        return {"rows": [row]} if name == "commands" else [row]


def _run_commands(models: Models, deadline: Deadline, pattern: str) -> Row:
    with tempfile.TemporaryDirectory(prefix="surgvivqa-bench-") as folder:
        rows, about = run_commands(models.size, models.device, Path(folder), deadline, pattern)
    return {"rows": rows, "set": about}


if __name__ == "__main__":
    sys.exit(main())
