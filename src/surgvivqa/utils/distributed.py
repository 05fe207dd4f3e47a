"""Runs of several processes that torchrun started: devices, errors that all processes raise, shared work."""

import contextlib
import logging
import os
import sys
from collections.abc import Callable, Hashable, Iterator, Sequence
from typing import Any, TypeVar

import torch
from accelerate import Accelerator, PartialState
from accelerate.utils import gather_object, parse_flag_from_env, reduce

from surgvivqa.utils.errors import InputError, RunError, SurgViVQAError, first_line
from surgvivqa.utils.loader_workers import end_workers

log = logging.getLogger("surgvivqa")
T = TypeVar("T")
R = TypeVar("R")


def start_processes() -> PartialState:
    """Joins the processes of this run; without torchrun there is one. Only the main process logs below ERROR.

    Raises:
        InputError: there are more processes than GPUs on this machine.
    """
    several, here = (int(os.environ.get(name, "1")) for name in ("WORLD_SIZE", "LOCAL_WORLD_SIZE"))
    # Without cpu=True, Accelerate treats each of torchrun's processes on CPUs as a run of its own.
    cpu = parse_flag_from_env("ACCELERATE_USE_CPU") or (several > 1 and not torch.cuda.is_available())
    devices = torch.cuda.device_count()
    if not cpu and here > 1 and devices < here:
        raise InputError(
            f"{here} processes were started on this machine but {devices} GPUs are visible; start one for each GPU, or "
            f"set ACCELERATE_USE_CPU=1."
        )
    state = PartialState(cpu=cpu)
    if not state.is_main_process:
        log.setLevel(logging.ERROR)
    return state


def start_accelerator(fp16: bool, bf16: bool) -> Accelerator:
    """Starts the processes of this run and sets devices and precision.

    Raises:
        InputError: both precisions are asked for, or fp16 without a GPU; or there are more processes than GPUs.
    """
    if fp16 and bf16:
        raise InputError("--fp16 and --bf16 exclude each other; give one.")
    if fp16 and not torch.cuda.is_available():
        raise InputError("--fp16 needs a GPU and none is visible; leave the flag out to train in float32 on the CPU.")
    start_processes()
    return Accelerator(mixed_precision="fp16" if fp16 else "bf16" if bf16 else "no")


@contextlib.contextmanager
def raise_on_all_ranks() -> Iterator[None]:
    """If the body fails in one process it fails in all, so that none waits for one that has ended.

    Every process must enter it. The first process that failed raises its own error and reports it; the others raise
    the same sentence, marked ``reported_elsewhere``.
    """
    error: Exception | None = None
    try:
        yield
    except Exception as raised:
        error = raised
    state = PartialState()
    own = None if error is None else (isinstance(error, InputError), _sentence(error))
    faults: list[Any] = gather_object([own]) if state.num_processes > 1 else [own]
    first = next((process for process, fault in enumerate(faults) if fault is not None), None)
    if first is None:
        return
    if error is None or first != state.process_index:
        by_input, sentence = faults[first]
        error = InputError(sentence) if by_input else RunError(sentence)
        error.reported_elsewhere = True
    raise error


# What gloo and NCCL report of a lost process; the last two if its machine is lost.
_LOST_PROCESS = (
    "connection closed",
    "connection reset",
    "connection refused",
    "broken pipe",
    "nccl",
    "timeout",
    "timed out",
)


@contextlib.contextmanager
def explain_lost_processes(advice: str) -> Iterator[None]:
    """Turns the body's error into a ``RunError`` with ``advice`` if another process of the run was killed."""
    try:
        yield
    except RuntimeError as error:  # gloo and NCCL have no exception type of their own for it
        several = int(os.environ.get("WORLD_SIZE", "1")) > 1
        if not several or not any(word in str(error).lower() for word in _LOST_PROCESS):
            raise
        raise RunError(f"Another process of this run has ended ({first_line(error, 80)}); {advice}.") from error


def leave_if_several(exit_code: int, last_words: str = "") -> None:
    """Ends this process at once with ``exit_code`` if it is one of several; returns if it is alone.

    The usual teardown can hang: PyTorch 2.13's ``DistributedDataParallel`` joins gloo's threads while it holds Python's
    lock, and such a thread may wait for that lock to release a tensor (seen in one of twenty failing runs on a busy
    machine). Or gloo's threads abort the process.

    Args:
        exit_code: of the process.
        last_words: written to standard error before.
    """
    if not torch.distributed.is_initialized():
        return
    end_workers()
    logging.shutdown()
    sys.stderr.write(last_words)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(exit_code)


def any_rank(flag: bool, device: torch.device) -> bool:
    """Whether ``flag`` is set in any process; all processes must call it."""
    return bool(reduce(torch.tensor(float(flag), device=device), "sum").item())


def shard_and_gather(
    items: Sequence[T],
    compute: Callable[[Sequence[T]], list[R]],
    item_key: Callable[[T], Hashable],
    result_key: Callable[[R], Hashable],
) -> list[R]:
    """Computes results for ``items``, every process for its share of them, and gathers them in every process.

    Args:
        items: all items, the same list in every process.
        compute: gives the results of the items it is handed, in their order: any number per item, or none.
        item_key: a value that tells items apart.
        result_key: the key of the item that a result belongs to.

    Returns:
        All results, in the order of ``items``.

    Raises:
        SurgViVQAError: ``compute`` failed in some process.
    """
    state = PartialState()
    rank, world = state.process_index, state.num_processes
    with raise_on_all_ranks():
        mine = compute(items[rank::world])
    if world == 1:
        return mine
    order = {item_key(item): i for i, item in enumerate(items)}
    return sorted(gather_object(mine), key=lambda result: order[result_key(result)])


def _sentence(error: Exception) -> str:
    return error.sentence if isinstance(error, SurgViVQAError) else f"{type(error).__name__}: {error}"
