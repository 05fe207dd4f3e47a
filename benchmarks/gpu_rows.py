"""Measures the rows of ``make bench-gpu``: seconds, operations, peak memory, and what the device did in one step."""

import contextlib
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from benchmarks.estimate import Launches
from benchmarks.timing import synchronize, time_call

CALLS = {"cuda": (3, 8), "cpu": (1, 2)}  # not timed, and timed
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
Row = dict[str, Any]


class Deadline:
    """A point in time after which no further row is started.

    Args:
        seconds: time from now.
    """

    def __init__(self, seconds: float) -> None:
        self._end = time.monotonic() + seconds

    @property
    def left(self) -> float:
        """Seconds that are left; negative after the end."""
        return self._end - time.monotonic()

    @property
    def passed(self) -> bool:
        """Whether no time is left."""
        return self.left <= 0


@dataclass(frozen=True)
class Case:
    """One row to measure.

    Attributes:
        name: what is measured.
        precision: ``fp32``, ``bf16`` or ``fp16``.
        questions: number of questions of one call.
        build: returns the call to time; the row's peak memory includes what stays allocated, not what building needs.
        flops: operations of the matrix products of one call; None if they are not counted.
        profiled: whether kernels and busy share are measured.
        facts: further values of the row.
    """

    name: str
    precision: str
    questions: int
    build: Callable[[], Callable[[], Any]]
    flops: int | None = None
    profiled: bool = False
    facts: Row = field(default_factory=dict)


def autocast(device: str, precision: str) -> contextlib.AbstractContextManager[Any]:
    """The autocast context of a precision; it does nothing for ``fp32``."""
    return contextlib.nullcontext() if precision == "fp32" else torch.autocast(device, DTYPES[precision])


def product_rate(device: str, precision: str, size: int, repeats: int = 5) -> float:
    """Operations per second of the product of two square matrices, the best of some calls.

    Args:
        device: ``cuda`` or ``cpu``.
        precision: dtype of the matrices, as in ``DTYPES``.
        size: rows and columns.
        repeats: number of timed calls.
    """
    left, right = (torch.randn(size, size, device=device, dtype=DTYPES[precision]) for _ in range(2))
    out = torch.empty_like(left)
    torch.mm(left, right, out=out)
    return 2 * size**3 / min(time_call(device, lambda: torch.mm(left, right, out=out)) for _ in range(repeats))


def measure_row(device: str, deadline: Deadline, case: Case, rates: dict[str, float]) -> Row:
    """Measures a row: the median of some calls after some that are not timed (``CALLS``), fewer at the deadline.

    Args:
        device: ``cuda`` or ``cpu``.
        deadline: if it has passed, the row is left out, and its ``error`` says so.
        case: the row.
        rates: the measured product rates by precision, for the share of the chip.

    Returns:
        Name, precision and questions, with ``seconds`` of each call and the figures derived from them, or with
        ``error``, one line: out of memory and any other failure of a row do not end the benchmark.
    """
    row: Row = {"name": case.name, "precision": case.precision, "questions": case.questions, **case.facts}
    if deadline.passed:
        return row | {"error": "left out: the section's time is used up"}
    try:
        call = case.build()
        if device == "cuda":
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()
        warm_up, repeats = CALLS[device]
        for _ in range(warm_up):
            time_call(device, call)
            if deadline.passed:
                break
        seconds: list[float] = []
        while len(seconds) < repeats and not (seconds and deadline.passed):
            seconds.append(time_call(device, call))
        row |= _derive(case, seconds, rates)
        if device == "cuda":
            row["peak_gb"] = torch.cuda.max_memory_allocated() / 1e9
        if case.profiled and not deadline.passed:
            row |= _try_profile(device, call, row["median"])
    except torch.OutOfMemoryError:
        row["error"] = "out of memory"
    except Exception as error:  # any failure belongs in its row, beside the others
        row["error"] = one_line(error)
    return row


def _derive(case: Case, seconds: list[float], rates: dict[str, float]) -> Row:
    median = statistics.median(seconds)
    row: Row = {"seconds": seconds, "median": median, "rate": case.questions / median}
    if case.flops is not None:
        per_second = case.flops / median
        row |= {"flops": case.flops, "tflops": per_second / 1e12, "share": per_second / rates["bf16"]}
    return row


def _try_profile(device: str, call: Callable[[], Any], seconds: float) -> Row:
    """``profile_call``, or ``profile_error``: a GPU without a working profiler still has its times."""
    try:
        return profile_call(device, call, seconds)
    except Exception as error:
        return {"profile_error": one_line(error)}


def one_line(error: BaseException) -> str:
    """The type and the first line of an error, at most 160 characters."""
    lines = str(error).splitlines() or [""]
    return f"{type(error).__name__}: {lines[0]}"[:160]


def profile_call(device: str, call: Callable[[], Any], seconds: float) -> Row:
    """What one call starts on the device.

    Args:
        device: on ``cpu`` the operations of the call are counted instead.
        call: the call.
        seconds: its time without the profiler, which slows the host but not the device.

    Returns:
        On a GPU ``kernels`` (copies and fills included), ``copies`` among them, and ``busy``, the share of ``seconds``
        in which the device works; on a CPU ``operations``.
    """
    if device == "cpu":
        with Launches() as counted:
            call()
        return {"operations": counted.count}
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profiler:
        call()
        synchronize(device)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "trace.json")
        profiler.export_chrome_trace(str(path))
        return summarize_trace(json.loads(path.read_text(encoding="utf-8")), seconds)


def summarize_trace(trace: dict[str, Any], seconds: float) -> Row:
    """Counts the device's activities in a trace and the time that they cover.

    Args:
        trace: a trace in Chrome's format, times in microseconds.
        seconds: time of the call without the profiler.

    Returns:
        ``kernels``, ``copies`` and ``busy`` as in ``profile_call``, and ``busy_ms``.
    """
    kinds = ("kernel", "gpu_memcpy", "gpu_memset")
    events = [e for e in trace["traceEvents"] if e.get("ph") == "X" and e.get("cat") in kinds]
    copies = sum("copy" in e["name"].lower() or e["cat"] == "gpu_memcpy" for e in events)
    busy = end = 0.0
    for start, stop in sorted((float(e["ts"]), float(e["ts"]) + float(e["dur"])) for e in events):
        busy += max(0.0, stop - max(start, end))  # streams overlap
        end = max(end, stop)
    return {"kernels": len(events), "copies": copies, "busy": busy / 1e6 / seconds, "busy_ms": busy / 1e3}
