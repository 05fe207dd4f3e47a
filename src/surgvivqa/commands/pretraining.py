"""What the parts of a model have seen before: a check of ``check``, and the section ``pretraining`` of ``eval``."""

from collections.abc import Sequence
from pathlib import Path

from surgvivqa.checkpoints.packaged import PACKAGED
from surgvivqa.config import PART_FLAGS, ModelConfig, TrainConfig, dataset_name, option
from surgvivqa.data.dataset_overlaps import Finding, TrainingRun, find_seen_videos, summarise_findings
from surgvivqa.datasets.opening import Dataset
from surgvivqa.model.bundle import ModelBundle, RunRecord


def find_pretraining(
    settings: ModelConfig,
    videos: Sequence[str],
    dataset: str,
    checkpoint: tuple[str, Path, RunRecord] | None = None,
) -> list[Finding]:
    """Finds whether the pretrained parts of a model, or the checkpoint that it comes from, have seen videos.

    Args:
        settings: name the parts.
        videos: the videos to be tested.
        dataset: the name of their data set.
        checkpoint: its flag, its path, and the record of the run that trained it; None for a model that comes from its
            parts alone.
    """
    packaged = Finding("--preset", "tiny", "clean", why="the packaged base was trained on synthetic scenes")
    parts = {} if settings.preset == "tiny" else {option(name): getattr(settings, name) for name in PART_FLAGS}
    runs = []
    if checkpoint is not None and str(checkpoint[1]) != PACKAGED:
        flag, path, run = checkpoint
        trained_on = Path(dataset_name(run.config)).name.removesuffix(".yaml")
        runs.append(TrainingRun(flag, str(path), run.train_videos, trained_on))
    found = find_seen_videos(videos, parts, runs, dataset)
    return [packaged, *found] if settings.preset == "tiny" else found


def check_pretraining(config: TrainConfig, dataset: Dataset, bundle: ModelBundle | None = None) -> tuple[str, str]:
    """Checks whether what a training run starts from has seen a test video.

    Args:
        config: the run's flags.
        dataset: names the test videos.
        bundle: the model with the settings and the record of ``--pretrained-ckpt``; None without that flag.

    Returns:
        The status, PASS or WARN, and the message of the check.
    """
    tested = dataset.splits.test
    if dataset.is_synthetic:
        return "PASS", "the questions are synthetic, so no pretrained part has seen their videos."
    if not tested:
        return "PASS", "there is no test video."
    checkpoint = None
    if config.pretrained_ckpt is not None and bundle is not None:
        checkpoint = ("--pretrained-ckpt", config.pretrained_ckpt, bundle.run)
    settings = config if bundle is None else bundle.settings
    findings = find_pretraining(settings, tested, dataset.description.name, checkpoint)
    is_clean = all(finding.verdict == "clean" for finding in findings)
    about = "" if is_clean else f"Of the test videos {', '.join(tested)}: "
    return "PASS" if is_clean else "WARN", f"{about}{summarise_findings(findings)}"
