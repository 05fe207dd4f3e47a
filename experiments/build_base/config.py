"""Settings of the build."""

from dataclasses import dataclass
from pathlib import Path


@dataclass(kw_only=True)
class BuildConfig:
    """Build the tiny preset's base from random weights; the same command resumes a stopped build."""

    out: Path
    """Folder to work in; the result is OUT/base."""
    frames_per_video: int = 200
    """Frames of each of the 45 source videos."""
    patch_steps: int = 3000
    """Steps of the patch stage."""
    patch_frames: int = 32
    """Frames per step of the patch stage."""
    question_steps: int = 5000
    """Steps of the question stage."""
    question_frames: int = 8
    """Frames per step of the question stage."""
    questions_per_frame: int = 12
    """Questions about each of these frames."""
    lr: float = 1e-3
    """Peak learning rate of both stages."""
    attention_weight: float = 0.5
    """Weight of the loss on cross-attention in the question stage."""
    seed: int = 1
    """Seed of weights and order."""
    save_every: int = 250
    """Steps between two saved states."""
