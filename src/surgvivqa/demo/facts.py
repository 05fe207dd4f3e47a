"""What the page says about its model: its name, what it was trained on, and warnings."""

from dataclasses import dataclass
from pathlib import Path

from surgvivqa.checkpoints.packaged import PACKAGED
from surgvivqa.model.bundle import ModelBundle


@dataclass(frozen=True)
class ModelFacts:
    """What a visitor must know about the model.

    Attributes:
        name: the checkpoint's name, without the folders of this machine.
        trained_on: what it was trained on, in words.
        warnings: sentences about what its answers are not worth.
    """

    name: str
    trained_on: str
    warnings: tuple[str, ...]


def describe_model(checkpoint: Path, bundle: ModelBundle) -> ModelFacts:
    """The facts about a loaded checkpoint."""
    run = bundle.run
    is_base = str(checkpoint) == PACKAGED
    name = "tiny, the packaged base" if is_base else _public_name(checkpoint)
    warnings = []
    if is_base or run.synthetic:
        warnings.append("Trained on drawn scenes only: its answers about real surgery mean nothing.")
    elif bundle.settings.preset == "tiny":
        warnings.append("A small model for trying things out, which began from drawn scenes: do not rely on it.")
    if run.flags.get("blank_video"):
        warnings.append("Trained on black pictures: it answers from the question alone.")
    if bundle.settings.mask == "bidirectional":
        warnings.append("Its mask lets each answer see itself: use it only to reproduce published figures.")
    if is_base or run.synthetic:
        trained_on = "synthetic scenes"
    elif run.flags:
        data_set = str(run.flags.get("dataset") or "ssg-qa")
        trained_on = f"{'SSG-QA' if data_set == 'ssg-qa' else Path(data_set).stem}"
        if run.train_videos:
            trained_on += f", {len(run.train_videos)} videos"
    else:
        trained_on = "not recorded in the checkpoint"
    return ModelFacts(name, trained_on, tuple(warnings))


def _public_name(checkpoint: Path) -> str:
    """A hub name as it is; of a path on this machine the last folder that says something."""
    if not checkpoint.exists():
        return str(checkpoint)
    parts = [part for part in checkpoint.resolve().parts if part not in ("best", "checkpoints")]
    return parts[-1] if parts else str(checkpoint)
