"""The flags of ``surgvivqa predict``."""

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal, TypeAlias

import tyro

from surgvivqa.config import OptionalModelConfig, flag

Format: TypeAlias = Literal["text", "jsonl", "csv"]
Repeated: TypeAlias = Annotated[list[tuple[str, ...]], tyro.conf.UseAppendAction]
"""A flag that takes several words and may be repeated, of which all count."""


@dataclass(kw_only=True)
class PredictConfig:
    """Answers questions about a picture, or about moments of a video.

    Model flags apply to a checkpoint without settings (a lone .pth). --prompt-mode, --mask and --max-length also
    override the settings of other checkpoints.
    """

    checkpoint: Path = flag("A run folder, its best/, a .pth state dict, a hub name, or tiny (the packaged base).")
    image: list[Path] = flag(
        "The frame, or the frames of a clip from oldest to newest for a model trained on past clips.",
        default_factory=list,
    )
    video: Path | None = flag(
        "A video file, or a folder of frames that are named after seconds with six digits, in place of --image.", None
    )
    at: Repeated = flag(
        "Moments of the video to ask about, such as 12:34, 1:02:03.5, 754 or 500ms.", default_factory=list
    )
    every: str | None = flag("Ask about one moment after each step of time, such as 5s, in place of --at.", None)
    start: str | None = flag("The first moment of --every. Default: the beginning.", None)
    end: str | None = flag("The last moment of --every. Default: the end of the video.", None)
    fps: float | None = flag("Frames per second of a folder whose frames are not named after seconds.", None)
    question: Repeated = flag("A question to answer; may be given several times.", default_factory=list)
    questions: Path | None = flag(
        "A file of questions: one on each line, or JSON lines with the key question.",
        None,
    )
    top: int = flag("Number of answers to print.", 5, least=1)
    format: Format = flag("How answers are written: text, JSON lines, or CSV with a header.", "text")
    output: Path | None = flag("File for the answers. Default: standard output.", None)
    json: bool = flag("Print the answers to one question about one moment as one JSON object.", False)
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
