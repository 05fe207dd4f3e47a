"""Frames to video tokens: from the cache where they are in it, else by the encoder, and then into the cache."""

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from surgvivqa.config import ModelConfig
from surgvivqa.data.frames import FrameStore
from surgvivqa.features.cache import FeatureCache, hash_weights
from surgvivqa.features.frame_reader import FrameInputs, FrameReader
from surgvivqa.model.bundle import ModelBundle

log = logging.getLogger("surgvivqa")
# What decides the encoder's output and shows in no tensor's shape is here too.
_ARCHITECTURE = (
    *("image_size", "patch_size", "num_frames", "tubelet_size", "num_channels", "hidden_size", "num_hidden_layers"),
    *("num_attention_heads", "intermediate_size", "hidden_act", "layer_norm_eps", "use_mean_pooling"),
)


class VideoTokenSource:
    """The video tokens of frames, with or without a cache.

    With a cache a frame's tokens are a function of the frozen weights and the frame alone, whoever makes them: encoded
    in float32 whatever precision the run has, one frame at a time (in a batch of another size the last bit can differ),
    rounded to the cache's dtype, and used in that rounded form also the first time. So a hit equals a miss bit for bit.

    Args:
        encode: clips ``[F, T, 3, H, W]`` to tokens ``[F, V, H]``.
        encoder: the module whose device the tokens are made on.
        video_config: its configuration.
        reader: where frames come from, and the cache, if any.
    """

    def __init__(
        self, encode: Callable[[Tensor], Tensor], encoder: Any, video_config: Any, reader: FrameReader
    ) -> None:
        self.encode, self.encoder, self.video_config = encode, encoder, video_config
        self.reader, self.cache = reader, reader.cache
        self.hits = self.misses = 0
        self._warned = False

    @property
    def device(self) -> torch.device:
        """Where the encoder is now."""
        return next(self.encoder.parameters()).device

    def clips(self, inputs: FrameInputs) -> Tensor:
        """The clips ``[F - C, T, 3, H, W]`` of the frames that have no cached tokens, on the encoder's device."""
        if inputs.clips is None:
            raise ValueError("every frame of these inputs has cached tokens, so none has a clip")
        clips = inputs.clips.to(self.device)
        return clips.expand(-1, self.video_config.num_frames, -1, -1, -1) if clips.shape[1] == 1 else clips

    def model_inputs(self, inputs: FrameInputs) -> dict[str, Tensor]:
        """What ``forward`` takes: ``pixel_values`` where the encoder runs inside it, else ``video_tokens``."""
        if self.cache is None:
            return {"pixel_values": self.clips(inputs)}
        return {"video_tokens": self(inputs)}

    def blank_inputs(self) -> dict[str, Tensor]:
        """What ``forward`` takes of one frame that nobody has: a clip of zeros, for a place that must not count."""
        video = self.video_config
        size = (1, video.num_frames, video.num_channels, video.image_size, video.image_size)
        return {"pixel_values": torch.zeros(size, device=self.device)}

    def __call__(self, inputs: FrameInputs) -> Tensor:
        """Tokens ``[F, V, H]`` on the encoder's device; float32 and without a gradient where there is a cache.

        Raises:
            RunError: the encoder gives a value that is not finite.
            FrameError, InputError: a cache file is damaged.
        """
        if self.cache is None:
            return self.encode(self.clips(inputs))
        hits = iter(() if inputs.tokens is None else inputs.tokens.to(self.device).float())
        clips = iter(() if inputs.clips is None else self.clips(inputs))
        rows = []
        for key, cached in zip(inputs.keys, inputs.cached, strict=True):
            # Since the worker looked, this process may have met the frame in an earlier batch.
            found = next(hits) if cached else self._made(self.cache, key, next(clips))
            self.hits += cached
            rows.append(found)
        return torch.stack(rows)

    @torch.no_grad()
    def _made(self, cache: FeatureCache, key: tuple[str, int, int], clip: Tensor) -> Tensor:
        tokens = cache.get(*key)
        if tokens is not None:
            self.hits += 1
            return tokens.to(self.device).float()
        if not self._warned and cache.is_stale(*key):
            self._warned = True
            log.warning(
                "The cache has %s frame %d, but of an image of another size or modification time; such frames are "
                "encoded again.",
                *key[:2],
            )
        self.misses += 1
        with torch.autocast(self.device.type, enabled=False):
            encoded = self.encode(clip.unsqueeze(0))[0]
        return cache.put(*key, encoded).float()

    def flush(self) -> None:
        """Writes what was encoded and is not on disk yet."""
        if self.cache is not None:
            self.cache.flush()

    def __enter__(self) -> "VideoTokenSource":
        return self

    def __exit__(self, *_: object) -> None:
        self.flush()
        if self.cache is not None:
            log.info("Cache %s: %d frames read, %d encoded", self.cache.folder, self.hits, self.misses)


def made_of(encoder: Any, video_config: Any, settings: ModelConfig, frames: FrameStore) -> dict[str, Any]:
    """Everything that decides a frame's video tokens beside the frame, as plain values for the fingerprint."""
    trained = getattr(video_config, "position_frames", video_config.num_frames)
    # Named only where it matters, so that older caches stay good.
    positions = {"position_frames": trained} if trained != video_config.num_frames else {}
    return {
        **positions,
        "features": "video tokens",
        "weights_sha256": hash_weights(encoder.state_dict()),
        "architecture": {name: getattr(video_config, name) for name in _ARCHITECTURE},
        "computed_in": "float32, fused attention",
        "frame_fit": frames.fit,
        "image_size": frames.size,
        "mean": list(frames.mean),
        "std": list(frames.std),
        "clip_mode": frames.clip_mode,
        "clip_stride": frames.stride if frames.clip_mode == "past" else None,
        "num_frames": frames.num_frames,
        "video_pool": settings.video_pool,
    }


def build_video_token_source(
    bundle: ModelBundle, frames: FrameStore, cache: Path | None = None, dtype: str = "fp16", *, must_write: bool = False
) -> VideoTokenSource:
    """The source of a model's video tokens; with a cache its video encoder must be frozen.

    The arguments are those of ``build_encoder_token_source``.

    Raises:
        InputError: the cache folder cannot be used.
    """
    model, settings = bundle.model, bundle.settings
    encoder, config = model.visual_encoder, model.config.video_config
    return build_encoder_token_source(
        model.encode_video, encoder, config, settings, frames, cache, dtype, must_write=must_write
    )


def build_encoder_token_source(
    encode: Callable[[Tensor], Tensor],
    encoder: Any,
    video_config: Any,
    settings: ModelConfig,
    frames: FrameStore,
    cache: Path | None,
    dtype: str,
    *,
    must_write: bool = False,
) -> VideoTokenSource:
    """The video tokens of an encoder that is not in a whole model.

    Args:
        encode: clips ``[F, T, 3, H, W]`` to tokens ``[F, V, H]``.
        encoder: the module behind it; with a cache its weights are hashed (0.2 s for VideoMAE-base).
        video_config: its configuration.
        settings: of the model; the pooling is read.
        frames: where frames lie.
        cache: the cache folder; None encodes every frame each time.
        dtype: the cache's dtype.
        must_write: whether a cache folder that cannot be written is an error.

    Raises:
        InputError: the cache folder cannot be used.
    """
    store = None
    if cache is not None:
        parts = made_of(encoder, video_config, settings, frames)
        store = FeatureCache(cache, parts, video_config.hidden_size, dtype, must_write=must_write)
    return VideoTokenSource(encode, encoder, video_config, FrameReader(frames, store))
