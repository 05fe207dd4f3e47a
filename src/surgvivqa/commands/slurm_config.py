"""The flags of ``surgvivqa slurm``: those of the command that a job runs, and those of the cluster."""

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import yaml

from surgvivqa.cluster.settings import ClusterConfig, Texts
from surgvivqa.commands.cache import CacheConfig
from surgvivqa.commands.eval_config import EvalConfig
from surgvivqa.config import OptionalModelConfig, TrainConfig, flag, given_flags

T = TypeVar("T")


@dataclass(kw_only=True)
class SlurmTrainConfig(TrainConfig, ClusterConfig):
    """Writes a batch script that trains, and with --submit submits it. Takes train's flags and --config files."""

    then_eval: bool = flag("Also write, and submit, a job that evaluates the run once training has succeeded.", False)
    eval_splits: str = flag("Splits that --then-eval evaluates, separated by commas.", "test")


@dataclass(kw_only=True)
class SlurmEvalConfig(EvalConfig, ClusterConfig):
    """Writes a batch script that evaluates, and with --submit submits it. Takes eval's flags and --config files."""


@dataclass(kw_only=True)
class SlurmCacheConfig(CacheConfig, ClusterConfig):
    """Writes a batch script that fills the feature cache by an array of tasks, which share the videos."""

    tasks: int = flag("Number of tasks of the array, at most one for each video.", 8, least=1, most=1000)
    max_parallel: int | None = flag("Number of tasks that run at the same time. Default: all.", None, least=1)


@dataclass(kw_only=True)
class SlurmSweepConfig(TrainConfig, ClusterConfig):
    """Writes batch scripts that train and evaluate one run for each combination of values, and then make a table.

    Each run is a task of an array, and has a folder of its own in --checkpoint-dir.
    """

    vary: Texts = flag(
        "Flag of train and its values, such as seed=1,2,3 or lora-r=8,16; may be given several times, for every "
        "combination.",
        default_factory=list,
    )
    eval_splits: str = flag(
        "Splits that each run is evaluated on, separated by commas. The best configuration is chosen on val.",
        "val,test",
    )
    max_parallel: int | None = flag("Number of runs at the same time. Default: all.", None, least=1)
    table: Path | None = flag(
        "Folder of a sweep whose results are read, printed, and written to sweep.md and sweep.csv in it; nothing is "
        "submitted.",
        None,
    )


def narrow(config: Any, cls: type[T]) -> T:
    """The part of a config that is another command's.

    Args:
        config: the config of a class derived from ``cls``.
        cls: the config class of the command that the job runs.
    """
    return cls(**{field.name: getattr(config, field.name) for field in dataclasses.fields(cls)})  # type: ignore[arg-type]


def format_flags(config: Any) -> str:
    """A config as YAML for ``--config``; paths become text, and model flags that are not given are left out."""
    values: dict[str, Any] = {}
    for name, value in vars(config).items():
        values |= given_flags(value) if isinstance(value, OptionalModelConfig) else {name: value}
    plain = {
        name: [_plain(v) for v in value] if isinstance(value, list) else _plain(value) for name, value in values.items()
    }
    return yaml.safe_dump(plain, sort_keys=False)


def _plain(value: Any) -> Any:
    return str(value) if isinstance(value, Path) else value
