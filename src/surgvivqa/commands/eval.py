"""``surgvivqa eval``: scores every label for every question of a split. Each frame is encoded once."""

import dataclasses
import datetime
import json
import logging
import time
from collections.abc import Sequence
from pathlib import Path

from surgvivqa.commands.eval_baselines import compute_baselines
from surgvivqa.commands.eval_calibration import without_scores
from surgvivqa.commands.eval_checks import ask_again, ask_partners, find_evidence, inference_options
from surgvivqa.commands.eval_config import EvalConfig
from surgvivqa.commands.eval_setup import Evaluation, count_bad_frames, prepare
from surgvivqa.commands.precision import compute_dtype, prepare_inference
from surgvivqa.data.bad_frames import BadFrames
from surgvivqa.data.frames import BadFrame
from surgvivqa.data.index import question_counts
from surgvivqa.data.ssgqa import FrameQuestions
from surgvivqa.datasets.opening import Dataset
from surgvivqa.evaluation.ask_again import predict_in_all_processes
from surgvivqa.evaluation.baseline_rows import Baseline
from surgvivqa.evaluation.build_report import build_report
from surgvivqa.evaluation.contradictions import compute_contradictions
from surgvivqa.evaluation.crossval import CrossValidation
from surgvivqa.evaluation.dataset_facts import DatasetFacts
from surgvivqa.evaluation.environment import Environment
from surgvivqa.evaluation.format import format_report
from surgvivqa.evaluation.inference import predict_frames
from surgvivqa.evaluation.predictions import Prediction
from surgvivqa.evaluation.report import EvaluationReport
from surgvivqa.evaluation.strata import compute_strata
from surgvivqa.evaluation.verdicts import with_verdicts
from surgvivqa.evaluation.wordings import compute_wordings
from surgvivqa.explanation.overlay import OVERLAYS_FILE, Overlay, write_overlays
from surgvivqa.utils.atomic_files import write_text
from surgvivqa.utils.distributed import explain_lost_processes, raise_on_all_ranks, start_processes
from surgvivqa.utils.errors import InputError
from surgvivqa.utils.loader_workers import explain_lost_workers
from surgvivqa.utils.tf32 import set_tf32

log = logging.getLogger("surgvivqa")


@explain_lost_processes("run the same command again")
@explain_lost_workers("run the same command again")
def evaluate(config: EvalConfig) -> EvaluationReport:
    """Evaluates a checkpoint on a split; writes ``predictions.jsonl`` and ``metrics.json``.

    Processes started by torchrun share the frames; the main one writes and prints.

    Raises:
        InputError: a checkpoint, root, split, output folder or frame cannot be used.
    """
    state = start_processes()
    with raise_on_all_ranks():
        evaluation = prepare(config, state.is_main_process)
    if state.device.type == "cuda":
        evaluation.bundle.model.to(state.device)
    set_tf32(config.tf32)
    bad = count_bad_frames(config, evaluation.frames)
    started = time.monotonic()
    dtype = compute_dtype(config.fp16, config.bf16)
    with prepare_inference(evaluation.bundle.model, dtype, fills_cache=config.cache is not None):
        predictions = _predict(config, evaluation, bad, state.is_main_process)
        seconds = time.monotonic() - started
        calibration = evaluation.calibrator.calibrate(predictions)
        predictions = predictions if config.scores else without_scores(predictions)
        picture, robustness = ask_again(config, evaluation, predictions, bad)
        asked = ask_partners(config, evaluation, bad)
        evidence, overlays = find_evidence(config, evaluation, bad)
    report = build_report(
        predictions,
        skipped=evaluation.skipped,
        skipped_frames=bad.to_list(),
        checkpoint=str(config.checkpoint),
        split=config.split,
        max_samples=config.max_samples,
        only=evaluation.only,
        pretraining=evaluation.pretraining,
        synthetic=evaluation.synthetic,
        mask=evaluation.bundle.settings.mask,
        prompt_mode=evaluation.bundle.settings.prompt_mode,
        score_norm=config.score_norm,
        environment=Environment.of_this_process(
            state.device,
            dtype,
            state.num_processes,
            seconds,
            datetime.datetime.now().astimezone().isoformat(timespec="seconds"),
        ),
        frames=evaluation.shown,
        picture=picture,
        robustness=robustness,
        strata=None if evaluation.strata is None else compute_strata(evaluation.strata, predictions),
        calibration=calibration,
        contradictions=compute_contradictions(predictions, asked),
        evidence=evidence,
        wordings=compute_wordings(predictions, evaluation.dataset.description.wordings),
        dataset=_describe(evaluation.dataset),
        crossval=CrossValidation.of_fold(evaluation.dataset.splits.fold),
    )
    if state.is_main_process:
        report = with_verdicts(dataclasses.replace(report, baselines=_baselines(config, evaluation, predictions)))
        write_results(evaluation.output, predictions, report, overlays)
        evaluation.calibrator.store(calibration)
        print(format_report(report))
        if len(bad):
            left_out = sum(question_counts(evaluation.frames)) - len(predictions)
            print(f"LEFT OUT: {left_out} questions on {len(bad)} frames that cannot be used (metrics.json lists them)")
        print(f"written: {evaluation.output / 'metrics.json'}, {evaluation.output / 'predictions.jsonl'}")
    return report


def _describe(dataset: Dataset) -> DatasetFacts | None:
    """The facts of a data set; None for SSG-QA."""
    if dataset.is_ssgqa:
        return None
    return DatasetFacts.of_description(dataset.description, own_splits=dataset.own_splits)


def _predict(config: EvalConfig, evaluation: Evaluation, bad: BadFrames, is_main: bool) -> list[Prediction]:
    """Predicts the answers, every process for its share of the frames, and records the bad frames in ``bad``.

    Returns:
        The predictions of all processes, in the order of the frames.

    Raises:
        InputError: there are too many bad frames, or no other ones.
    """
    bundle, video_source, found = evaluation.bundle, evaluation.video_source, list[BadFrame]()
    keep_scores = config.scores or evaluation.calibrator.needs_scores
    options = dataclasses.replace(
        inference_options(config),
        keep_scores=keep_scores,
        progress=is_main,
        max_new_tokens=config.max_new_tokens if config.generate else None,
    )

    def predict(frames: Sequence[FrameQuestions]) -> list[Prediction]:
        return predict_frames(bundle, frames, video_source, options, bad=found, max_bad_frames=bad.limit)

    frames = evaluation.frames
    if evaluation.missing and evaluation.shown != "own":  # the same questions as about the own frames
        missing = {(frame.video, frame.frame) for frame in evaluation.missing}
        frames = [frame for frame in frames if (frame.video, frame.frame) not in missing]
    with video_source:
        all_alike = video_source.reader.store.all_alike
        predictions = predict_in_all_processes(frames, predict, all_alike=all_alike)
    bad.gather([*evaluation.missing, *found])
    with raise_on_all_ranks():
        bad.check()
        if not predictions:
            raise InputError(f"None of the {len(evaluation.frames)} frames can be used.")
    return predictions


def _baselines(config: EvalConfig, evaluation: Evaluation, predictions: Sequence[Prediction]) -> list[Baseline]:
    """The baselines, beside which the model is judged; in the main process."""
    return compute_baselines(predictions, evaluation.baseline_runs, evaluation.dataset, config.split)


def write_results(
    output: Path, predictions: Sequence[Prediction], report: EvaluationReport, overlays: Sequence[Overlay] = ()
) -> None:
    """Writes the files of an evaluation into an existing folder."""
    (output / "metrics.json").unlink(missing_ok=True)  # if killed, leave no older metrics next to these predictions
    (output / OVERLAYS_FILE).unlink(missing_ok=True)
    if overlays:
        write_overlays(output, overlays)
    write_text(output / "predictions.jsonl", "".join(json.dumps(p.to_json()) + "\n" for p in predictions))
    write_text(output / "metrics.json", json.dumps(report.to_json(), indent=2) + "\n")
