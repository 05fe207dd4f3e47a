"""``surgvivqa eval``: scores every label for every question of a split. Each frame is encoded once."""

import dataclasses
import datetime
import json
import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from surgvivqa.checkpoints.packaged import PACKAGED
from surgvivqa.commands.eval_baselines import compute_baselines, read_baseline_runs
from surgvivqa.commands.eval_calibration import Calibrator, check_fit, without_scores
from surgvivqa.commands.evidence import check_evidence_flags, check_scene_graphs, measure_evidence
from surgvivqa.commands.load_model import load_model
from surgvivqa.commands.precision import compute_dtype, prepare_inference
from surgvivqa.config import (
    DataConfig,
    FeatureCacheConfig,
    OptionalModelConfig,
    ScoreNorm,
    check_ranges,
    flag,
    option,
)
from surgvivqa.data.bad_frames import BadFrames
from surgvivqa.data.corruptions import CORRUPTIONS, Corruption, parse_corruptions
from surgvivqa.data.frame_views import Shown, show_black, show_other_videos
from surgvivqa.data.frames import BadFrame, FrameStore, check_missing_frames
from surgvivqa.data.index import frame_names, open_questions, question_counts, subsample
from surgvivqa.data.splits import Splits, load_splits, shared_videos
from surgvivqa.data.ssgqa import FrameQuestions, is_synthetic, warn_of_faults
from surgvivqa.evaluation.ask_again import AskAgain, predict_in_all_processes
from surgvivqa.evaluation.baseline_rows import Baseline
from surgvivqa.evaluation.build_report import build_report
from surgvivqa.evaluation.contradictions import compute_contradictions, generate_partner_frames
from surgvivqa.evaluation.crossval import CrossValidation
from surgvivqa.evaluation.environment import Environment
from surgvivqa.evaluation.evidence import Evidence, format_evidence
from surgvivqa.evaluation.format import format_report
from surgvivqa.evaluation.inference import InferenceOptions, predict_frames
from surgvivqa.evaluation.picture_check import SEED, PictureCheck, check_picture
from surgvivqa.evaluation.predictions import Prediction
from surgvivqa.evaluation.report import EvaluationReport
from surgvivqa.evaluation.robustness import Robustness, measure_robustness
from surgvivqa.evaluation.strata import FlagTable, check_overlap, compute_strata, read_flag_table
from surgvivqa.evaluation.verdicts import with_verdicts
from surgvivqa.explanation.overlay import OVERLAYS_FILE, Overlay, write_overlays
from surgvivqa.features.video_tokens import VideoTokenSource, build_video_token_source
from surgvivqa.model.bundle import ModelBundle, RunRecord
from surgvivqa.reporting.results import RunResults
from surgvivqa.utils.atomic_files import write_text
from surgvivqa.utils.distributed import (
    check_precision,
    explain_lost_processes,
    raise_on_all_ranks,
    start_processes,
)
from surgvivqa.utils.errors import InputError
from surgvivqa.utils.loader_workers import explain_lost_workers
from surgvivqa.utils.tf32 import set_tf32

log = logging.getLogger("surgvivqa")


@dataclass(kw_only=True)
class EvalConfig(FeatureCacheConfig, DataConfig):
    """Scores all labels for every question of a split and writes predictions.jsonl and metrics.json.

    Model flags apply to a checkpoint without settings (a lone .pth). --prompt-mode, --mask and --max-length also
    override the settings of other checkpoints.
    """

    checkpoint: Path = flag("A run folder, its best/, a .pth state dict, a hub name, or tiny (the packaged base).")
    output: Path | None = flag("Folder for the results. Default: eval-<split> in the run folder.", None)
    split: Literal["train", "val", "test"] = flag("Split to evaluate.", "test")
    score_norm: ScoreNorm = flag(
        "How a label's score is computed from its tokens' log-probabilities: their sum, or their mean as published, "
        "which favours long labels.",
        "sum",
    )
    scores: bool = flag("Also write the log-probability of every label to predictions.jsonl.", False)
    fit_temperature: bool = flag(
        "Fit a temperature for the probabilities on the validation split, and store it beside the checkpoint for later "
        "evaluations and predict. Needs --split val.",
        False,
    )
    ask_partners: int = flag(
        "Number of frames, spread over the videos, about which partner questions are generated and asked: how many for "
        "are there any, right for left, other wordings. The model's contradictions are counted on these too.",
        0,
        least=0,
    )
    answer_only: bool = flag(
        "Skip the scores of labels that cannot win; on a GPU only if that is faster. The answers are the same; "
        "probability and top5 are null.",
        False,
    )
    batch_size: int | None = flag(
        "Maximum number of questions in a pass. Frames are encoded once with any value. Default: 40 on a CPU; on a GPU "
        "what its free memory allows, up to 32 frames with 40 questions each.",
        None,
        least=1,
    )
    max_samples: int | None = flag("Maximum number of questions, spread over the videos.", None, least=1)
    frames: Shown | None = flag(
        "Pictures that the model is shown. own: the questions' frames. black: black pictures. shuffled: frames of "
        "other videos. Default: own, or black for a checkpoint that was trained with --blank-video.",
        None,
    )
    check_samples: int = flag(
        "Number of questions, spread over the videos, that are asked again on black pictures and on frames of other "
        "videos, to show what the model takes from the picture; 0 asks none.",
        2000,
        least=0,
    )
    corrupt: list[str] | None = flag(
        "Ask the --check-samples questions on corrupted frames too: NAME:SEVERITY (1 to 5), NAME for all severities, "
        f"or all. Names: {', '.join(CORRUPTIONS)}.",
        None,
    )
    strata: Path | None = flag(
        "Table of frame flags, such as smoke, as CSV or JSON with the columns video and frame and one column for each "
        "flag; prints the accuracy on the frames with and without each flag.",
        None,
    )
    baseline: list[Path] | None = flag(
        "Run folders or folders of evaluations on the same questions, which are set beside the model with their paired "
        "differences; for example a run on blank pictures.",
        None,
    )
    evidence: int | None = flag(
        "Number of questions, spread over the videos, for which the asked object is covered (the answer should change) "
        "and equal areas elsewhere (it should not), and for which heat maps are written to overlays.jsonl. Each takes "
        "about as long as encoding 30 frames.",
        None,
        least=1,
    )
    scene_graph_root: Path | None = flag(
        "Folder of SSG-QA's scene graphs, <root>/<VIDxx>_<frame>.json, whose boxes --evidence needs.", None
    )
    bf16: bool = flag("Compute in bfloat16; for a GPU.", False)
    fp16: bool = flag("Compute in float16, which rounds less than bfloat16; needs a GPU.", False)
    tf32: bool = flag(
        "Allow TF32 in float32 products on a GPU: faster, with 11 significant bits. It also speeds up the output "
        "layer under --bf16 and --fp16.",
        False,
    )
    verify: bool = flag("Verify the checksums of the checkpoint.", True)
    model: Annotated[OptionalModelConfig, tyro.conf.OmitArgPrefixes] = dataclasses.field(
        default_factory=OptionalModelConfig
    )


@dataclass(frozen=True)
class Evaluation:
    """Everything that an evaluation needs.

    Attributes:
        bundle: the model with its tokenizer and settings.
        frames: the frames with their questions.
        missing: the frames whose image is missing.
        shown: what the model is shown.
        store: the questions' own frames.
        video_source: encodes the pictures that are shown, or reads their cached video tokens.
        corruptions: the corruptions of ``--corrupt``.
        strata: the frame flags of ``--strata``; None if not given.
        output: the folder for the results.
        skipped: number of lines left out, by reason.
        synthetic: whether the questions are the synthetic set's; None if that is not recorded.
        questions_root: the folder of the questions.
        splits: the videos of the splits.
        baseline_runs: the evaluations of ``--baseline``; empty in other processes than the main one.
        calibrator: computes calibration figures, and fits a temperature or applies a stored one.
        partners: the generated questions of ``--ask-partners``, by frame.
    """

    bundle: ModelBundle
    frames: Sequence[FrameQuestions]
    missing: list[BadFrame]
    shown: Shown
    store: FrameStore
    video_source: VideoTokenSource
    corruptions: list[Corruption]
    strata: FlagTable | None
    output: Path
    skipped: dict[str, int]
    synthetic: bool | None
    questions_root: Path
    splits: Splits
    baseline_runs: Sequence[RunResults]
    calibrator: Calibrator
    partners: Sequence[FrameQuestions]


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
    bad = _bad_frames(config, evaluation.frames)
    started = time.monotonic()
    dtype = compute_dtype(config.fp16, config.bf16)
    with prepare_inference(evaluation.bundle.model, dtype, fills_cache=config.cache is not None):
        predictions = _predict(config, evaluation, bad, state.is_main_process)
        seconds = time.monotonic() - started
        calibration = evaluation.calibrator.calibrate(predictions)
        predictions = predictions if config.scores else without_scores(predictions)
        picture, robustness = _ask_again(config, evaluation, predictions, bad)
        asked = _ask_partners(config, evaluation, bad)
        evidence, overlays = _measure_evidence(config, evaluation, bad)
    report = build_report(
        predictions,
        skipped=evaluation.skipped,
        skipped_frames=bad.to_list(),
        checkpoint=str(config.checkpoint),
        split=config.split,
        max_samples=config.max_samples,
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
        crossval=CrossValidation.of_fold(evaluation.splits.fold),
    )
    if state.is_main_process:
        report = with_verdicts(dataclasses.replace(report, baselines=_baselines(config, evaluation, predictions)))
        write_results(evaluation.output, predictions, report, overlays)
        evaluation.calibrator.store(calibration)
        print(format_report(report))
        if evidence is not None:
            print(format_evidence(evidence))
        if len(bad):
            left_out = sum(question_counts(evaluation.frames)) - len(predictions)
            print(f"LEFT OUT: {left_out} questions on {len(bad)} frames that cannot be used (metrics.json lists them)")
        print(f"written: {evaluation.output / 'metrics.json'}, {evaluation.output / 'predictions.jsonl'}")
    return report


def _predict(config: EvalConfig, evaluation: Evaluation, bad: BadFrames, is_main: bool) -> list[Prediction]:
    """Predicts the answers, every process for its share of the frames, and records the bad frames in ``bad``.

    Returns:
        The predictions of all processes, in the order of the frames.

    Raises:
        InputError: there are too many bad frames, or no other ones.
    """
    bundle, video_source, found = evaluation.bundle, evaluation.video_source, list[BadFrame]()
    keep_scores = config.scores or evaluation.calibrator.needs_scores
    options = dataclasses.replace(_inference_options(config), keep_scores=keep_scores, progress=is_main)

    def predict(frames: Sequence[FrameQuestions]) -> list[Prediction]:
        return predict_frames(bundle, frames, video_source, options, bad=found, max_bad_frames=bad.limit)

    with video_source:
        all_alike = video_source.reader.store.all_alike
        predictions = predict_in_all_processes(evaluation.frames, predict, all_alike=all_alike)
    bad.gather([*evaluation.missing, *found])
    with raise_on_all_ranks():
        bad.check()
        if not predictions:
            raise InputError(f"None of the {len(evaluation.frames)} frames can be used.")
    return predictions


def _inference_options(config: EvalConfig) -> InferenceOptions:
    return InferenceOptions(
        score_norm=config.score_norm,
        batch_size=config.batch_size,
        workers=config.workers,
        answer_only=config.answer_only,
    )


def _ask_again(
    config: EvalConfig, evaluation: Evaluation, predictions: Sequence[Prediction], bad: BadFrames
) -> tuple[PictureCheck | None, Robustness | None]:
    """Asks ``--check-samples`` questions again, on other pictures and on corrupted ones; in all processes."""
    if not config.check_samples:
        return None, None
    skips = config.on_bad_frame == "skip"
    ask = AskAgain(evaluation.bundle, evaluation.video_source, _inference_options(config), skips)
    sample = subsample(evaluation.frames, config.check_samples)
    unusable = {(frame.video, frame.frame) for frame in bad.to_list()}
    sources = [name for name in frame_names(evaluation.frames) if name not in unusable]
    log.info("%d questions are asked again, on other pictures.", sum(question_counts(sample)))
    picture = check_picture(ask, sample, sources, evaluation.store, {evaluation.shown: predictions})
    if not evaluation.corruptions:
        return picture, None
    return picture, measure_robustness(ask, sample, evaluation.store, predictions, evaluation.corruptions)


def _ask_partners(config: EvalConfig, evaluation: Evaluation, bad: BadFrames) -> list[Prediction]:
    """The answers to the questions of ``--ask-partners`` about frames that can be used; in all processes."""
    unusable = {(frame.video, frame.frame) for frame in bad.to_list()}
    partners = [frame for frame in evaluation.partners if (frame.video, frame.frame) not in unusable]
    if not partners:
        return []
    log.info("%d partner questions are asked about %d frames.", sum(question_counts(partners)), len(partners))
    skips = config.on_bad_frame == "skip"
    ask = AskAgain(evaluation.bundle, evaluation.video_source, _inference_options(config), skips)
    return ask(partners, evaluation.video_source.reader.store)


def _measure_evidence(
    config: EvalConfig, evaluation: Evaluation, bad: BadFrames
) -> tuple[Evidence | None, list[Overlay]]:
    """The evidence and its overlays; None and none without --evidence, or if no question can be measured."""
    if config.evidence is None or config.scene_graph_root is None:
        return None, []
    try:
        return measure_evidence(
            evaluation.bundle,
            evaluation.frames,
            evaluation.store,
            config.scene_graph_root,
            config.evidence,
            skip={(frame.video, frame.frame) for frame in bad.to_list()},
            score_norm=config.score_norm,
        )
    except InputError as error:  # the predictions, which may have taken hours, are written all the same
        log.warning("%s There is no section evidence.", error)
        return None, []


def _baselines(config: EvalConfig, evaluation: Evaluation, predictions: Sequence[Prediction]) -> list[Baseline]:
    """The baselines, beside which the model is judged; in the main process."""
    root, splits = evaluation.questions_root, evaluation.splits
    return compute_baselines(predictions, evaluation.baseline_runs, root, splits, config.split)


def prepare(config: EvalConfig, is_main: bool) -> Evaluation:
    """Loads the model, reads the questions, and checks the frames; the main process creates the output folder.

    Raises:
        InputError: a checkpoint, root, split or output folder cannot be used.
    """
    check_ranges(config)
    check_precision(config.fp16, config.bf16)
    check_evidence_flags(config.evidence, config.scene_graph_root)
    if config.answer_only and config.scores:
        raise InputError("--answer-only skips scores, so it cannot be used with --scores; leave out one of them.")
    if config.answer_only and config.score_norm != "sum":
        raise InputError("--answer-only works with --score-norm sum only; leave out --answer-only.")
    check_fit(config.fit_temperature, config.split, config.answer_only)
    corruptions = parse_corruptions(config.corrupt or ())
    if corruptions and not config.check_samples:
        raise InputError("--corrupt asks the questions of --check-samples, which is 0; give a number of questions.")
    strata = None if config.strata is None else read_flag_table(config.strata)
    bundle = load_model(config.checkpoint, config.model, verify=config.verify)
    trained_on: Shown = "black" if bundle.run.config.blank_video else "own"
    shown = config.frames or trained_on
    if corruptions and shown != "own":
        raise InputError(f"--corrupt changes the questions' own frames, which --frames {shown} does not show.")
    if config.evidence and shown != "own":
        raise InputError(
            f"--evidence covers objects of the questions' own frames, which --frames {shown} does not show."
        )
    if config.fit_temperature and shown != trained_on:
        raise InputError(f"--fit-temperature needs what the model was trained on; leave out --frames {shown}.")
    if bundle.settings.mask == "bidirectional" and config.answer_only:
        raise InputError("--answer-only needs labels that share a prompt, but under --mask bidirectional they do not.")
    calibrator = Calibrator.of_evaluation(
        bundle, config.checkpoint, config.score_norm, fit=config.fit_temperature, answer_only=config.answer_only
    )
    questions_root = _data_root(config.ssgvqa_root, bundle.run.config.ssgvqa_root, "ssgvqa_root")
    image_root = _data_root(config.image_root, bundle.run.config.image_root, "image_root")
    splits = load_splits(config.splits_dir or bundle.run.config.splits_dir)
    split_frames, skipped = _read_questions(config, bundle.run, questions_root, splits)
    frames = subsample(split_frames, config.max_samples)
    if not len(frames):
        raise InputError(f"The {config.split} split has no usable question under {questions_root}.")
    partners = generate_partner_frames(frames, config.ask_partners)
    bundle.prompt_tokenizer().check_fits(frames, partners)
    if strata is not None:
        check_overlap(strata, frame_names(frames))
    if config.evidence is not None and config.scene_graph_root is not None:
        check_scene_graphs(frames, config.scene_graph_root, config.evidence)
    store = bundle.frame_store(image_root)
    missing = check_missing_frames(store, frames, allowed=_bad_frames(config, frames).limit)
    view = _show(shown, store, frames, missing)
    if shown == trained_on == "black":
        log.info("The model is evaluated on black pictures, as it was trained; --frames own shows it the frames.")
    output = config.output or _default_output(config, "" if shown == trained_on else f"-{shown}")
    runs: list[RunResults] = []
    if is_main:
        runs = read_baseline_runs(config.baseline or [], config.split, frames, ((f.video, f.frame) for f in missing))
        _create_output(output, is_default=config.output is None)
    return Evaluation(
        bundle=bundle,
        frames=frames,
        missing=missing,
        shown=shown,
        store=store,
        video_source=build_video_token_source(bundle, view, config.cache, config.cache_dtype),
        corruptions=corruptions,
        strata=strata,
        output=output,
        skipped=skipped,
        synthetic=is_synthetic(questions_root),
        questions_root=questions_root,
        splits=splits,
        baseline_runs=runs,
        calibrator=calibrator,
        partners=partners,
    )


def _show(shown: Shown, store: FrameStore, frames: Sequence[FrameQuestions], missing: Sequence[BadFrame]) -> FrameStore:
    """The view of the frames that the model is shown.

    Raises:
        InputError: frames of other videos are to be shown, and there is one video only.
    """
    if shown == "own":
        return store
    if shown == "black":
        return show_black(store)
    unusable = {(frame.video, frame.frame) for frame in missing}
    return show_other_videos(store, [name for name in frame_names(frames) if name not in unusable], SEED)


def _read_questions(
    config: EvalConfig, run: RunRecord, root: Path, splits: Splits
) -> tuple[Sequence[FrameQuestions], dict[str, int]]:
    """Reads the questions of the split.

    Returns:
        The frames with their questions, and the number of lines left out, by reason.

    Raises:
        InputError: the model was trained on a video of the split, or the questions cannot be read.
    """
    videos = splits.videos(config.split)
    seen = shared_videos(videos, run.train_videos) if config.split != "train" else []
    if seen:
        raise InputError(
            f"The {config.split} split names {', '.join(seen)}, which {config.checkpoint} was trained on, so its "
            f"metrics would be meaningless. Remove these videos from the split (--splits-dir), or use --split train."
        )
    frames, report = open_questions(root, videos, strict=config.strict)
    warn_of_faults(config.split, report)
    return frames, report.to_dict()["skipped"]


def _create_output(output: Path, *, is_default: bool) -> None:
    """Creates the output folder and checks that it can be written, before the evaluation starts."""
    try:
        if output.is_symlink() and is_default:  # in an untrusted run folder it may point anywhere
            raise InputError(f"{output} is a link, which is not written through; give a folder with --output.")
        output.mkdir(parents=True, exist_ok=True)
        (output / ".probe").unlink(missing_ok=True)
        (output / ".probe").touch()
        (output / ".probe").unlink()
    except OSError as error:
        raise InputError(f"--output {output} cannot be written ({error.strerror}).") from None


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


def _bad_frames(config: EvalConfig, frames: Sequence[FrameQuestions]) -> BadFrames:
    return BadFrames(config.on_bad_frame, config.max_bad_frames, len(frames))


def _data_root(given: Path | None, recorded: Path | None, name: str) -> Path:
    root = given or recorded
    if root is None:
        raise InputError(
            f"{option(name)} is missing; give it, or set {name.upper()} (the checkpoint does not name a folder)."
        )
    return root


def _default_output(config: EvalConfig, suffix: str) -> Path:
    name = f"eval-{config.split}{suffix}"
    if str(config.checkpoint) == PACKAGED:
        return Path("runs") / PACKAGED / name
    folder = config.checkpoint if config.checkpoint.is_dir() else config.checkpoint.parent
    return (folder.parent if folder.name == "best" else folder) / name
