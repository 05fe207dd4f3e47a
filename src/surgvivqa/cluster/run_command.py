"""The command line of a job: Python, torchrun for several processes, and srun for several machines."""

import dataclasses
import shlex
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from surgvivqa.cluster.settings import JobSettings
from surgvivqa.config import PART_FLAGS, option
from surgvivqa.utils.errors import InputError

_SIGNALS = "SIGTERM,SIGINT,SIGHUP,SIGQUIT,SIGUSR1"  # torchrun's own, and SLURM's warning


def words(*values: object) -> str:
    """Values as words of bash, quoted where that is needed."""
    return " ".join(shlex.quote(str(value)) for value in values)


def python_command(settings: JobSettings, folders: Iterable[Path]) -> str:
    """Python as words of bash, in the container if there is one.

    Args:
        settings: the values of the job.
        folders: folders that the container must see, absolute.

    Raises:
        InputError: the name of a folder cannot be written as an argument of the container.
    """
    if settings.container is None:
        return words(settings.python)
    command: list[object] = [settings.container_tool, "exec"]
    if settings.gpus:
        command.append("--nv")
    for folder in dict.fromkeys(folders):
        if ":" in str(folder) or "," in str(folder):
            raise InputError(f"{folder} cannot be shown to a container, because of its colon or comma; rename it.")
        command += ["--bind", folder]
    for item in settings.bind:
        command += ["--bind", Path(item).expanduser()]
    return words(*command, "--pwd", Path.cwd(), settings.container, settings.python)


def launch_command(settings: JobSettings, python: str, arguments: str) -> str:
    """The command that runs ``surgvivqa`` with arguments, in all processes of the job.

    Args:
        settings: the values of the job.
        python: Python as words of bash.
        arguments: the command's name and flags as words of bash.

    Returns:
        Words of bash. With several machines it uses the variables of ``rendezvous_lines``.
    """
    module = f"-m surgvivqa {arguments}"
    if not settings.is_distributed:
        return f"{python} {module}"
    torchrun = f"-m torch.distributed.run --nproc-per-node {settings.processes} --signals-to-handle {_SIGNALS}"
    if settings.nodes == 1:
        return f"{python} {torchrun} --standalone {module}"
    # A machine whose processes have stopped must not end the others, of which one still saves.
    srun = 'srun --ntasks="$SLURM_NNODES" --ntasks-per-node=1 --cpus-per-task="$SLURM_CPUS_PER_TASK" '
    srun += "--kill-on-bad-exit=0 --wait=0"
    meeting = '--nnodes "$SLURM_NNODES" --rdzv-id "$rendezvous" --rdzv-backend c10d --rdzv-endpoint "$head:$port"'
    return f"{srun} {python} {torchrun} {meeting} {module}"


def rendezvous_lines(settings: JobSettings) -> list[str]:
    """The lines of bash that several processes need: where they meet, and how long they may take to save."""
    if not settings.is_distributed:
        return []
    grace = max(30, settings.warn_seconds - 20)
    lines = [f"export TORCH_ELASTIC_SHUTDOWN_TIMEOUT={grace} # seconds that torchrun leaves the processes to save"]
    if settings.nodes > 1:
        lines += [
            'mapfile -t machines < <(scontrol show hostnames "$SLURM_JOB_NODELIST")',
            "head=${machines[0]}",
            "port=$((20000 + SLURM_JOB_ID % 10000))",
            "rendezvous=$SLURM_JOB_ID-${SLURM_RESTART_COUNT:-0} # another one after each requeue",
        ]
    return lines


def named_folders(config: Any) -> Iterator[Path]:
    """The folders that a config's paths and local model parts are in, absolute."""
    for name, value in vars(config).items():
        if dataclasses.is_dataclass(value):
            yield from named_folders(value)
            continue
        for path in value if isinstance(value, list) else [value]:
            if isinstance(path, str) and (
                (name in PART_FLAGS and Path(path).is_dir()) or (name == "dataset" and Path(path).is_file())
            ):
                path = Path(path)
            if isinstance(path, Path):
                yield _folder_of(path.absolute())


def _folder_of(path: Path) -> Path:
    """The folder through which a path is reached: its own, or, before the job makes it, the nearest that exists."""
    nearest = next(folder for folder in (path, *path.parents) if folder.is_dir())
    return path if nearest == Path(path.anchor) else nearest


def check_several(settings: JobSettings, config: Any) -> None:
    """Raises InputError for flags of a run with which its job could not be requeued."""
    if getattr(config, "resume", "auto") == "never":
        raise InputError("--resume never would stop a requeued job; leave it out.")
    if settings.is_distributed and getattr(config, "max_hours", None) is not None:
        raise InputError(
            f"{option('max_hours')} cannot requeue a job of several processes, because torchrun hides their exit code; "
            f"leave it out, and give --time."
        )
