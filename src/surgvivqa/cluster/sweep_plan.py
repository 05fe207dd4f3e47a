"""The runs of a sweep: every combination of the values that ``--vary`` gives to train's flags.

``sweep.json`` in the sweep's folder holds them, for the table of results.
"""

import dataclasses
import difflib
import itertools
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import UnionType
from typing import Any, Union, get_args, get_origin, get_type_hints

import pydantic
from pydantic import TypeAdapter, ValidationError

from surgvivqa.config import TrainConfig, flags_of, option
from surgvivqa.utils.errors import InputError
from surgvivqa.utils.safe_json import read_json

PLAN_FILE = "sweep.json"
SEED = "seed"
MAX_RUNS = 1000  # SLURM's usual limit of an array
_FIXED = ("checkpoint_dir", "log_file", "overwrite", "resume")  # each run has its own folder


@dataclass(frozen=True)
class SweepRun:
    """A run of a sweep.

    Attributes:
        task: its task in the array, from 0.
        name: its folder in that of the sweep, made of the values.
        values: the values that are varied, by flag name.
    """

    task: int
    name: str
    values: Mapping[str, Any]

    @property
    def label(self) -> str:
        """The values without the seed, as they are given on the command line."""
        return ", ".join(f"{name.replace('_', '-')}={self.values[name]}" for name in self.values if name != SEED)


@dataclass(frozen=True)
class SweepPlan:
    """The runs of a sweep and how they are compared.

    Attributes:
        varied: the names of the varied flags, in the order given.
        runs: the runs, in the order of their tasks.
        splits: the evaluated splits.
        metric: the metric by which the best configuration is chosen on ``val``.
        script: the script of the array, for the command that repeats a task.
    """

    varied: Sequence[str]
    runs: Sequence[SweepRun]
    splits: Sequence[str]
    metric: str
    script: str

    def to_json(self) -> dict[str, Any]:
        """What ``sweep.json`` holds."""
        return dataclasses.asdict(self)


def read_plan(folder: Path) -> SweepPlan:
    """Reads the plan of the sweep in a folder.

    Raises:
        InputError: there is no plan, or it is not what ``slurm sweep`` writes.
    """
    path = folder / PLAN_FILE
    try:
        content = read_json(path)
        plan = TypeAdapter(SweepPlan).validate_python(content)
    except OSError as error:
        raise InputError(
            f"{path} cannot be read ({error.strerror}); give the --checkpoint-dir that surgvivqa slurm sweep was given."
        ) from None
    except ValueError as error:
        raise InputError(f"{path} is not the plan of a sweep ({str(error).splitlines()[0]}).") from None
    for run in plan.runs:
        if run.name != Path(run.name).name or run.name in ("", ".", "..") or set(run.values) != set(plan.varied):
            raise InputError(f"{path} is not the plan of a sweep (run {run.name!r}).")
    return plan


def plan_runs(vary: Sequence[str]) -> list[SweepRun]:
    """The combinations of all values.

    Args:
        vary: texts such as ``seed=1,2,3``, one for each flag.

    Raises:
        InputError: a flag is unknown (the nearest is named), cannot be varied or is given twice; a value does not have
            the flag's type; or there are too many runs.
    """
    values: dict[str, list[Any]] = {}
    for item in vary:
        name, equals, texts = item.partition("=")
        name = name.strip().removeprefix("--").replace("-", "_")
        if not equals or not texts.strip():
            raise InputError(f"--vary {item!r} must be FLAG=VALUE,VALUE, such as seed=1,2,3.")
        _check_name(name)
        if name in values:
            raise InputError(f"--vary gives {name.replace('_', '-')} twice; give all its values at once.")
        values[name] = [_parse(name, text.strip()) for text in texts.split(",")]
        if len(set(values[name])) < len(values[name]):
            raise InputError(f"--vary {item!r} has the same value twice.")
    combinations = list(itertools.product(*values.values()))
    if len(combinations) > MAX_RUNS:
        raise InputError(f"--vary makes {len(combinations)} runs; at most {MAX_RUNS} fit into one array.")
    runs = []
    for task, combination in enumerate(combinations):
        chosen = dict(zip(values, combination, strict=True))
        runs.append(SweepRun(task, _folder_name(chosen), chosen))
    if len({run.name for run in runs}) < len(runs):
        raise InputError("--vary has values whose folders would have the same name; give them in separate sweeps.")
    return runs


def _check_name(name: str) -> None:
    known = [flag for flag in flags_of(TrainConfig) if flag not in _FIXED]
    if name in _FIXED:
        raise InputError(f"--vary cannot vary {option(name)}, which each run of a sweep has of its own.")
    if name not in known:
        nearest = difflib.get_close_matches(name, known, n=1, cutoff=0.0)[0]
        raise InputError(
            f"--vary names the unknown flag {name.replace('_', '-')!r}; the nearest flag of train is "
            f"{nearest.replace('_', '-')!r}."
        )
    if list in (hint := get_type_hints(TrainConfig)[name], get_origin(hint)):
        raise InputError(f"--vary cannot vary {option(name)}, whose values are lists.")


def _parse(name: str, text: str) -> Any:
    """A value of train's flag, of the flag's type; a path is a text."""
    hint = get_type_hints(TrainConfig)[name]
    options = get_args(hint) if get_origin(hint) in (UnionType, Union) else (hint,)
    if text == "none" and type(None) in options:
        return None
    for kind in options:
        try:
            value = TypeAdapter(kind).validate_python(text)
        except (ValidationError, pydantic.PydanticUserError):
            continue
        return str(value) if isinstance(value, Path) else value
    names = [getattr(kind, "__name__", str(kind)) for kind in options if kind is not type(None)]
    described = ", ".join(map(str, get_args(options[0]))) if get_args(options[0]) else " or ".join(names)
    raise InputError(f"--vary {name.replace('_', '-')}: {text!r} is not a value of {option(name)} ({described}).")


def _folder_name(values: Mapping[str, Any]) -> str:
    parts = [f"{name.replace('_', '-')}-{value}" for name, value in values.items()]
    return re.sub(r"[^\w.+-]+", "-", "_".join(parts))[:200] or "run"
