"""The questions that a run trains and validates on."""

import json
import logging
from collections.abc import Sequence

from surgvivqa.config import TrainConfig, data_roots
from surgvivqa.data.index import draw_subsample, open_questions, subsample
from surgvivqa.data.overlaps import check_no_links
from surgvivqa.data.splits import load_splits
from surgvivqa.data.ssgqa import FrameQuestions, warn_of_faults
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
