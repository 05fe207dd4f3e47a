"""What the parts of a model have seen before: a check of ``check``, and the section ``pretraining`` of ``eval``."""

from collections.abc import Sequence
from pathlib import Path

from surgvivqa.checkpoints.packaged import PACKAGED
from surgvivqa.config import PART_FLAGS, ModelConfig, TrainConfig, option
from surgvivqa.data.dataset_overlaps import Finding, TrainingRun, find_seen_videos, summarise_findings
from surgvivqa.datasets.opening import Dataset
from surgvivqa.model.bundle import ModelBundle


def find_pretraining(
    settings: ModelConfig, videos: Sequence[str], dataset: str, checkpoint: tuple[str, Path, ModelBundle] | None = None
) -> list[Finding]:
    """Finds whether the pretrained parts of a model, or the checkpoint that it comes from, have seen videos.

    Args:
        settings: name the parts.
        videos: the videos to be tested.
        dataset: the name of their data set.
        checkpoint: its flag, its path, and what was loaded from it; None for a model that comes from its parts alone.
    """
    packaged = Finding("--preset", "tiny", "clean", why="the packaged base was trained on synthetic scenes")
    parts = {} if settings.preset == "tiny" else {option(name): getattr(settings, name) for name in PART_FLAGS}
    runs = []
    if checkpoint is not None and str(checkpoint[1]) != PACKAGED:
        flag, path, bundle = checkpoint
        runs.append(TrainingRun(flag, str(path), bundle.run.train_videos, bundle.label_set.name))
    found = find_seen_videos(videos, parts, runs, dataset)
    return [packaged, *found] if settings.preset == "tiny" else found


def check_pretraining(config: TrainConfig, dataset: Dataset, bundle: ModelBundle | None = None) -> tuple[str, str]:
    """Checks whether what a training run starts from has seen a test video.

    Args:
        config: the run's flags.
        dataset: the run's data set, with its splits.
        bundle: the model with the settings and the record of ``--pretrained-ckpt``; None without that flag.

    Returns:
        The status, PASS or WARN, and the message of the check.
    """
    splits = dataset.splits
    if dataset.is_synthetic:
        return "PASS", "the questions are synthetic, so no pretrained part has seen their videos."
    if not splits.test:
        return "PASS", "there is no test video."
    checkpoint = None
    if config.pretrained_ckpt is not None and bundle is not None:
        checkpoint = ("--pretrained-ckpt", config.pretrained_ckpt, bundle)
    findings = find_pretraining(
        config if bundle is None else bundle.settings, splits.test, dataset.description.name, checkpoint
    )
    is_clean = all(finding.verdict == "clean" for finding in findings)
    about = "" if is_clean else f"Of the test videos {', '.join(splits.test)}: "
    return "PASS" if is_clean else "WARN", f"{about}{summarise_findings(findings)}"
