"""A model with its tokenizer, its settings and the record of the run that trained it."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from surgvivqa.config import ModelConfig, TrainConfig, flag_names
from surgvivqa.data.frames import FrameStore
from surgvivqa.data.labels import LabelSet
from surgvivqa.data.picture_files import PictureFiles
from surgvivqa.data.prompt_tokens import PromptTokenizer
from surgvivqa.data.prompts import Target
from surgvivqa.model.modeling import SurgViVQAModel
from surgvivqa.model.processing import SurgViVQAProcessor
from surgvivqa.utils.errors import InputError


def build_frame_store(
    settings: ModelConfig, image_root: Path, num_frames: int, image_size: int = 224, files: PictureFiles | None = None
) -> FrameStore:
    """Builds the store of the frames under ``image_root`` for a model with these settings.

    Args:
        settings: the model's settings; frame fit, clip mode and clip stride are used.
        image_root: the folder with one folder of frames per video.
        num_frames: frames per clip.
        image_size: frames become ``image_size x image_size``.
        files: where the pictures are (``datasets.Dataset.picture_files``); None for CholecT45's layout.

    Raises:
        InputError: the clips are to be made of earlier frames, and the data set does not say where these are.
    """
    clip_mode: str = settings.clip_mode
    if files is not None and (files.clips or files.rule is None) and clip_mode == "past":
        raise InputError(
            "--clip-mode past needs frames that are numbered by the second, but the questions of this data set name "
            "their pictures; leave it out."
        )
    return FrameStore(
        root=image_root,
        size=image_size,
        fit=settings.frame_fit,
        clip_mode="listed" if files is not None and files.clips else clip_mode,
        num_frames=num_frames,
        stride=settings.clip_stride,
        files=files,
    )


_PATH_FLAGS = flag_names(TrainConfig, lambda flag: flag.is_path)


@dataclass(frozen=True)
class RunRecord:
    """What a checkpoint records about the run that trained it.

    Attributes:
        flags: the run's flags as plain values; empty if the run is not recorded. A flag may be missing, if the
            checkpoint is older than the flag or was published without paths.
        train_videos: the videos that the run trained on.
        synthetic: whether its questions were the synthetic set's; None if that is not recorded.
    """

    flags: Mapping[str, Any] = field(default_factory=dict)
    train_videos: tuple[str, ...] = ()
    synthetic: bool | None = None

    @property
    def config(self) -> TrainConfig:
        """The run's configuration, with defaults for flags that are not recorded."""
        paths = {name: Path(self.flags[name]) for name in _PATH_FLAGS if self.flags.get(name)}
        return TrainConfig(**{**self.flags, **paths})

    def to_dict(self) -> dict[str, Any]:
        """The entry ``run`` of ``surgvivqa.json``; empty if the run is not recorded."""
        if self == RunRecord():
            return {}
        return {**self.flags, "train_videos": list(self.train_videos), "synthetic": self.synthetic}


@dataclass
class ModelBundle:
    """A model with its tokenizer, its settings, and the record of the run that trained it.

    Attributes:
        model: the model.
        tokenizer: the decoder's Hugging Face tokenizer.
        settings: the flags that a checkpoint needs.
        run: the run that trained the model, as far as it is recorded.
        checkpoint_tensors: names of the tensors that come from a checkpoint and not from the published parts.
        report: a sentence for the log about loading a file in the published form; empty for other checkpoints.
        source: the folder or file that the weights were read from; None for parts and for the packaged base.
    """

    model: SurgViVQAModel
    tokenizer: Any
    settings: ModelConfig
    run: RunRecord = RunRecord()
    checkpoint_tensors: set[str] = field(default_factory=set)
    report: str = ""
    source: Path | None = None

    def __post_init__(self) -> None:
        self.apply_settings()

    def apply_settings(self) -> None:
        """Copies settings into the model's configuration, and sets the maximum length if it is not set."""
        if self.settings.max_length is None:
            self.settings.max_length = self.model.config.max_tokens
        for name in ("video_pool", "mask", "prompt_mode"):
            setattr(self.model.config, name, getattr(self.settings, name))

    @property
    def label_set(self) -> LabelSet:
        """The labels that the model chooses from; they are in the model's configuration."""
        return self.model.config.label_set

    def use_labels(self, label_set: LabelSet) -> None:
        """Makes the model choose from other labels: training and scoring of another data set use its labels."""
        self.model.config.label_set = label_set

    def frame_store(self, image_root: Path, files: PictureFiles | None = None) -> FrameStore:
        """Builds the store of the frames under ``image_root`` for this model; see ``build_frame_store``."""
        video = self.model.config.video_config
        return build_frame_store(self.settings, image_root, video.num_frames, video.image_size, files)

    def prompt_tokenizer(self, target: Target = "short") -> PromptTokenizer:
        """Builds the tokenizer of prompts and labels, with this model's prompt mode and maximum length.

        Args:
            target: what training predicts after a prompt.

        Raises:
            InputError: the labels cannot be tokenized (``PromptTokenizer``).
        """
        limit = self.model.config.max_tokens
        return PromptTokenizer(
            self.tokenizer,
            self.settings.prompt_mode,
            self.settings.max_length or limit,
            limit,
            labels=self.label_set.labels,
            target=target,
        )

    def processor(self) -> SurgViVQAProcessor:
        """Builds the Hugging Face processor of this model."""
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
            labels=self.model.config.labels,
            label_set_name=self.model.config.label_set_name,
        )
