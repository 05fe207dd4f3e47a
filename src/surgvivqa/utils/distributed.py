"""Runs of several processes under torchrun: devices, errors raised in all processes, shared work."""

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
    """Connects the processes of this run (one without torchrun). Other processes than the main one log only errors.

    Raises:
        InputError: there are more processes than GPUs on this machine.
    """
    world_size, local_world_size = (int(os.environ.get(name, "1")) for name in ("WORLD_SIZE", "LOCAL_WORLD_SIZE"))
    # Without cpu=True, Accelerate treats each of torchrun's processes on CPUs as a run of its own.
    use_cpu = parse_flag_from_env("ACCELERATE_USE_CPU") or (world_size > 1 and not torch.cuda.is_available())
    num_gpus = torch.cuda.device_count()
    if not use_cpu and local_world_size > 1 and num_gpus < local_world_size:
        raise InputError(
            f"{local_world_size} processes were started on this machine but {num_gpus} GPUs are visible; start one for "
            f"each GPU, or set ACCELERATE_USE_CPU=1."
        )
    state = PartialState(cpu=use_cpu)
    if not state.is_main_process:
        log.setLevel(logging.ERROR)
    return state


def check_precision(fp16: bool, bf16: bool) -> None:
    """Checks the flags of a command's precision.

    Raises:
        InputError: both precisions are requested, or fp16 without a GPU.
    """
    if fp16 and bf16:
        raise InputError("--fp16 and --bf16 cannot be combined; give one of them.")
    if fp16 and not torch.cuda.is_available():
        raise InputError("--fp16 needs a GPU and none is visible; leave the flag out to use float32 on the CPU.")


def start_accelerator(fp16: bool, bf16: bool) -> Accelerator:
    """Connects the processes of this run, and sets devices and mixed precision.

    Raises:
        InputError: both precisions are requested, or fp16 without a GPU; or there are more processes than GPUs.
    """
    check_precision(fp16, bf16)
    start_processes()
    return Accelerator(mixed_precision="fp16" if fp16 else "bf16" if bf16 else "no")


@contextlib.contextmanager
def raise_on_all_ranks() -> Iterator[None]:
    """Makes an error of the body in one process an error in all, so that no process waits for one that has ended.

    Every process must enter it.

    Raises:
        Exception: the body's error, in the process with the lowest rank of those that failed.
        InputError, RunError: in the other processes, with the same sentence and ``reported_elsewhere`` set.
    """
    error: Exception | None = None
    try:
        yield
    except Exception as raised:
        error = raised
    state = PartialState()
    local_fault = None if error is None else (isinstance(error, InputError), _sentence(error))
    faults: list[Any] = gather_object([local_fault]) if state.num_processes > 1 else [local_fault]
    first = next((rank for rank, fault in enumerate(faults) if fault is not None), None)
    if first is None:
        return
    if error is None or first != state.process_index:
        is_input_error, sentence = faults[first]
        error = InputError(sentence) if is_input_error else RunError(sentence)
        error.reported_elsewhere = True
    raise error


# Parts of the messages of gloo and NCCL about a lost process; the last two also if its machine is lost.
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
    """Turns the body's error into a ``RunError`` if another process of the run was killed.

    Args:
        advice: what to do next, for the message.

    Raises:
        RunError: another process was killed.
    """
    try:
        yield
    except RuntimeError as error:  # gloo and NCCL have no exception type for it
        has_others = int(os.environ.get("WORLD_SIZE", "1")) > 1
        if not has_others or not any(word in str(error).lower() for word in _LOST_PROCESS):
            raise
        raise RunError(f"Another process of this run has ended ({first_line(error, 80)}); {advice}.") from error


def exit_if_several(exit_code: int, last_message: str = "") -> None:
    """Ends this process at once if it is one of several; returns if it is the only one.

    The regular teardown can hang while PyTorch joins gloo's threads (seen in one of twenty failing runs on a busy
    machine). Or gloo's threads abort the process.

    Args:
        exit_code: exit code of the process.
        last_message: text that is written to standard error before.
    """
    if not torch.distributed.is_initialized():
        return
    end_workers()
    logging.shutdown()
    sys.stderr.write(last_message)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(exit_code)


def any_rank(flag: bool, device: torch.device) -> bool:
    """Whether ``flag`` is true in any process; every process must call it, with its ``device``."""
    return bool(reduce(torch.tensor(float(flag), device=device), "sum").item())


def shard_and_gather(
    items: Sequence[T],
    compute: Callable[[Sequence[T]], list[R]],
    item_key: Callable[[T], Hashable],
    result_key: Callable[[R], Hashable],
) -> list[R]:
    """Computes results for ``items``, each process for a part of them, and gathers all in each process.

    Args:
        items: all items, the same list in every process.
        compute: returns the results of the given items, in their order; any number per item.
        item_key: the unique key of an item.
        result_key: the key of the item that a result belongs to.

    Returns:
        All results, in the order of ``items``.

    Raises:
        SurgViVQAError: ``compute`` failed in some process.
    """
    state = PartialState()
    rank, world = state.process_index, state.num_processes
    with raise_on_all_ranks():
        results = compute(items[rank::world])
    if world == 1:
        return results
    order = {item_key(item): i for i, item in enumerate(items)}
    return sorted(gather_object(results), key=lambda result: order[result_key(result)])


def _sentence(error: Exception) -> str:
    return error.sentence if isinstance(error, SurgViVQAError) else f"{type(error).__name__}: {error}"
