"""``surgvivqa predict``: answers one question about a frame or a clip."""

import dataclasses
import json
import logging
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from surgvivqa.checkpoints.stored_temperature import read_temperature
from surgvivqa.commands.load_model import load_model
from surgvivqa.commands.precision import compute_dtype, prepare_inference
from surgvivqa.config import OptionalModelConfig, check_ranges, flag
from surgvivqa.explanation.explain import explain_answer
from surgvivqa.model.bundle import ModelBundle
from surgvivqa.utils.atomic_files import write_file
from surgvivqa.utils.distributed import start_processes
from surgvivqa.utils.errors import InputError
from surgvivqa.utils.tf32 import set_tf32

log = logging.getLogger("surgvivqa")


@dataclass(kw_only=True)
class PredictConfig:
    """Answers one question about a frame, or about a clip of several frames.

    Model flags apply to a checkpoint without settings (a lone .pth). --prompt-mode, --mask and --max-length also
    override the settings of other checkpoints.
    """

    checkpoint: Path = flag("A run folder, its best/, a .pth state dict, a hub name, or tiny (the packaged base).")
    image: list[Path] = flag(
        "The frame, or the frames of a clip from oldest to newest for a model trained on past clips."
    )
    question: str = flag("The question to answer.")
    top: int = flag("Number of answers to print.", 5, least=1)
    json: bool = flag("Print the answers as JSON.", False)
    explain: Path | None = flag(
        "A PNG file to write: the frame and three maps of where the model looks for its answer. It takes about as long "
        "as encoding 100 clips.",
        None,
    )
    bf16: bool = flag("Compute in bfloat16; for a GPU.", False)
    fp16: bool = flag("Compute in float16, which rounds less than bfloat16; needs a GPU.", False)
    verify: bool = flag("Verify the checksums of the checkpoint.", True)
    model: Annotated[OptionalModelConfig, tyro.conf.OmitArgPrefixes] = dataclasses.field(
        default_factory=OptionalModelConfig
    )


def predict(config: PredictConfig) -> int:
    """Prints the most probable answers to one question about a frame or a clip; computes on a GPU if one is visible.

    Probabilities are at the temperature that is stored beside the checkpoint, if there is one.

    Raises:
        InputError: the question is empty, an image cannot be read, there are more images than the model takes, the
            precision is not available, or --explain is not a PNG file in a folder.
        RunError: the picture cannot be written.
    """
    check_ranges(config)
    dtype = compute_dtype(config.fp16, config.bf16)
    _check_inputs(config)
    set_tf32(False)
    bundle = load_model(config.checkpoint, config.model, verify=config.verify)
    _check_count(config, bundle)
    stored = read_temperature(bundle, "sum")
    temperature = 1.0 if stored is None else stored.temperature
    processor = bundle.processor()
    inputs = processor([config.image], config.question)
    model, device = bundle.model, start_processes().device
    if device.type == "cuda":
        model.to(device)
    with prepare_inference(model, dtype):
        scores = model.score(**inputs)
        answers = processor.answers(scores, min(config.top, len(bundle.label_set)), temperature=temperature)[0]
        explanation = None
        if config.explain:  # in its passes of several clips, rounding might give another answer than the printed one
            explanation = explain_answer(model, processor, config.image, config.question, answers[0][0])
    if explanation is not None and config.explain is not None:
        # The picture has the probability that is printed, which is at the stored temperature.
        picture = dataclasses.replace(explanation, probability=answers[0][1]).draw()
        write_file(config.explain, lambda temporary: picture.save(temporary, "PNG"))
    if config.json:
        rows = [{"answer": answer, "probability": probability} for answer, probability in answers]
        used = None if stored is None else temperature
        print(json.dumps({"question": config.question, "answers": rows, "temperature": used}))
    else:
        if stored is not None:
            log.info(
                "Probabilities are at temperature %.3f, fitted on %d validation questions.",
                temperature,
                stored.questions,
            )
        for answer, probability in answers:
            print(f"{answer:<24}{100 * probability:6.2f} %")
        if config.explain:
            print(f"written: {config.explain}")
    return 0


def _check_inputs(config: PredictConfig) -> None:
    if not any(character.isalpha() for character in config.question):
        raise InputError(f"--question {config.question!r} has no letters; ask a question.")
    if not config.image:
        raise InputError("--image names no file; give the frame.")
    for image in config.image:
        if re.match(r"[A-Za-z][A-Za-z0-9+.-]+:/", str(image)):
            raise InputError(f"--image {image} is a web address. URLs are not read; download the picture first.")
    if config.explain and (config.explain.suffix.lower() != ".png" or not config.explain.parent.is_dir()):
        raise InputError(f"--explain {config.explain} is not a .png file in a folder that exists; name one.")


def _check_count(config: PredictConfig, bundle: ModelBundle) -> None:
    count, frames = len(config.image), bundle.model.config.video_config.num_frames
    if bundle.settings.clip_mode == "repeat" and count > 1:
        raise InputError(
            f"--image names {count} files, but this model was trained on single frames (--clip-mode repeat); give one."
        )
    if count > frames:
        raise InputError(f"--image names {count} files, but this model takes clips of at most {frames} frames.")
