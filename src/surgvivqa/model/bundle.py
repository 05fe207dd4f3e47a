"""A model with its tokenizer and its settings, and what they say about frames, prompts and the processor."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from surgvivqa.config import ModelConfig
from surgvivqa.data.frames import FrameStore
from surgvivqa.data.prompt_tokens import PromptTokenizer
from surgvivqa.model.modeling import SurgViVQAModel
from surgvivqa.model.processing import SurgViVQAProcessor


def build_frame_store(settings: ModelConfig, image_root: Path, num_frames: int, image_size: int = 224) -> FrameStore:
    """The frames under ``image_root`` as a model with these settings reads them.

    Args:
        settings: the frame fit, the clip mode and its stride.
        image_root: the folder with one folder of frames per video.
        num_frames: frames per clip.
        image_size: frames become ``image_size x image_size``.
    """
    return FrameStore(
        root=image_root,
        size=image_size,
        fit=settings.frame_fit,
        clip_mode=settings.clip_mode,
        num_frames=num_frames,
        stride=settings.clip_stride,
    )


@dataclass
class ModelBundle:
    """A model with its tokenizer, its settings, and the flags of the run that trained it.

    Attributes:
        model: the model.
        tokenizer: the decoder's Hugging Face tokenizer.
        settings: the part of a run's flags that a checkpoint needs.
        run: all flags of the run; empty where no run is known.
        own: names of the tensors that come from a checkpoint and not from the published parts.
        report: what loading a file in the published form found, as a sentence for the log.
    """

    model: SurgViVQAModel
    tokenizer: Any
    settings: ModelConfig
    run: dict[str, Any] = field(default_factory=dict)
    own: set[str] = field(default_factory=set)
    report: str = ""

    def __post_init__(self) -> None:
        self.apply_settings()

    def apply_settings(self) -> None:
        """Copies the settings that the model computes with into its configuration; fills in the maximum length."""
        if self.settings.max_length is None:
            self.settings.max_length = self.model.config.max_tokens
        for name in ("video_pool", "mask", "prompt_mode"):
            setattr(self.model.config, name, getattr(self.settings, name))

    def frame_store(self, image_root: Path) -> FrameStore:
        """The frames under ``image_root`` as this model reads them."""
        video = self.model.config.video_config
        return build_frame_store(self.settings, image_root, video.num_frames, video.image_size)

    def prompt_tokenizer(self) -> PromptTokenizer:
        """Prompts and labels to token ids, with this model's prompt mode and maximum length."""
        limit = self.model.config.max_tokens
        return PromptTokenizer(self.tokenizer, self.settings.prompt_mode, self.settings.max_length or limit, limit)

    def processor(self) -> SurgViVQAProcessor:
        """The Hugging Face processor of this model."""
        settings, video = self.settings, self.model.config.video_config
        return SurgViVQAProcessor(
            self.tokenizer,
            image_size=video.image_size,
            num_frames=video.num_frames,
            frame_fit=settings.frame_fit,
            clip_mode=settings.clip_mode,
            clip_stride=settings.clip_stride,
            prompt_mode=settings.prompt_mode,
            max_length=settings.max_length or self.model.config.max_tokens,
        )
