"""A model with what belongs to it."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

from surgvivqa.config import ModelConfig
from surgvivqa.data.frames import FrameStore
from surgvivqa.data.packing import PromptTokenizer
from surgvivqa.model.modeling import SurgViVQAModel


@dataclass
class ModelBundle:
    """A model with what belongs to it: its tokenizer, its settings, and the flags of the run that made it.

    ``own`` names the tensors that came from a checkpoint and not from the published parts; ``report`` says what a file
    in the published form gave.
    """

    model: SurgViVQAModel
    tokenizer: Any
    settings: ModelConfig
    run: dict[str, Any] = field(default_factory=dict)
    own: set[str] = field(default_factory=set)
    report: str = ""

    def __post_init__(self) -> None:
        for name in ("video_pool", "mask", "prompt_mode"):
            setattr(self.model.config, name, getattr(self.settings, name))


def frame_store(bundle: ModelBundle, image_root: Path) -> FrameStore:
    """The frames as this model wants them."""
    return frame_store_of(bundle.settings, bundle.model.config.video_config, image_root)


def frame_store_of(settings: ModelConfig, video: Any, image_root: Path) -> FrameStore:
    """The frames as a model of these settings and this VideoMAE configuration wants them."""
    return FrameStore(
        root=image_root,
        size=video.image_size,
        fit=settings.frame_fit,
        clip_mode=settings.clip_mode,
        num_frames=video.num_frames,
        stride=settings.clip_stride,
    )


def prompt_tokenizer(bundle: ModelBundle) -> PromptTokenizer:
    """Prompts and labels to token ids, as this model wants them."""
    return PromptTokenizer(bundle.tokenizer, bundle.settings.prompt_mode, bundle.settings.max_length)


def saved_tensors(bundle: ModelBundle, *, everything: bool = False) -> dict[str, Tensor]:
    """What a checkpoint must hold: the tensors trained, now or in a checkpoint that the run started from, or all where
    no published part can give the rest back, or where ``everything`` is asked for.

    Tied weights, as GPT-2's output layer, are left out.
    """
    model = bundle.model
    whole = everything or bundle.settings.preset == "tiny"
    trained = {name for name, p in model.named_parameters() if p.requires_grad} | bundle.own
    return {
        name: tensor.detach().contiguous()
        for name, tensor in model.state_dict().items()
        if (whole or name in trained) and name not in model.all_tied_weights_keys
    }
