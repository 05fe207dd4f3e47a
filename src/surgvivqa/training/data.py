"""The questions that a run trains and validates on, and the record of them in its checkpoints."""

import json
import logging
from collections.abc import Sequence

from surgvivqa.config import DataConfig, TrainConfig, data_roots, dataset_name, plain_values
from surgvivqa.data.index import draw_subsample, subsample
from surgvivqa.data.overlaps import check_no_links
from surgvivqa.data.splits import shared_videos
from surgvivqa.data.ssgqa import FrameQuestions, warn_of_faults
from surgvivqa.datasets.opening import Dataset, open_dataset
from surgvivqa.model.bundle import RunRecord
from surgvivqa.utils.errors import InputError

log = logging.getLogger("surgvivqa")


def open_run_dataset(config: DataConfig) -> Dataset:
    """Opens the data set that a command's flags name.

    Raises:
        InputError: a folder, the description or a split cannot be used.
    """
    questions_root, _ = data_roots(config)
    return open_dataset(dataset_name(config), questions_root, config.splits_dir, strict=config.strict)


def read_training_data(
    config: TrainConfig, dataset: Dataset
) -> tuple[Sequence[FrameQuestions], Sequence[FrameQuestions]]:
    """The training frames, and validation frames with at most ``val_max_samples`` questions.

    Raises:
        InputError: a folder or a split cannot be used, or there is no question to train on.
    """
    splits = dataset.splits
    if dataset.is_ssgqa:
        check_no_links(data_roots(config), splits)
    frames, report = dataset.questions(splits.train, strict=config.strict)
    log.info("Training lines: %s", json.dumps(report.to_dict()["skipped"] | {"questions": report.questions}))
    warn_of_faults("training", report)
    if not frames:
        raise InputError(f"--ssgvqa-root {dataset.root} has no usable question in its training videos.")
    val: Sequence[FrameQuestions] = []
    if splits.val:
        val, report = dataset.questions(splits.val, strict=config.strict)
        warn_of_faults("validation", report)
    if config.max_train_samples is not None:
        frames = draw_subsample(frames, config.max_train_samples, config.seed)
    return frames, subsample(val, config.val_max_samples)


def record_run(config: TrainConfig, dataset: Dataset, known_videos: Sequence[str]) -> RunRecord:
    """What a run's checkpoints record about it.

    Args:
        config: the run's flags.
        dataset: the data that it trains on.
        known_videos: the videos that ``--pretrained-ckpt`` was trained on, as far as it records them. They count as
            training videos, so that no evaluation on them can pass for one on unseen videos.

    Raises:
        InputError: one of them is a test video of the run.
    """
    if seen := shared_videos(dataset.splits.test, known_videos):
        raise InputError(
            f"--pretrained-ckpt {config.pretrained_ckpt} was trained on {', '.join(seen)}, which this run's split "
            f"tests on, so its evaluation would be meaningless; start from another checkpoint, or give another split."
        )
    return RunRecord(
        flags=plain_values(config),
        train_videos=tuple(dict.fromkeys([*dataset.splits.train, *known_videos])),
        synthetic=dataset.is_synthetic,
    )
