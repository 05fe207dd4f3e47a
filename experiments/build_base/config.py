"""Settings of the build."""

from dataclasses import dataclass
from pathlib import Path

from surgvivqa.config import flag


@dataclass(kw_only=True)
class BuildConfig:
    """Build the tiny preset's base from random weights; the same command resumes a stopped build."""

    out: Path = flag("Folder to work in; the result is OUT/base.")
    frames_per_video: int = flag("Frames of each of the 45 source videos.", 200, least=2)
    patch_steps: int = flag("Steps of the patch stage.", 3000, least=2)
    patch_frames: int = flag("Frames per step of the patch stage.", 32, least=2)
    question_steps: int = flag("Steps of the question stage.", 5000, least=2)
    question_frames: int = flag("Frames per step of the question stage.", 8, least=2)
    questions_per_frame: int = flag("Questions about each of these frames.", 12, least=2)
    lr: float = flag("Peak learning rate of both stages.", 1e-3, least=0)
    attention_weight: float = flag("Weight of the loss on cross-attention in the question stage.", 0.5, least=0)
    seed: int = flag("Seed of weights and order.", 1, least=0)
    save_every: int = flag("Steps between two saved states.", 250, least=1)
