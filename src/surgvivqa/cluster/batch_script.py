"""The text of a batch script: what it asks of SLURM, the environment, the checks before the run, and the run."""

from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

from surgvivqa import __version__
from surgvivqa.cluster.run_command import python_command, rendezvous_lines, words
from surgvivqa.cluster.settings import JobSettings

_QUOTED_AS_THEY_ARE = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-+=.,:/@%")
_COUNT_GPUS = (
    "import sys, torch; found, wanted = torch.cuda.device_count(), int(sys.argv[1]); "
    "found >= wanted or sys.exit(f'PyTorch {torch.__version__} sees {found} GPUs and the job has {wanted}; install its "
    "CUDA build, or give --gpus 0.')"
)


@dataclass(frozen=True)
class Job:
    """A job, as the script that is written for it.

    Attributes:
        kind: what it does: ``train``, ``eval``, ``cache``, ``sweep`` or ``table``; the name of its script and log.
        name: name of the job.
        settings: the values of the job.
        folder: the folder for script and log.
        steps: lines of bash that are run one after another.
        folders: folders that a container must see, absolute.
        array: SLURM's list of the tasks of an array, such as ``0-7%2``; None for a single job.
        warns: whether SLURM warns the job before the time limit, so that it saves and requeues itself.
        counts_gpus: whether the job begins with a count of its GPUs.
    """

    kind: str
    name: str
    settings: JobSettings
    folder: Path
    steps: Sequence[str]
    folders: Sequence[Path] = ()
    array: str | None = None
    warns: bool = True
    counts_gpus: bool = True

    @property
    def path(self) -> Path:
        """The script."""
        return self.folder / f"{self.kind}.sh"

    @property
    def log(self) -> str:
        """The log as SLURM's pattern: with the number of the job, and of the task."""
        return f"{self.kind}-{'%A_%a' if self.array else '%j'}.log"


def format_script(job: Job, write_command: str) -> str:
    """The script of a job.

    Args:
        job: the job.
        write_command: the command that wrote it, for a comment.

    Raises:
        InputError: a folder cannot be shown to the container.
    """
    settings = job.settings
    shell = "#!/bin/bash -l" if settings.module else "#!/bin/bash"  # a login shell defines module
    lines = [shell, *(f"#SBATCH --{option}" for option in _sbatch_options(job)), "#"]
    lines += [
        f"# Written by surgvivqa {__version__} {write_command}.",
        f"# Submit it again to continue after a failure: sbatch {words(job.path)}",
        "set -e -o pipefail",
        f"cd {words(Path.cwd())}",
    ]
    lines += [f"module load {words(module)}" for module in settings.module]
    lines += settings.setup
    lines.append("set -u # not before: the scripts of modules and environments read variables that are not set")
    if settings.offline:
        lines.append("export HF_HUB_OFFLINE=1")
    lines += [
        "",
        f"max_requeues={settings.max_requeues}",
        f"hides_code={int(settings.is_distributed)} # torchrun ends with 1 for any code of the run",
        files("surgvivqa.cluster").joinpath("supervise.sh").read_text(encoding="utf-8").strip(),
        "",
        *rendezvous_lines(settings),
    ]
    python = python_command(settings, job.folders)
    if settings.gpus and settings.preflight and job.counts_gpus:
        lines += [f"run_step {python} -c {words(_COUNT_GPUS, settings.gpus)}"]
    return "\n".join([*lines, *job.steps]) + "\n"


def _sbatch_options(job: Job) -> list[str]:
    settings = job.settings
    folder = str(job.folder).replace("%", "%%")  # sbatch replaces %j and the like in names of logs
    gres = None
    if settings.gpus:
        gres = ":".join(filter(None, ("gpu", settings.gpu_type, str(settings.gpus))))
    values = {
        "job-name": job.name,
        "partition": settings.partition,
        "account": settings.account,
        "qos": settings.qos,
        "time": settings.time,
        "nodes": settings.nodes,
        "ntasks-per-node": 1,
        "gres": gres,
        "constraint": settings.constraint,
        "cpus-per-task": settings.cpus,
        "mem": settings.mem,
        "array": job.array,
        "chdir": Path.cwd(),
        "output": f"{folder}/{job.log}",
        "open-mode": "append",
    }
    options = [f"{name}={_quoted(str(value))}" for name, value in values.items() if value is not None]
    options.append("requeue")
    if job.warns:
        options.append(f"signal=B:USR1@{settings.warn_seconds}")
    for item in settings.sbatch:
        name, equals, value = item.partition("=")
        options.append(f"{name}={_quoted(value)}" if equals else name)
    return options


def _quoted(value: str) -> str:
    """A value of an option in a line of #SBATCH, which sbatch splits at spaces outside quotation marks."""
    return value if set(value) <= _QUOTED_AS_THEY_ARE else f'"{value}"'
