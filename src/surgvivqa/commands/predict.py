"""``surgvivqa predict``: answers one question about a frame or a clip."""

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from surgvivqa.commands.load_model import load_model
from surgvivqa.config import OptionalModelConfig, flag
from surgvivqa.data.labels import LABELS


@dataclass(kw_only=True)
class PredictConfig:
    """Answers one question about a frame, or about a clip of several frames.

    A model flag is used for a checkpoint without settings of its own (a lone .pth). --prompt-mode, --mask and
    --max-length override those of any checkpoint.
    """

    checkpoint: Path = flag("A run folder, its best/, a .pth state dict, a hub name, or tiny: the packaged base.")
    image: list[Path] = flag("The frame; or the frames of a clip, oldest first, for a model trained on past clips.")
    question: str = flag("The question.")
    top: int = flag("How many answers to show.", 5)
    json: bool = flag("Print JSON.", False)
    model: Annotated[OptionalModelConfig, tyro.conf.OmitArgPrefixes] = dataclasses.field(
        default_factory=OptionalModelConfig
    )


def predict(config: PredictConfig) -> int:
    """Prints the most probable answers to one question about a frame or a clip."""
    bundle = load_model(config.checkpoint, config.model)
    processor = bundle.processor()
    inputs = processor([config.image], config.question)
    answers = processor.answers(bundle.model.score(**inputs), max(1, min(config.top, len(LABELS))))[0]
    if config.json:
        print(
            json.dumps({"question": config.question, "answers": [{"answer": a, "probability": p} for a, p in answers]})
        )
    else:
        for answer, chance in answers:
            print(f"{answer:<24}{100 * chance:6.2f} %")
    return 0
