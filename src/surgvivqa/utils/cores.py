"""The CPU cores that this process may use, which may be fewer than the machine has."""

import os
from pathlib import Path

MAX_WORKERS = 16
_CGROUP = Path("/sys/fs/cgroup")


def usable_cores() -> int:
    """The number of cores for this process.

    They are those that it is bound to, at most as many as SLURM and the control group of a container allow. The
    processes that torchrun starts share them; those that srun starts have their own.
    """
    counts = [len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1]
    for text in (os.environ.get("SLURM_CPUS_PER_TASK", ""), _cgroup_cores()):
        if text.isdigit():
            counts.append(int(text))
    has_own = int(os.environ.get("SLURM_NTASKS", "1")) > 1 and "TORCHELASTIC_RUN_ID" not in os.environ
    sharing = 1 if has_own else int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    return max(1, min(counts) // sharing)


def default_workers() -> int:
    """The number of processes that decode frames if none is given: the cores without one, from 1 to 16."""
    return max(1, min(MAX_WORKERS, usable_cores() - 1))


def _cgroup_cores() -> str:
    """The limit of a container, rounded up; empty if there is none."""
    try:
        quota, period = (_CGROUP / "cpu.max").read_text().split()[:2]
    except (OSError, ValueError):
        try:
            quota, period = ((_CGROUP / "cpu" / f"cpu.cfs_{name}_us").read_text() for name in ("quota", "period"))
        except OSError:
            return ""
    try:
        allowed, total = int(quota), int(period)
    except ValueError:  # "max"
        return ""
    return str(-(-allowed // total)) if allowed > 0 and total > 0 else ""
