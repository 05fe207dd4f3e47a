"""A loss or gradients that are not finite: whether they are, and what to tell the user."""

import math
from collections.abc import Callable

from surgvivqa.config import TrainConfig
from surgvivqa.model.modeling import SurgViVQAModel
from surgvivqa.training.resume import load_weights, step_folders
from surgvivqa.training.run_folder import RunFolder
from surgvivqa.training.update import StepFigures
from surgvivqa.utils.errors import SurgViVQAError


def is_finite(figures: StepFigures, config: TrainConfig) -> bool:
    """Whether a step's loss and gradients are finite; under fp16 the loss scaler deals with the gradients."""
    return math.isfinite(figures.loss) and (config.fp16 or math.isfinite(figures.grad_norm))


def describe_last_good_checkpoint(folder: RunFolder, model: SurgViVQAModel, score: Callable[[], object]) -> str:
    """A sentence that names the newest checkpoint whose scores are finite. Replaces the model's weights.

    Args:
        folder: the run folder.
        model: the model of the run.
        score: scores some questions with it, and raises an error if the scores are not finite.
    """
    model.eval()
    for checkpoint in [*step_folders(folder.checkpoints), folder.path / "best"]:
        try:
            load_weights(checkpoint, model)
            score()
            return f"The newest checkpoint that scores finite numbers is {checkpoint}."
        except (SurgViVQAError, OSError):
            continue
    return f"No checkpoint in {folder.path} scores finite numbers."


def advise_after_divergence(config: TrainConfig) -> str:
    """What to change; names only flags that are in use."""
    advice = ["lower --lr"]
    if config.max_grad_norm:
        advice.append("lower --max-grad-norm")
    if config.fp16:
        advice.append("leave out --fp16")
    text = ", or ".join(advice)
    return f"{text[0].upper()}{text[1:]}, and start again with --overwrite."
