"""What the parts of a model have seen before: a check of ``check``, and the section ``pretraining`` of ``eval``."""

from collections.abc import Sequence
from pathlib import Path

from surgvivqa.checkpoints.packaged import PACKAGED
from surgvivqa.config import PART_FLAGS, ModelConfig, TrainConfig, option
from surgvivqa.data.dataset_overlaps import Finding, TrainingRun, find_seen_videos, summarise_findings
from surgvivqa.data.splits import Splits
from surgvivqa.data.ssgqa import is_synthetic
from surgvivqa.model.bundle import ModelBundle


def find_pretraining(
    settings: ModelConfig, videos: Sequence[str], checkpoint: tuple[str, Path, Sequence[str]] | None = None
) -> list[Finding]:
    """Finds whether the pretrained parts of a model, or the checkpoint that it comes from, have seen videos.

    Args:
        settings: name the parts.
        videos: the videos to be tested.
        checkpoint: its flag, its path, and the videos that it is recorded to have been trained on; None for a model
            that comes from its parts alone.
    """
    packaged = Finding("--preset", "tiny", "clean", why="the packaged base was trained on synthetic scenes")
    parts = {} if settings.preset == "tiny" else {option(name): getattr(settings, name) for name in PART_FLAGS}
    runs = []
    if checkpoint is not None and str(checkpoint[1]) != PACKAGED:
        flag, path, trained_on = checkpoint
        runs.append(TrainingRun(flag, str(path), tuple(trained_on)))
    found = find_seen_videos(videos, parts, runs)
    return [packaged, *found] if settings.preset == "tiny" else found


def check_pretraining(config: TrainConfig, splits: Splits, bundle: ModelBundle | None = None) -> tuple[str, str]:
    """Checks whether what a training run starts from has seen a test video.

    Args:
        config: the run's flags.
        splits: name the test videos.
        bundle: the model with the settings and the record of ``--pretrained-ckpt``; None without that flag.

    Returns:
        The status, PASS or WARN, and the message of the check.
    """
    assert config.ssgvqa_root is not None
    if is_synthetic(config.ssgvqa_root):
        return "PASS", "the questions are synthetic, so no pretrained part has seen their videos."
    if not splits.test:
        return "PASS", "there is no test video."
    checkpoint = None
    if config.pretrained_ckpt is not None and bundle is not None:
        checkpoint = ("--pretrained-ckpt", config.pretrained_ckpt, bundle.run.train_videos)
    findings = find_pretraining(config if bundle is None else bundle.settings, splits.test, checkpoint)
    is_clean = all(finding.verdict == "clean" for finding in findings)
    about = "" if is_clean else f"Of the test videos {', '.join(splits.test)}: "
    return "PASS" if is_clean else "WARN", f"{about}{summarise_findings(findings)}"
