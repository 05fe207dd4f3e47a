"""``surgvivqa crossval``: trains and evaluates every fold of a cross-validation, and reports over all videos.

::

    crossval/
      config.yaml   the flags; folds.json has the folds
      splits/fold-1 the splits of a fold, which training and evaluation read (``data.splits.write_fold``)
      fold-1/       the run folder of a fold, with eval-test
      eval-test/    predictions.jsonl and metrics.json over all videos, as of any evaluation
"""

import contextlib
import dataclasses
import gc
import json
import logging
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import yaml
from accelerate.utils import broadcast_object_list

from surgvivqa.checkpoints.checksums import compute_checksums
from surgvivqa.commands.eval import evaluate, write_results
from surgvivqa.commands.eval_baselines import compute_fold_baselines
from surgvivqa.commands.eval_config import EvalConfig
from surgvivqa.config import (
    DataConfig,
    FeatureCacheConfig,
    ScoreNorm,
    TrainConfig,
    changed_flags,
    check_ranges,
    data_roots,
    dataset_name,
    flag,
    flags_of,
    option,
    save_yaml,
)
from surgvivqa.data.dataset_overlaps import Finding, merge_findings
from surgvivqa.data.splits import Folds, Splits, load_splits, read_folds, write_fold
from surgvivqa.datasets.opening import Dataset, open_dataset
from surgvivqa.evaluation.build_report import build_report
from surgvivqa.evaluation.calibration import compute_calibration
from surgvivqa.evaluation.contradictions import compute_contradictions
from surgvivqa.evaluation.crossval import CrossValidation, FoldResult
from surgvivqa.evaluation.environment import Environment
from surgvivqa.evaluation.format import format_report
from surgvivqa.evaluation.report import EvaluationReport
from surgvivqa.evaluation.verdicts import with_verdicts
from surgvivqa.reporting.results import RunResults, read_results
from surgvivqa.training.run_folder import FINISHED, OVERWRITE, without_overwrite_if_requeued
from surgvivqa.training.trainer import train
from surgvivqa.utils.atomic_files import surviving_folder, write_text
from surgvivqa.utils.distributed import raise_on_all_ranks, start_processes
from surgvivqa.utils.errors import InputError, first_line
from surgvivqa.utils.safe_json import read_json
from surgvivqa.utils.safe_yaml import plain_yaml
from surgvivqa.utils.signals import EXIT_STOPPED

log = logging.getLogger("surgvivqa")
_DONE = "crossval.json"  # in a fold's eval-test: the checksums of the weights that crossval evaluated
# What the evaluations of all folds must have in common.
_SETTINGS = ("split", "max_samples", "synthetic", "mask", "prompt_mode", "score_norm", "frames", "label_set")


@dataclass(kw_only=True)
class CrossvalConfig(TrainConfig):
    """Trains and evaluates each fold of a cross-validation, and reports over the videos of all folds.

    The same command continues after a stop: finished folds are skipped, the running one resumes.
    """

    checkpoint_dir: Path = flag(
        "Folder of the cross-validation: a run folder fold-N for each fold, and eval-test for the results over all "
        "videos.",
        Path("runs/crossval"),
        on_resume="free",
    )
    folds: Path | None = flag(
        'File of the folds: JSON that maps 1, 2, ... to their test videos, such as {"1": ["VID01"], "2": ["VID02"]}. '
        "Default: CholecT45's five official folds.",
        None,
        on_resume="free",  # compared by content
    )
    fold: int | None = flag(
        "Train and evaluate this fold only, as a task of a job array. The results over all videos are written once all "
        "folds are done. Default: all folds, one after another.",
        None,
        least=1,
        on_resume="free",
    )
    val_videos: int = flag(
        "Number of validation videos of a fold: the last ones of the other folds, in their order. 0 keeps the last "
        "weights of each fold.",
        5,
        least=0,
    )
    score_norm: ScoreNorm = flag(
        "How a label's score is computed in evaluation: the sum of its tokens' log-probabilities, or their mean.", "sum"
    )
    check_samples: int = flag(
        "Number of test questions of a fold that are asked again on black pictures and frames of other videos; 0 asks "
        "none.",
        2000,
        least=0,
        on_resume="free",
    )
    scores: bool = flag("Also write the log-probability of every label to predictions.jsonl.", False, on_resume="free")


def crossval(config: CrossvalConfig) -> int:
    """Trains and evaluates the folds that are not done, and writes the results over all videos once all are.

    Returns:
        0 when done, 75 when a signal or the time limit stopped it.

    Raises:
        InputError: folds, data, flags or folders cannot be used; or the folder holds another cross-validation.
        RunError: a fold failed.
    """
    deadline = None if config.max_hours is None else time.monotonic() + 3600 * config.max_hours
    check_ranges(config)
    is_main = start_processes().is_main_process
    with raise_on_all_ranks():
        folds = read_folds(config.folds)
        _check(config, folds)
        if is_main:
            _prepare(config, folds)
    with _interrupt_is_a_stop() as stop:
        for number in range(1, len(folds.videos) + 1):
            if config.fold not in (None, number):
                continue
            log.info("Fold %d of %d, %s", number, len(folds.videos), _fold_folder(config, number))
            if _run_fold(config, number, deadline, is_main) != 0:
                return EXIT_STOPPED
    if stop.interrupted:
        log.warning("Stopped by SIGINT; the same command continues.")
        return EXIT_STOPPED
    with raise_on_all_ranks():
        if is_main:
            waiting = [n for n in range(1, len(folds.videos) + 1) if not _is_evaluated(config, folds, n)]
            if waiting:
                log.info("Folds that are not done yet: %s.", ", ".join(map(str, waiting)))
            else:
                summarise(config, folds)
    return 0


@dataclass
class _Stop:
    interrupted: bool = False


@contextlib.contextmanager
def _interrupt_is_a_stop() -> Iterator[_Stop]:
    """Ctrl-C outside the training steps, which handle it themselves, ends the body as a stop that can be resumed."""
    stop = _Stop()
    try:
        yield stop
    except KeyboardInterrupt:
        stop.interrupted = True


def _fold_folder(config: CrossvalConfig, number: int) -> Path:
    return config.checkpoint_dir / f"fold-{number}"


def _splits_folder(config: CrossvalConfig, number: int) -> Path:
    return config.checkpoint_dir / "splits" / f"fold-{number}"


def _check(config: CrossvalConfig, folds: Folds) -> None:
    """Checks, before the first fold begins, what would stop a later one.

    Raises:
        InputError: a flag contradicts another, a fold does not exist or has nothing to train on, or a video has no
            folder.
    """
    if config.splits_dir is not None:
        raise InputError("--splits-dir cannot be used here, because the splits follow from --folds; leave it out.")
    for number in range(1, len(folds.videos) + 1):
        folds.split(number, config.val_videos)
    if config.fold is not None:
        folds.split(config.fold, config.val_videos)
    if dataset_name(config) != "ssg-qa":
        raise InputError(
            f"crossval needs SSG-QA's layout and labels, not --dataset {config.dataset}; train and evaluate each fold "
            f"with its own --splits-dir."
        )
    questions, images = data_roots(config)
    videos = [video for fold in folds.videos for video in fold]
    for name, root in (("ssgvqa_root", questions), ("image_root", images)):
        if absent := [video for video in videos if not (root / video).is_dir()]:
            raise InputError(
                f"{option(name)} {root} lacks {len(absent)} of the {len(videos)} videos of the folds "
                f"({', '.join(absent[:5])}); add them, or give --folds without them."
            )


def _prepare(config: CrossvalConfig, folds: Folds) -> None:
    """Creates the folder, or checks that it holds this cross-validation; writes the splits of the folds.

    Raises:
        InputError: the folder holds another cross-validation, or cannot be written.
    """
    folder = config.checkpoint_dir
    replaces = config.overwrite and config.fold is None
    try:
        if (folder / "config.yaml").exists() and not replaces:
            _check_same(config, folds)
        else:
            if any((folder / name).exists() for name in (FINISHED, "checkpoints", "best")):
                raise InputError(f"--checkpoint-dir {folder} holds a training run; give another folder.")
            folder.mkdir(parents=True, exist_ok=True)
            write_text(folder / "folds.json", json.dumps(folds.to_json(), indent=2) + "\n")
            # The saved flags continue all folds, so they must neither overwrite them nor name one.
            save_yaml(dataclasses.replace(config, overwrite=False, fold=None), folder / "config.yaml")
        if config.overwrite:
            _mark_replaced(config, folds)
        for number in range(1, len(folds.videos) + 1):
            write_fold(_splits_folder(config, number), folds, number, config.val_videos)
    except OSError as error:
        raise InputError(f"--checkpoint-dir {folder} cannot be written ({first_line(error)}).") from None


def _mark_replaced(config: CrossvalConfig, folds: Folds) -> None:
    """Marks the runs that ``--overwrite`` replaces, so that they are replaced after a stop in an earlier fold too.

    The results over all videos are removed, because they no longer belong to the folds.
    """
    for name in ("metrics.json", "predictions.jsonl"):
        (config.checkpoint_dir / "eval-test" / name).unlink(missing_ok=True)
    for number in range(1, len(folds.videos) + 1):
        folder = _fold_folder(config, number)
        is_replaced = without_overwrite_if_requeued(dataclasses.replace(config, checkpoint_dir=folder)).overwrite
        if config.fold in (None, number) and folder.is_dir() and is_replaced:
            write_text(folder / OVERWRITE, "")


def _check_same(config: CrossvalConfig, folds: Folds) -> None:
    """Raises InputError, with the differences, where the folder holds another cross-validation."""
    folder = config.checkpoint_dir
    try:
        saved, was = plain_yaml(folder / "config.yaml"), read_json(folder / "folds.json")
        changed = changed_flags(CrossvalConfig, saved, config)
    except (OSError, ValueError, TypeError, AttributeError, yaml.YAMLError):
        raise InputError(
            f"--checkpoint-dir {folder} holds something else, or a cross-validation whose config.yaml or folds.json "
            f"cannot be read; give another folder."
        ) from None
    shown = [f"{option(name)} was {old}, is {new}" for name, (old, new) in changed.items()]
    if was != folds.to_json():
        shown.append("--folds names other folds")
    if shown:
        raise InputError(
            f"--checkpoint-dir {folder} holds a cross-validation with other flags ({', '.join(shown)}); give the same "
            f"flags to continue it, or another folder."
        )


def _run_fold(config: CrossvalConfig, number: int, deadline: float | None, is_main: bool) -> int:
    """Trains and evaluates a fold, as far as that is not done; returns 0, or 75 if it was stopped."""
    folder = _fold_folder(config, number)
    values = {name: getattr(config, name) for name in flags_of(TrainConfig)}
    values |= {"checkpoint_dir": folder, "splits_dir": _splits_folder(config, number)}
    values["overwrite"] = (folder / OVERWRITE).exists()
    if deadline is not None:
        values["max_hours"] = max(0.0, deadline - time.monotonic()) / 3600
    code = train(TrainConfig(**values))
    # The trained model is freed, because the size of an evaluation's passes follows from the free memory.
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    if code != 0:
        return code
    # The main process decides for all: clocks differ, and so may what processes see of a shared disk.
    is_late = deadline is not None and time.monotonic() >= deadline
    is_done, is_late = broadcast_object_list([_has_evaluation(config, number), is_late])
    if is_done:
        return 0
    if is_late:
        log.warning("Stopped by --max-hours before the evaluation of fold %d; the same command continues.", number)
        return EXIT_STOPPED
    shared = {name: getattr(config, name) for cls in (DataConfig, FeatureCacheConfig) for name in flags_of(cls)}
    shared["splits_dir"] = _splits_folder(config, number)
    shared |= {name: getattr(config, name) for name in ("score_norm", "scores", "check_samples")}
    evaluate(EvalConfig(checkpoint=folder, **shared))
    gc.collect()
    with raise_on_all_ranks():
        if is_main:
            content = {"weights": compute_checksums(surviving_folder(folder / "best"))}
            write_text(folder / "eval-test" / _DONE, json.dumps(content, indent=2) + "\n")
    return 0


def _has_evaluation(config: CrossvalConfig, number: int) -> bool:
    """Whether crossval has evaluated the best weights that a fold's folder holds now."""
    folder = _fold_folder(config, number)
    try:
        recorded = read_json(folder / "eval-test" / _DONE)
        weights = compute_checksums(surviving_folder(folder / "best"))
    except (OSError, ValueError):
        return False
    return (folder / "eval-test" / "metrics.json").is_file() and recorded == {"weights": weights}


def _is_evaluated(config: CrossvalConfig, folds: Folds, number: int) -> bool:
    """Whether a fold is trained and evaluated."""
    folder = _fold_folder(config, number)
    if (folder / OVERWRITE).exists():
        return False
    return (folder / FINISHED).is_file() and _has_evaluation(config, number)


def summarise(config: CrossvalConfig, folds: Folds) -> EvaluationReport:
    """Puts the evaluations of all folds together, writes them as one evaluation, and prints it.

    Raises:
        InputError: an evaluation cannot be read, or is not that of its fold.
    """
    parts = []
    for number in range(1, len(folds.videos) + 1):
        results = read_results(_fold_folder(config, number))
        splits = load_splits(_splits_folder(config, number))
        _check_part(config, results, splits)
        parts.append((results, splits))
    reports = [results.report for results, _ in parts]
    if differing := [name for name in _SETTINGS if any(getattr(r, name) != getattr(reports[0], name) for r in reports)]:
        raise InputError(
            f"The folds in {config.checkpoint_dir} were evaluated with different settings ({', '.join(differing)}); "
            f"remove eval-test in the folds that differ, and run the same command again."
        )
    predictions = [prediction for results, _ in parts for prediction in results.predictions]
    skipped: Counter[str] = Counter()
    for report in reports:
        skipped.update(report.skipped)
    rows = [
        FoldResult(number, list(splits.test), report.metrics.overall)
        for number, (report, (_, splits)) in enumerate(zip(reports, parts, strict=True), 1)
    ]
    settings: dict[str, Any] = {name: getattr(reports[0], name) for name in _SETTINGS}
    report = build_report(
        predictions,
        **settings,
        skipped=dict(skipped),
        skipped_frames=[frame for report in reports for frame in report.skipped_frames],
        checkpoint=str(config.checkpoint_dir),
        baselines=compute_fold_baselines([(r.predictions, s) for r, s in parts], _open_any_fold(config)),
        environment=_join_environments([r.environment for r in reports if r.environment is not None]),
        crossval=CrossValidation.of_all(rows),
        pretraining=_join_pretraining(reports),
        calibration=compute_calibration(predictions),
        contradictions=compute_contradictions(predictions),
    )
    report = with_verdicts(report)
    output = config.checkpoint_dir / "eval-test"
    output.mkdir(exist_ok=True)
    write_results(output, predictions, report)
    print(format_report(report))
    print(f"written: {output / 'metrics.json'}, {output / 'predictions.jsonl'}")
    return report


def _open_any_fold(config: CrossvalConfig) -> Dataset:
    """The data set, with the splits of the first fold."""
    return open_dataset(dataset_name(config), data_roots(config)[0], _splits_folder(config, 1))


def _check_part(config: CrossvalConfig, results: RunResults, splits: Splits) -> None:
    """Raises InputError if an evaluation is not the whole one of its fold's test videos."""
    report = results.report
    is_fold = report.crossval is not None and report.crossval.fold == splits.fold
    is_part = report.max_samples is not None or report.only is not None
    if not is_fold or not set(report.metrics.by_video) <= set(splits.test) or is_part:
        raise InputError(
            f"{results.folder} is not the whole evaluation of fold {splits.fold}; remove "
            f"{'it' if is_fold else results.folder.parent}, and run the same command again."
        )
    if absent := set(splits.test) - set(report.metrics.by_video):
        log.warning("Fold %d has no question about %s.", splits.fold, ", ".join(sorted(absent)))


def _join_pretraining(reports: Sequence[EvaluationReport]) -> list[Finding] | None:
    """What the pretrained parts have seen of any fold's videos; None if a fold does not say.

    A fold's own checkpoint has not seen its videos, or it would not have been evaluated.
    """
    if any(report.pretraining is None for report in reports):
        return None
    found = [finding for report in reports for finding in report.pretraining or ()]
    return merge_findings(finding for finding in found if finding.part != "--checkpoint")


def _join_environments(environments: Sequence[Environment]) -> Environment | None:
    """Where and how all folds were computed; values that differ are listed, and durations are added."""
    if not environments:
        return None
    names = environments[0].versions.keys()

    def join(values: Sequence[str]) -> str:
        return ", ".join(dict.fromkeys(values))

    return Environment(
        versions={name: join([e.versions.get(name, "unknown") for e in environments]) for name in names},
        device=join([e.device for e in environments]),
        precision=join([e.precision for e in environments]),
        processes=max(e.processes for e in environments),
        seconds=sum(e.seconds for e in environments),
        finished=max(e.finished for e in environments),
    )
