"""The model's configuration: its three parts, the adapters, and how it was trained."""

from collections.abc import Sequence
from typing import Any

from transformers import AutoConfig, BlipTextConfig, GPT2Config, PreTrainedConfig, VideoMAEConfig

from surgvivqa.data.labels import LabelSet
from surgvivqa.utils.errors import InputError


class SurgViVQAConfig(PreTrainedConfig):
    """The configuration of a ``SurgViVQAModel``.

    Args:
        video_config: VideoMAE's configuration: an object, a dictionary, or None for the defaults.
        text_config: BLIP's text configuration, with the decoder's vocabulary size. ``is_decoder`` is set, so that the
            text model has cross-attention.
        decoder_config: the configuration of any causal language model of Transformers; GPT-2's by default.
        lora: ``r``, ``alpha`` and ``dropout`` of the decoder's LoRA adapters; None for no adapters.
        video_pool: ``none`` or ``temporal``, how video tokens are pooled (``pooling.pool_tokens``).
        position_frames: the clip length in frames that the video encoder was trained with; its positions are
            interpolated for other lengths (``positions.interpolate_positions``). By default ``num_frames`` of
            ``video_config``.
        mask: the mask mode of training and scoring (``data.packing``).
        prompt_mode: the prompt mode of training and scoring (``data.prompts``).
        labels: the labels that the model chooses from; None for SSG-QA's.
        label_set_name: the name of their set; None for SSG-QA's.
        **kwargs: passed on to ``PreTrainedConfig``.

    Raises:
        InputError: the labels cannot be used (``data.labels.check_labels``).
    """

    model_type = "surgvivqa"
    sub_configs = {"video_config": VideoMAEConfig, "text_config": BlipTextConfig, "decoder_config": AutoConfig}  # noqa: RUF012

    def __init__(
        self,
        video_config: Any = None,
        text_config: Any = None,
        decoder_config: Any = None,
        lora: dict[str, float] | None = None,
        video_pool: str = "none",
        position_frames: int | None = None,
        mask: str = "prefix",
        prompt_mode: str = "simple",
        labels: Sequence[str] | None = None,
        label_set_name: str | None = None,
        **kwargs: Any,
    ) -> None:
        self.video_config = _as_config(video_config, VideoMAEConfig)
        self.text_config = _as_config(text_config, BlipTextConfig)
        self.decoder_config = _decoder_config(decoder_config)
        self.text_config.is_decoder = True
        for part in (self.video_config, self.text_config, self.decoder_config):
            part.dtype = None  # all parts have the model's dtype
        self.lora = lora
        self.video_pool = video_pool
        self.position_frames = position_frames or self.video_config.num_frames
        self.mask, self.prompt_mode = mask, prompt_mode
        self.labels: list[str] | None
        self.label_set_name: str | None
        self.label_set = label_set_of(labels, label_set_name)
        super().__init__(**kwargs)

    @property
    def label_set(self) -> LabelSet:
        """The labels that the model chooses from."""
        return label_set_of(self.labels, self.label_set_name)

    @label_set.setter
    def label_set(self, label_set: LabelSet) -> None:
        # Absent for SSG-QA's, as in the checkpoints that are older than label sets.
        self.labels = None if label_set.is_ssg_qa else list(label_set.labels)
        self.label_set_name = None if label_set.is_ssg_qa else label_set.name

    def to_dict(self) -> dict[str, Any]:
        """The configuration as plain values, without labels for SSG-QA's."""
        content: dict[str, Any] = super().to_dict()
        if content.get("labels") is None:
            content.pop("labels", None)
            content.pop("label_set_name", None)
        return content

    @property
    def max_tokens(self) -> int:
        """The maximum length in tokens of a prompt with its answer, for both text encoder and decoder."""
        return max_tokens(self.text_config, self.decoder_config)


def label_set_of(labels: Sequence[str] | None, name: str | None) -> LabelSet:
    """The label set of a configuration's labels; SSG-QA's for None.

    Raises:
        InputError: the labels cannot be used.
    """
    try:
        return LabelSet.of_labels(labels, name)
    except (ValueError, TypeError) as error:
        raise InputError(f"A configuration's labels cannot be used ({error}).") from None


def max_tokens(text_config: Any, decoder_config: Any) -> int:
    """The maximum sequence length in tokens: the smaller number of positions, or the decoder's sliding window."""
    limits = [text_config.max_position_embeddings, getattr(decoder_config, "max_position_embeddings", None)]
    if getattr(decoder_config, "use_sliding_window", True):
        limits.append(getattr(decoder_config, "sliding_window", None))
    return min(limit for limit in limits if limit is not None)


def _as_config(value: Any, cls: Any) -> Any:
    if value is None:
        return cls()
    return cls(**value) if isinstance(value, dict) else value


def _decoder_config(value: Any) -> Any:
    if isinstance(value, dict):
        value = dict(value)
        return AutoConfig.for_model(value.pop("model_type", "gpt2"), **value)
    return GPT2Config() if value is None else value


def tiny_config(vocab_size: int, num_frames: int = 2, image_size: int = 112) -> SurgViVQAConfig:
    """Builds the ``tiny`` preset: about 3 million parameters, for two CPU cores.

    Args:
        vocab_size: size of the decoder's vocabulary.
        num_frames: frames per clip.
        image_size: side of a frame in pixels; the default gives 64 patches of 14 x 14 pixels.
    """
    hidden_size, num_layers, num_heads = 128, 4, 4
    return SurgViVQAConfig(
        video_config=VideoMAEConfig(
            image_size=image_size,
            patch_size=14,
            num_frames=num_frames,
            tubelet_size=2,
            hidden_size=hidden_size,
            num_hidden_layers=num_layers,
            num_attention_heads=num_heads,
            intermediate_size=4 * hidden_size,
            use_mean_pooling=False,
            initializer_range=0.05,
        ),
        text_config=BlipTextConfig(
            vocab_size=vocab_size,
            hidden_size=hidden_size,
            encoder_hidden_size=hidden_size,
            intermediate_size=4 * hidden_size,
            num_hidden_layers=num_layers,
            num_attention_heads=num_heads,
            max_position_embeddings=512,
            hidden_dropout_prob=0.0,
            attention_probs_dropout_prob=0.0,
            initializer_range=0.05,
            bos_token_id=0,
            eos_token_id=0,
            sep_token_id=0,
        ),
        decoder_config=GPT2Config(
            vocab_size=vocab_size,
            n_embd=hidden_size,
            n_layer=num_layers,
            n_head=num_heads,
            n_positions=512,
            resid_pdrop=0.0,
            embd_pdrop=0.0,
            attn_pdrop=0.0,
            bos_token_id=0,
            eos_token_id=0,
        ),
    )
