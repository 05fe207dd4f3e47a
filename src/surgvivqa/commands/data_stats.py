"""``surgvivqa data stats``: counts of the questions, and what a language prior alone would score."""

import logging
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro
from pydantic import TypeAdapter
from rich.console import Console
from rich.progress import track

from surgvivqa.config import flag, folder_from_environment
from surgvivqa.data.splits import SPLIT_NAMES
from surgvivqa.data.ssgqa import FrameQuestions, ReadReport
from surgvivqa.datasets.opening import Dataset, open_dataset
from surgvivqa.evaluation.baselines import MAX_FITTED, LabelledQuestions
from surgvivqa.evaluation.question_stats import Prior, QuestionStats, SplitStats, count_questions, measure_priors
from surgvivqa.reporting.stats_document import build_stats_document
from surgvivqa.reporting.tables import render_markdown, render_text
from surgvivqa.utils.atomic_files import write_text
from surgvivqa.utils.errors import InputError

log = logging.getLogger("surgvivqa")


@dataclass(kw_only=True)
class DataStatsConfig:
    """Counts the questions by split, video, type, reasoning and label, and measures what the questions alone give away.

    The last is what baselines reach that never see a frame. A copy with only some of the videos is enough.
    """

    dataset: str = flag(
        "Data set: ssg-qa, surgcheck, real-colon-vqa or another name of docs/data-sets.md, or a YAML file that "
        "describes one.",
        "ssg-qa",
    )
    ssgvqa_root: Annotated[Path | None, tyro.conf.arg(aliases=["--question-root"])] = flag(
        "Folder of the questions, for SSG-QA <root>/<VIDxx>/<frame>.txt; or their file. Default: the environment "
        "variable SSGVQA_ROOT.",
        default_factory=folder_from_environment("SSGVQA_ROOT"),
    )
    splits_dir: Path | None = flag(
        "Folder with train_videos.json, val_videos.json and test_videos.json. Default: the data set's splits.", None
    )
    prior: bool = flag("Fit the baselines, which takes most of the time.", True)
    json: bool = flag("Print JSON instead of tables.", False)
    markdown: bool = flag("Print Markdown instead of plain tables.", False)
    output: Path | None = flag("File to write. Default: the statistics are printed.", None)


def show_stats(config: DataStatsConfig) -> QuestionStats:
    """Prints or writes the statistics.

    Raises:
        InputError: there is no question, a file or a split cannot be read, or the output cannot be used.
    """
    if config.ssgvqa_root is None:
        raise InputError("--ssgvqa-root is missing; give it, or set SSGVQA_ROOT.")
    if config.json and config.markdown:
        raise InputError("--json and --markdown are two formats; leave out one of them.")
    if config.output is not None and (config.output.is_dir() or not config.output.parent.is_dir()):
        raise InputError(f"--output {config.output} is not a file in a folder that exists; give another name.")
    if not config.ssgvqa_root.exists():
        raise InputError(f"--ssgvqa-root {config.ssgvqa_root} does not exist; it must hold the questions.")
    dataset = open_dataset(config.dataset, config.ssgvqa_root, config.splits_dir)
    stats = compute_stats(dataset, prior=config.prior)
    if config.json:
        text = f"{TypeAdapter(QuestionStats).dump_json(stats, indent=2).decode()}\n"
    else:
        text = (render_markdown if config.markdown else render_text)(build_stats_document(stats))
    if config.output is None:
        print(text, end="")
    else:
        write_text(config.output, text, durable=False)
        print(f"written: {config.output}")
    return stats


def compute_stats(dataset: Dataset, *, prior: bool = True) -> QuestionStats:
    """Reads the questions of the splits, as far as they are there, and computes their statistics.

    Args:
        dataset: the data set.
        prior: whether to fit the baselines.

    Raises:
        InputError: no video of the splits is there, or a file cannot be read.
    """
    counted: list[SplitStats] = []
    priors: list[Prior] = []
    train: LabelledQuestions | None = None
    for split in SPLIT_NAMES:
        named = dataset.splits.videos(split)
        there = _existing_videos(dataset, named)
        stats = SplitStats(split, len(named), [video for video in named if video not in there])
        counted.append(stats)
        frames: Sequence[FrameQuestions] = []
        report = ReadReport()
        if there:
            frames, report = dataset.questions(there)
        passed = count_questions(stats, _show_progress(split, frames), report, dataset.label_set.labels)
        if split == "train":
            train = LabelledQuestions.of_frames(passed)
        elif prior and train is not None and len(train.text):
            if len(frames):
                log.info("The baselines are fitted on the training split and asked on the %s split.", split)
            priors += measure_priors(train, split, passed, dataset.label_set)
        else:
            for _ in passed:
                pass
    if not any(stats.questions for stats in counted):
        raise InputError(
            f"--ssgvqa-root {dataset.root} has no question of the {sum(s.named for s in counted)} videos of the "
            f"splits; give the folder of {dataset.description.name}'s questions."
        )
    return QuestionStats(counted, priors, _describe_limits(counted[0], train, priors) if prior else None)


def _existing_videos(dataset: Dataset, named: Sequence[str]) -> list[str]:
    """The videos that have questions; none where SSG-QA's folder has none of them."""
    try:
        return dataset.existing_videos(named) if named else []
    except InputError:
        return []


def _describe_limits(stats: SplitStats, train: LabelledQuestions | None, priors: Sequence[Prior]) -> str | None:
    """Why there are no priors, or what limits them."""
    if train is None or not len(train.text):
        return "no baseline is fitted, because no question of the training split is there"
    if not priors:
        return "no baseline is asked, because no question of the validation and test splits is there"
    notes = []
    if stats.missing:
        there = stats.named - len(stats.missing)
        notes.append(f"the baselines are fitted on {there} of the {stats.named} training videos, those that are there")
    if len(train.text) > MAX_FITTED:
        notes.append(f"the regression on words is fitted on {MAX_FITTED:,} training questions, drawn at random")
    return "; ".join(notes) or None


def _show_progress(split: str, frames: Sequence[FrameQuestions]) -> Iterator[FrameQuestions]:
    """The frames, with a progress bar if standard error is a terminal."""
    console = Console(stderr=True)
    yield from track(frames, split, len(frames), console=console, disable=not os.isatty(2), transient=True)
