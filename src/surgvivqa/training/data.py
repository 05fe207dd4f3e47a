"""The questions that a run trains and validates on, and the record of them in its checkpoints."""

import json
import logging
from collections.abc import Sequence

from surgvivqa.config import TrainConfig, data_roots, plain_values
from surgvivqa.data.index import draw_subsample, open_questions, subsample
from surgvivqa.data.overlaps import check_no_links
from surgvivqa.data.splits import load_splits, shared_videos
from surgvivqa.data.ssgqa import FrameQuestions, is_synthetic, warn_of_faults
from surgvivqa.model.bundle import RunRecord
from surgvivqa.utils.errors import InputError

log = logging.getLogger("surgvivqa")


def read_training_data(config: TrainConfig) -> tuple[Sequence[FrameQuestions], Sequence[FrameQuestions]]:
    """The training frames, and validation frames with at most ``val_max_samples`` questions.

    Raises:
        InputError: a folder or a split cannot be used, or there is no question to train on.
    """
    roots = data_roots(config)
    questions_root, splits = roots[0], load_splits(config.splits_dir)
    check_no_links(roots, splits)
    frames: Sequence[FrameQuestions]
    frames, report = open_questions(questions_root, splits.train, strict=config.strict)
    log.info("Training lines: %s", json.dumps(report.to_dict()["skipped"] | {"questions": report.questions}))
    warn_of_faults("training", report)
    if not frames:
        raise InputError(f"--ssgvqa-root {questions_root} has no usable question in its training videos.")
    val: Sequence[FrameQuestions] = []
    if splits.val:
        val, report = open_questions(questions_root, splits.val, strict=config.strict)
        warn_of_faults("validation", report)
    if config.max_train_samples is not None:
        frames = draw_subsample(frames, config.max_train_samples, config.seed)
    return frames, subsample(val, config.val_max_samples)


def record_run(config: TrainConfig, known_videos: Sequence[str]) -> RunRecord:
    """What a run's checkpoints record about it.

    Args:
        config: the run's flags.
        known_videos: the videos that ``--pretrained-ckpt`` was trained on, as far as it records them. They count as
            training videos, so that no evaluation on them can pass for one on unseen videos.

    Raises:
        InputError: one of them is a test video of the run.
    """
    splits = load_splits(config.splits_dir)
    if seen := shared_videos(splits.test, known_videos):
        raise InputError(
            f"--pretrained-ckpt {config.pretrained_ckpt} was trained on {', '.join(seen)}, which this run's split "
            f"tests on, so its evaluation would be meaningless; start from another checkpoint, or give another split."
        )
    return RunRecord(
        flags=plain_values(config),
        train_videos=tuple(dict.fromkeys([*splits.train, *known_videos])),
        synthetic=is_synthetic(data_roots(config)[0]),
    )
