"""``surgvivqa train``: fine-tunes the model. The loop is ``training.trainer.Trainer``."""

from surgvivqa.config import TrainConfig
from surgvivqa.training.trainer import train

__all__ = ["TrainConfig", "train"]
