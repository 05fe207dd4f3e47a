"""Prepares an evaluation: checks the flags, loads the model, reads the questions, and finds the frames."""

import logging
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from surgvivqa.checkpoints.packaged import PACKAGED
from surgvivqa.commands.eval_baselines import read_baseline_runs
from surgvivqa.commands.eval_calibration import Calibrator, check_fit
from surgvivqa.commands.eval_config import EvalConfig
from surgvivqa.commands.evidence import check_evidence_flags, check_scene_graphs
from surgvivqa.commands.load_model import adopt_labels, load_model
from surgvivqa.commands.pretraining import find_pretraining
from surgvivqa.config import check_ranges, dataset_name, option
from surgvivqa.data.bad_frames import BadFrames
from surgvivqa.data.corruptions import Corruption, parse_corruptions
from surgvivqa.data.dataset_overlaps import Finding
from surgvivqa.data.frame_views import Shown, show_black, show_other_videos
from surgvivqa.data.frames import BadFrame, FrameStore, check_missing_frames
from surgvivqa.data.index import frame_names, subsample
from surgvivqa.data.labels import LabelSet
from surgvivqa.data.question_lists import Selection, read_question_list, select_questions
from surgvivqa.data.splits import shared_videos
from surgvivqa.data.ssgqa import FrameQuestions, warn_of_faults
from surgvivqa.datasets.description import load_description
from surgvivqa.datasets.opening import Dataset, open_dataset
from surgvivqa.evaluation.contradictions import generate_partner_frames
from surgvivqa.evaluation.generation import check_packages
from surgvivqa.evaluation.picture_check import SEED
from surgvivqa.evaluation.strata import FlagTable, check_overlap, read_flag_table
from surgvivqa.features.video_tokens import VideoTokenSource, build_video_token_source
from surgvivqa.model.bundle import ModelBundle, RunRecord
from surgvivqa.reporting.results import RunResults
from surgvivqa.utils.distributed import check_precision
from surgvivqa.utils.errors import InputError

log = logging.getLogger("surgvivqa")


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
        only: what ``--only`` selected; None without it.
        pretraining: whether the model has seen videos of the split before; None on the training split and on synthetic
            questions.
        synthetic: whether the questions are the synthetic set's; None if that is not recorded.
        dataset: the data set, with its splits.
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
    only: Selection | None
    pretraining: list[Finding] | None
    synthetic: bool | None
    dataset: Dataset
    baseline_runs: Sequence[RunResults]
    calibrator: Calibrator
    partners: Sequence[FrameQuestions]


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
    if config.only is not None and config.fit_temperature:
        raise InputError("--fit-temperature needs all questions of the validation split; leave out --only.")
    wanted = None if config.only is None else read_question_list(config.only)
    corruptions = parse_corruptions(config.corrupt or ())
    if corruptions and not config.check_samples:
        raise InputError("--corrupt asks the questions of --check-samples, which is 0; give a number of questions.")
    if config.generate:
        check_packages()
    strata = None if config.strata is None else read_flag_table(config.strata)
    bundle = load_model(config.checkpoint, config.model, verify=config.verify)
    dataset = _open_dataset(config, bundle)
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
    image_root = _data_root(config.image_root, _recorded(config, bundle.run, "image_root"), "image_root")
    split_frames, skipped = _read_questions(config, bundle.run, dataset)
    selection = None
    if wanted is not None:
        split_frames, selection = select_questions(split_frames, wanted)
    frames = subsample(split_frames, config.max_samples)
    if not len(frames):
        raise InputError(f"The {config.split} split has no usable question under {dataset.root}.")
    check_understood(bundle.label_set, config)
    if config.generate:
        _warn_of_generation(bundle, frames)
    partners = generate_partner_frames(frames, config.ask_partners)
    bundle.prompt_tokenizer().check_fits(frames, partners)
    if strata is not None:
        check_overlap(strata, frame_names(frames))
    if config.evidence is not None and config.scene_graph_root is not None:
        check_scene_graphs(frames, config.scene_graph_root, config.evidence)
    store = bundle.frame_store(image_root, dataset.picture_files)
    missing = check_missing_frames(store, frames, allowed=count_bad_frames(config, frames).limit)
    view = _show(shown, store, frames, missing)
    if shown == trained_on == "black":
        log.info("The model is evaluated on black pictures, as it was trained; --frames own shows it the frames.")
    suffix = "" if wanted is None else f"-only-{re.sub(r'[^A-Za-z0-9_.-]+', '-', Path(wanted.file).stem)}"
    output = config.output or _default_output(config, f"{suffix}{'' if shown == trained_on else f'-{shown}'}")
    synthetic = dataset.is_synthetic
    runs: list[RunResults] = []
    if is_main:
        unusable = [(frame.video, frame.frame) for frame in missing]
        runs = read_baseline_runs(config.baseline or [], config.split, frames, unusable, bundle.label_set)
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
        only=selection,
        pretraining=None if synthetic or config.split == "train" else _find_pretraining(config, bundle, dataset),
        synthetic=synthetic,
        dataset=dataset,
        baseline_runs=runs,
        calibrator=calibrator,
        partners=partners,
    )


def _open_dataset(config: EvalConfig, bundle: ModelBundle) -> Dataset:
    """Opens the data set, and makes the model choose from its labels.

    Raises:
        InputError: it cannot be used, or the checkpoint was trained on other labels.
    """
    run = bundle.run
    name = config.dataset or dataset_name(run.config)
    description = load_description(name)
    root = _data_root(config.ssgvqa_root, _recorded(config, run, "ssgvqa_root"), "ssgvqa_root")
    learned = bundle.label_set
    if run.flags and not description.accepts(learned):
        raise InputError(
            f"{config.checkpoint} was trained on the {len(learned)} labels of {learned.name}, but --dataset "
            f"{description.name} has others, so its answers could not be right; train on {description.name} first."
        )
    splits_dir = config.splits_dir or _recorded(config, run, "splits_dir")
    # A run's labels are those of its training questions, whatever these are now.
    label_set = description.label_set(learned.labels) if run.flags else None
    dataset = open_dataset(name, root, splits_dir, strict=config.strict, label_set=label_set)
    adopt_labels(bundle, dataset.label_set)
    return dataset


def _recorded(config: EvalConfig, run: RunRecord, name: str) -> Path | None:
    """A folder that the run recorded; None for another data set than the run's."""
    if config.dataset is not None and config.dataset != dataset_name(run.config):
        return None
    folder: Path | None = getattr(run.config, name)
    return folder


def check_understood(label_set: LabelSet, config: EvalConfig) -> None:
    """Checks that the flags that parse SSG-QA's questions are given for its answers only.

    Raises:
        InputError: such a flag is given, and the labels are another data set's.
    """
    given = [option(n) for n in ("ask_partners", "evidence") if getattr(config, n)]
    if given and not label_set.is_ssg_qa:
        raise InputError(
            f"{given[0]} parses SSG-QA's questions, and the labels are those of {label_set.name}; leave it out."
        )


def _warn_of_generation(bundle: ModelBundle, frames: Sequence[FrameQuestions]) -> None:
    """Warns where generated answers cannot be good, or cannot be compared."""
    if bundle.run.config.target != "long":
        log.warning(
            "The checkpoint was not trained with --target long: it has not learned to write sentences and to end them, "
            "so each answer is as long as --max-new-tokens allows."
        )
    if not any(question.long_answer for frame in frames for question in frame.questions):
        log.warning("No question has a long answer: what is generated is written, but compared with nothing.")


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
    config: EvalConfig, run: RunRecord, dataset: Dataset
) -> tuple[Sequence[FrameQuestions], dict[str, int]]:
    """Reads the questions of the split.

    Returns:
        The frames with their questions, and the number of lines left out, by reason.

    Raises:
        InputError: the model was trained on a video of the split, or the questions cannot be read.
    """
    videos = dataset.splits.videos(config.split)
    seen = shared_videos(videos, run.train_videos) if config.split != "train" else []
    if seen:
        raise InputError(
            f"The {config.split} split names {', '.join(seen)}, which {config.checkpoint} was trained on, so its "
            f"metrics would be meaningless. Remove these videos from the split (--splits-dir), or use --split train."
        )
    frames, report = dataset.questions(videos, strict=config.strict)
    warn_of_faults(config.split, report)
    return frames, report.to_dict()["skipped"]


def _find_pretraining(config: EvalConfig, bundle: ModelBundle, dataset: Dataset) -> list[Finding]:
    checkpoint = ("--checkpoint", config.checkpoint, bundle.run)
    videos = dataset.splits.videos(config.split)
    return find_pretraining(bundle.settings, videos, dataset.description.name, checkpoint)


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


def count_bad_frames(config: EvalConfig, frames: Sequence[FrameQuestions]) -> BadFrames:
    """The count of bad frames, and how many are allowed."""
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
