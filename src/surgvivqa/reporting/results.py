"""The results of runs on disk, for reports, comparisons and exports."""

import dataclasses
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from surgvivqa.data.labels import SSG_QA, LabelSet
from surgvivqa.evaluation.predictions import Prediction
from surgvivqa.evaluation.report import EvaluationReport, read_report
from surgvivqa.utils.errors import InputError
from surgvivqa.utils.safe_yaml import plain_yaml


@dataclass(frozen=True)
class RunResults:
    """An evaluation, and the training run that it belongs to.

    Attributes:
        name: a short name for tables and legends, different for each run that is shown together.
        folder: the folder of ``metrics.json`` and ``predictions.jsonl``.
        report: the content of ``metrics.json``.
        predictions: the content of ``predictions.jsonl``.
        run_folder: the folder of the training run; None if it is not known.
        flags: the flags of the training run, from its ``config.yaml``; empty if it is not known.
        log: the lines of the training run's ``metrics.jsonl``; empty if it is not known.
    """

    name: str
    folder: Path
    report: EvaluationReport
    predictions: Sequence[Prediction]
    run_folder: Path | None
    flags: Mapping[str, Any]
    log: Sequence[Mapping[str, Any]]


def read_results(path: Path, split: str = "test") -> RunResults:
    """Reads the results of one run.

    Args:
        path: a run folder that has been evaluated (``eval-<split>`` in it is read), or the folder of an evaluation.
        split: the split whose evaluation is read in a run folder.

    Raises:
        InputError: there is no evaluation, or one of its files cannot be read.
    """
    if not path.is_dir():
        raise InputError(f"{path} is not a folder; give a run folder, or the --output folder of an evaluation.")
    folder = path if (path / "metrics.json").is_file() else path / f"eval-{split}"
    if not (folder / "metrics.json").is_file():
        raise InputError(
            f"{path} has no evaluation of the {split} split ({folder / 'metrics.json'} is missing); run "
            f"`surgvivqa eval --checkpoint {path} --split {split}` first, or give the --output folder of an evaluation."
        )
    report = read_report(folder / "metrics.json")
    run_folder = _find_run_folder(folder, report)
    flags, log = ({}, []) if run_folder is None else (_read_flags(run_folder), _read_log(run_folder))
    predictions = read_predictions(folder / "predictions.jsonl", report.label_set)
    name = path.name if path.name not in ("", ".") else path.resolve().name
    return RunResults(name, folder, report, predictions, run_folder, flags, log)


def name_apart(runs: Sequence[RunResults]) -> list[RunResults]:
    """Gives runs of the same name longer ones: with the folders above, or a number for a run that is given twice."""
    folders = [_named_folder(run) for run in runs]
    names = [run.name for run in runs]
    for depth in range(2, 6):
        named = set(zip(names, folders, strict=True))
        repeated = {name for name, count in Counter(name for name, _ in named).items() if count > 1}
        names = [
            "/".join(folder.parts[1:][-depth:]) if name in repeated else name
            for name, folder in zip(names, folders, strict=True)
        ]
    seen = Counter[str]()
    for index, name in enumerate(names):
        seen[name] += 1
        if seen[name] > 1:
            names[index] = f"{name} ({seen[name]})"
    return [dataclasses.replace(run, name=name) for run, name in zip(runs, names, strict=True)]


def _named_folder(run: RunResults) -> Path:
    """The folder whose name a run has: that of the evaluation, or the run folder around it."""
    folder = run.folder.resolve()
    return folder if folder.name == run.name else folder.parent


def read_predictions(path: Path, label_set: LabelSet = SSG_QA) -> list[Prediction]:
    """Reads a ``predictions.jsonl``, whose answers are labels of ``label_set``.

    Raises:
        InputError: it cannot be read, or a line is not what ``eval`` writes.
    """
    predictions: list[Prediction] = []
    try:
        with path.open(encoding="utf-8") as file:
            for line in file:
                predictions.append(Prediction.from_json(json.loads(line), label_set))
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror}).") from None
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        where = f"{path}:{len(predictions) + 1}"
        raise InputError(f"{where} is not a line of eval's predictions ({str(error)[:120]}).") from None
    return predictions


def find_image_root(results: RunResults) -> Path | None:
    """The folder of the frames that a run was trained with; None if it is not known or not here."""
    recorded = results.flags.get("image_root")
    root = Path(recorded) if isinstance(recorded, str) else None
    return root if root is not None and root.is_dir() else None


def _find_run_folder(folder: Path, report: EvaluationReport) -> Path | None:
    """The run folder whose checkpoint was evaluated: the one around the evaluation, or that of its checkpoint."""
    checkpoint = Path(report.checkpoint)
    for candidate in (folder.resolve().parent, checkpoint, checkpoint.parent):
        # A cross-validation has flags and folds, and no log of its own.
        is_run = any((candidate / name).is_file() for name in ("metrics.jsonl", "folds.json"))
        if (candidate / "config.yaml").is_file() and is_run:
            return candidate
    return None


def _read_flags(run_folder: Path) -> dict[str, Any]:
    try:
        flags = plain_yaml(run_folder / "config.yaml")
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise InputError(f"{run_folder / 'config.yaml'} cannot be read ({str(error).splitlines()[0]}).") from None
    return flags if isinstance(flags, dict) else {}


def _read_log(run_folder: Path) -> list[dict[str, Any]]:
    """The lines of ``metrics.jsonl`` that are JSON objects; a last line that is being written is left out."""
    lines: list[dict[str, Any]] = []
    if not (run_folder / "metrics.jsonl").is_file():
        return lines
    for line in (run_folder / "metrics.jsonl").read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            content = json.loads(line)
        except (ValueError, RecursionError):
            continue
        if isinstance(content, dict):
            lines.append(content)
    return lines
