"""What a job asks of SLURM and how it runs there: the flags, and a site file with a cluster's usual values."""

import dataclasses
import difflib
import os
import re
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, get_type_hints

import tyro
from pydantic import TypeAdapter, ValidationError

from surgvivqa.config import check_ranges, flag, flags_of, option, read_yaml
from surgvivqa.utils.errors import InputError
from surgvivqa.utils.safe_yaml import plain_yaml
from surgvivqa.utils.secrets import holds_secret

SITE_VARIABLE = "SURGVIVQA_SITE"
MAX_GPUS = 8
_CORES_PER_GPU = 8

# Of a flag that may be given several times, with one text or several; a list in a YAML file gives all at once.
Texts = Annotated[list[list[str]], tyro.conf.UseAppendAction]

_PATTERNS = {
    "partition": (r"[\w.,+-]+", "a name, or several separated by commas"),
    "account": (r"[\w.@:+-]+", "a name"),
    "qos": (r"[\w.+-]+", "a name"),
    "gpu_type": (r"[\w.-]+", "a name such as a100"),
    "constraint": (r"[\w.,+&|*()\[\]:-]+", "features such as a100|h100"),
    "mem": (r"\d+[KMGTkmgt]?", "a size such as 64G"),
    # Minutes alone are not accepted, because YAML reads 12:00:00 without quotation marks as the number 43200.
    "time": (r"\d+(:\d\d){1,2}|\d+-\d+(:\d\d){0,2}", "a time such as 12:00:00 or 2-00:00:00, quoted in YAML"),
    "job_name": (r"[\w.,=+-]+", "letters, digits and . , = + - _"),
}
_OPTION = re.compile(r"(?P<name>[a-z][a-z-]*)(=(?P<value>.+))?")
# What the scripts set themselves, so that another value would break them.
_RESERVED = (
    *("job-name", "partition", "account", "qos", "time", "nodes", "ntasks", "ntasks-per-node", "cpus-per-task", "mem"),
    *("gres", "gpus", "gpus-per-node", "constraint", "array", "output", "error", "open-mode", "signal", "requeue"),
    *("no-requeue", "chdir", "dependency", "parsable", "wrap"),
)


@dataclass(kw_only=True)
class SiteConfig:
    """Flags that a site file may set. A flag that is not given has the site file's value, or else the default."""

    partition: str | None = flag("Partition of the job. Default: the cluster's.", None)
    account: str | None = flag("Account that the job is charged to. Default: yours.", None)
    qos: str | None = flag("Quality of service of the job. Default: the cluster's.", None)
    time: str | None = flag("Time limit, such as 12:00:00 or 2-00:00:00. Default: the partition's.", None)
    nodes: int | None = flag("Number of machines; training and evaluation use all of them. Default: 1.", None, least=1)
    gpus: int | None = flag(
        "Number of GPUs of each machine, up to 8; 0 asks for none. Default: 1.", None, least=0, most=8
    )
    gpu_type: str | None = flag("Type of the GPUs as the cluster names it, such as a100. Default: any.", None)
    processes: int | None = flag(
        "Processes on each machine. Default: one for each GPU; one without GPUs.", None, least=1, most=64
    )
    constraint: str | None = flag("Features that the machines must have, such as a100|h100.", None)
    cpus: int | None = flag("CPU cores of each machine. Default: 8 for each GPU, or 8 without.", None, least=1)
    mem: str | None = flag("Memory of each machine, such as 64G. Default: the partition's.", None)
    warn_seconds: int | None = flag(
        "Seconds before the time limit at which SLURM warns the job, which then saves and requeues itself. "
        "Default: 120.",
        None,
        least=10,
    )
    max_requeues: int | None = flag(
        "How often a job that was warned may requeue itself; 0 turns that off. Default: 20.", None, least=0
    )
    module: Texts = flag("Environment module to load; may be given several times.", default_factory=list)
    setup: Texts = flag(
        "Line of bash that prepares the job, such as `source env/bin/activate`; may be given several times.",
        default_factory=list,
    )
    sbatch: Texts = flag(
        "Another option of sbatch as NAME=VALUE, such as exclude=node7; may be given several times.",
        default_factory=list,
    )
    python: str | None = flag(
        "Python that has surgvivqa installed. Default: the one that writes the script, or python where --module, "
        "--setup or --container is given.",
        None,
    )
    container: Path | None = flag(
        "Apptainer image (.sif) in which the job runs, made from containers/surgvivqa.def.", None
    )
    container_tool: Literal["apptainer", "singularity"] | None = flag(
        "Command that runs the container. Default: apptainer.", None
    )
    bind: Texts = flag(
        "Folder that the container sees too, as SOURCE or SOURCE:TARGET; may be given several times. The folders that "
        "the run's flags name are always seen.",
        default_factory=list,
    )
    offline: bool | None = flag(
        "Use only model weights that were downloaded before (HF_HUB_OFFLINE=1), for machines without a network. "
        "Default: no.",
        None,
    )


@dataclass(kw_only=True)
class ClusterConfig(SiteConfig):
    """The flags that every command of ``surgvivqa slurm`` has beside those of the command that it runs."""

    submit: bool = flag("Submit the scripts with sbatch. Default: only write and print them.", False)
    site: Path | None = flag(
        "YAML file with a cluster's usual values for these flags. Default: $SURGVIVQA_SITE, or "
        "~/.config/surgvivqa/site.yaml if it exists; /dev/null reads none.",
        None,
    )
    scripts: Path | None = flag(
        "Folder for scripts, their configuration and the logs of the jobs. Default: slurm/ in the folder of the run.",
        None,
    )
    job_name: str | None = flag("Name of the job. Default: that of the folder of the run.", None)
    paths_on_nodes: bool = flag(
        "Do not check here that the folders of the data exist, because only the job sees them.", False
    )
    preflight: bool = flag(
        "Let the job begin with a count of the GPUs that PyTorch sees and, before training, with surgvivqa check.", True
    )


@dataclass(frozen=True)
class JobSettings:
    """The values of a job, after flags, site file and defaults. Attributes as in ``SiteConfig``."""

    partition: str | None
    account: str | None
    qos: str | None
    time: str | None
    nodes: int
    gpus: int
    gpu_type: str | None
    processes: int
    constraint: str | None
    cpus: int
    mem: str | None
    warn_seconds: int
    max_requeues: int
    module: tuple[str, ...]
    setup: tuple[str, ...]
    sbatch: tuple[str, ...]
    python: str
    container: Path | None
    container_tool: str
    bind: tuple[str, ...]
    offline: bool
    preflight: bool

    @property
    def is_distributed(self) -> bool:
        """Whether the job has several processes, which torchrun starts."""
        return self.nodes * self.processes > 1


def resolve_settings(config: ClusterConfig) -> JobSettings:
    """The values of a job: those of the flags, else those of the site file, else the defaults.

    Values of flags that are given several times are those of the site file, followed by those of the flags.

    Raises:
        InputError: a value cannot be used, or the site file cannot be read or has an unknown key.
    """
    site = read_site_file(config)
    check_ranges(config)
    values: dict[str, Any] = {}
    for field in dataclasses.fields(SiteConfig):
        given, usual = getattr(config, field.name), site.get(field.name)
        if isinstance(given, list):
            values[field.name] = (*(usual or ()), *flatten(given))
        else:
            values[field.name] = usual if given is None else given
    for name, value in {**values, "job_name": config.job_name}.items():
        for text in value if isinstance(value, tuple) else (value,):
            _check_text(name, text)
    for item in values["sbatch"]:
        _check_sbatch_option(item)
    prepares = values["module"] or values["setup"] or values["container"] is not None
    gpus = 1 if values["gpus"] is None else values["gpus"]
    defaults = {
        "nodes": 1,
        "gpus": gpus,
        "processes": max(1, gpus),
        "cpus": _CORES_PER_GPU * max(1, gpus),
        "warn_seconds": 120,
        "max_requeues": 20,
        "python": "python" if prepares else sys.executable,
        "container_tool": "apptainer",
        "offline": False,
    }
    for name, default in defaults.items():
        if values[name] is None:
            values[name] = default
    if gpus and values["processes"] > gpus:
        raise InputError(
            f"--processes {values['processes']} is more than --gpus {gpus}; start at most one for each GPU."
        )
    if values["container"] is not None:
        values["container"] = values["container"].absolute()
    return JobSettings(**values, preflight=config.preflight)


def read_site_file(config: ClusterConfig) -> dict[str, Any]:
    """The values of the site file, by flag name; empty without one.

    Raises:
        InputError: the file is missing although it was named, cannot be read, has an unknown key (the nearest is
            named) or a value of another type, or holds a secret.
    """
    named = config.site or (Path(os.environ[SITE_VARIABLE]).expanduser() if os.environ.get(SITE_VARIABLE) else None)
    path = named or Path("~/.config/surgvivqa/site.yaml").expanduser()
    if path == Path(os.devnull) or (named is None and not path.is_file()):
        return {}
    values = {name: value for name, value in read_yaml(path, SiteConfig).items() if value is not None}
    # The same file with all values as texts: YAML reads an unquoted 12:00:00, or an account of digits, as a number.
    texts = plain_yaml(path, as_texts=True) or {}
    texts = {str(key).replace("-", "_"): text for key, text in texts.items()}
    hints = get_type_hints(SiteConfig)
    for name, value in values.items():
        kind = hints[name]
        if kind == list[list[str]]:
            kind, value = list[str], value if isinstance(value, list) else [value]
        elif name in _PATTERNS and isinstance(value, int | float) and not isinstance(value, bool):
            value = texts[name]
        try:
            values[name] = TypeAdapter(kind).validate_python(value)
        except ValidationError as error:
            reason = error.errors()[0]["msg"]
            raise InputError(f"Site file {path}: {name} cannot be {value!r} ({reason}).") from None
        if holds_secret(str(value)):
            raise InputError(f"Site file {path}: {name} holds what looks like a token, which scripts would show.")
    try:
        check_ranges(SiteConfig(**{name: value for name, value in values.items() if not isinstance(value, list)}))
    except InputError as error:
        raise InputError(f"Site file {path}: {error}") from None
    if isinstance(values.get("container"), Path):
        values["container"] = values["container"].expanduser()
    return values


def flatten(texts: list[list[str]]) -> list[str]:
    """The texts of a flag that may be given several times."""
    return [text for group in texts for text in group]


def _check_text(name: str, value: Any) -> None:
    """Raises InputError if a text cannot stand in a script, where it must not begin a line of its own."""
    if value is None or not isinstance(value, str | Path):
        return
    text = str(value)
    if not text.strip() or not text.isprintable():
        raise InputError(f"{option(name)} {text!r} must be one line of printable characters.")
    if name in _PATTERNS:
        pattern, description = _PATTERNS[name]
        if not re.fullmatch(pattern, text, flags=re.ASCII):
            raise InputError(f"{option(name)} {text!r} must be {description}.")


def _check_sbatch_option(item: str) -> None:
    match = _OPTION.fullmatch(item)
    if match is None:
        raise InputError(f"--sbatch {item!r} must be NAME=VALUE without dashes in front, such as exclude=node7.")
    name = match["name"]
    if name in _RESERVED:
        nearest = difflib.get_close_matches(name.replace("-", "_"), flags_of(SiteConfig), n=1)
        advice = f"; use {option(nearest[0])}" if nearest else ""
        raise InputError(f"--sbatch {name} is set by the script itself{advice}.")
    if '"' in item or "\\" in item:
        raise InputError(f"--sbatch {item!r} must not have quotation marks or backslashes.")
