"""Computes the video tokens of frames with the video encoder, or takes them from a cache."""

import dataclasses
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from surgvivqa.config import ModelConfig
from surgvivqa.data.frames import FrameStore
from surgvivqa.features.cache import FeatureCache, hash_weights
from surgvivqa.features.cache_file import DTYPES, Key
from surgvivqa.features.frame_reader import FrameInputs, FrameReader
from surgvivqa.model.bundle import ModelBundle
from surgvivqa.utils.tf32 import full_float32

log = logging.getLogger("surgvivqa")
# The values of the configuration that determine the encoder's output, apart from the weights.
_ARCHITECTURE = (
    *("image_size", "patch_size", "num_frames", "tubelet_size", "num_channels", "hidden_size", "num_hidden_layers"),
    *("num_attention_heads", "intermediate_size", "hidden_act", "layer_norm_eps", "use_mean_pooling"),
)


class VideoTokenSource:
    """The video tokens of frames, with or without a cache.

    With a cache, a frame's tokens depend only on the frozen weights and the frame. They are encoded in float32 under
    any precision of the run, one frame at a time (other batch sizes may change the last bit), and rounded to the
    cache's dtype; the rounded values are used the first time too, so a hit equals a miss bit for bit.

    Args:
        encode: encodes clips ``[F, T, 3, H, W]`` float32 to tokens ``[F, V, hidden]``.
        encoder: the video encoder's module; the tokens are on its device.
        video_config: the encoder's configuration.
        reader: reads the frames and the cache, if there is one.

    Attributes:
        cache: the reader's cache; None without one.
        hits: number of frames read from the cache.
        misses: number of frames encoded, with a cache.
    """

    def __init__(
        self, encode: Callable[[Tensor], Tensor], encoder: Any, video_config: Any, reader: FrameReader
    ) -> None:
        self.encode, self.encoder, self.video_config = encode, encoder, video_config
        self.reader, self.cache = reader, reader.cache
        self.hits = self.misses = 0
        self._warned = False
        self._alike: dict[torch.dtype | None, Tensor] = {}  # the tokens of a store whose frames look alike

    @property
    def device(self) -> torch.device:
        """The encoder's device."""
        return next(self.encoder.parameters()).device

    def showing(self, frames: FrameStore) -> "VideoTokenSource":
        """The source of the same encoder for a view of its frames (``data.frame_views``).

        It shares the cache if the view shows pictures on disk, each under its own key, and has none otherwise.
        """
        cache = None if frames.pictures else self.cache
        return VideoTokenSource(
            self.encode, self.encoder, self.video_config, FrameReader(frames, cache, self.reader.leave_cached)
        )

    def clips(self, inputs: FrameInputs) -> Tensor:
        """The clips ``[F - C, T, 3, H, W]`` float32 of the frames without cached tokens, on the encoder's device.

        Raises:
            ValueError: every frame has cached tokens.
        """
        if self.reader.store.all_alike:
            clip = self.reader.read_clip(*inputs.keys[0][:2]).to(self.device, non_blocking=True)
            clips = clip.expand(len(inputs.keys), *clip.shape)
        elif inputs.clips is None:
            raise ValueError("every frame of these inputs has cached tokens, so there are no clips")
        else:
            clips = inputs.clips.to(self.device, non_blocking=True)
        return clips.expand(-1, self.video_config.num_frames, -1, -1, -1) if clips.shape[1] == 1 else clips

    def __call__(self, inputs: FrameInputs) -> Tensor:
        """Tokens ``[F, V, hidden]`` on the encoder's device; float32 and without a gradient if there is a cache.

        Raises:
            RunError: the encoder's output is not finite.
            FrameError: a frame's item in a cache file is damaged.
            InputError: a cache file is damaged as a whole, or cannot be written and ``must_write`` was set.
        """
        if self.reader.store.all_alike:
            return self._encode_once(inputs.part(0, 1)).expand(len(inputs.keys), -1, -1)
        if self.cache is None:
            return self.encode(self.clips(inputs))
        inputs = self.read_cached(inputs)
        if all(inputs.cached) and inputs.tokens is not None:
            self.hits += len(inputs.keys)
            return inputs.tokens.to(self.device, non_blocking=True).float()
        hits = iter(() if inputs.tokens is None else inputs.tokens.to(self.device, non_blocking=True).float())
        clips = iter(() if inputs.clips is None else self.clips(inputs))
        tokens = []
        for key, is_cached in zip(inputs.keys, inputs.cached, strict=True):
            tokens.append(next(hits) if is_cached else self._load_or_encode(self.cache, key, next(clips)))
            self.hits += is_cached
        return torch.stack(tokens)

    def _encode_once(self, inputs: FrameInputs) -> Tensor:
        """Tokens ``[1, V, hidden]`` of the picture that all frames show. A frozen encoder encodes it once."""
        if any(p.requires_grad for p in self.encoder.parameters()):
            return self.encode(self.clips(inputs))
        device_type = self.device.type
        precision = torch.get_autocast_dtype(device_type) if torch.is_autocast_enabled(device_type) else None
        if precision not in self._alike:
            # A tensor made in inference mode, as validation runs in, could not enter the graph of a training step.
            with torch.inference_mode(False), torch.no_grad():
                clips = self.clips(inputs)
                if self.cache is None:
                    tokens = self.encode(clips)
                else:
                    tokens = self._load_or_encode(self.cache, inputs.keys[0], clips[0]).unsqueeze(0)
            self._alike[precision] = tokens
        return self._alike[precision]

    def read_cached(self, inputs: FrameInputs) -> FrameInputs:
        """Reads the cached tokens that a reader has left (``FrameReader.leave_cached``), into pinned memory for a GPU.

        Raises:
            FrameError: a frame's item in a cache file is damaged.
            InputError: a cache file is damaged as a whole.
        """
        if self.cache is None or inputs.tokens is not None or not any(inputs.cached):
            return inputs
        keys = [key for key, is_cached in zip(inputs.keys, inputs.cached, strict=True) if is_cached]
        size = (len(keys), self.cache.num_rows(*keys[0]), self.cache.width)
        tokens = torch.empty(size, dtype=DTYPES[self.cache.dtype], pin_memory=self.device.type == "cuda")
        if len(tokens[0]) and all(self.cache.copy_to(*key, part) for key, part in zip(keys, tokens, strict=True)):
            return dataclasses.replace(inputs, tokens=tokens)
        # Another process has removed the files meanwhile: the frames are read, and encoded again.
        items = [self.cache.get(*key) for key in inputs.keys]
        clips = [self.reader.read_clip(*key[:2]) for key, item in zip(inputs.keys, items, strict=True) if item is None]
        found = [item for item in items if item is not None]
        return FrameInputs(
            keys=inputs.keys,
            cached=tuple(item is not None for item in items),
            clips=torch.stack(clips) if clips else None,
            tokens=torch.stack(found) if found else None,
        )

    @torch.no_grad()
    def _load_or_encode(self, cache: FeatureCache, key: Key, clip: Tensor) -> Tensor:
        """The tokens ``[V, hidden]`` float32 of a clip ``[T, 3, H, W]``."""
        # This process may have encoded the frame for an earlier batch after the worker read the cache.
        tokens = cache.get(*key)
        if tokens is not None:
            self.hits += 1
            return tokens.to(self.device).float()
        if not self._warned and cache.is_stale(*key):
            self._warned = True
            log.warning(
                "The image of %s frame %d has another size or modification time than when it was cached; such frames "
                "are encoded again.",
                *key[:2],
            )
        self.misses += 1
        with torch.autocast(self.device.type, enabled=False), full_float32():
            encoded = self.encode(clip.unsqueeze(0))[0]
        return cache.put(*key, encoded).float()

    def flush(self) -> None:
        """Writes the encoded tokens that are not on disk yet (see ``FeatureSource``)."""
        if self.cache is not None:
            self.cache.flush()

    def __enter__(self) -> "VideoTokenSource":
        return self

    def __exit__(self, *_: object) -> None:
        self.flush()
        if self.cache is not None:
            log.info("Cache %s: %d frames read, %d encoded", self.cache.folder, self.hits, self.misses)


def _collect_fingerprint_values(
    encoder: Any, video_config: Any, settings: ModelConfig, frames: FrameStore
) -> dict[str, Any]:
    """The plain values that determine a frame's video tokens, apart from the frame, for the cache's fingerprint."""
    trained_frames = getattr(video_config, "position_frames", video_config.num_frames)
    # Listed only if they differ, so that older caches remain valid.
    positions = {"position_frames": trained_frames} if trained_frames != video_config.num_frames else {}
    pictures = {"pictures": frames.pictures} if frames.pictures else {}
    return {
        **positions,
        **pictures,
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
    bundle: ModelBundle,
    frames: FrameStore,
    cache: Path | None = None,
    dtype: str = "fp16",
    *,
    must_write: bool = False,
    leave_cached: bool = False,
) -> VideoTokenSource:
    """Builds the source of a model's video tokens; with a cache its video encoder must be frozen.

    The arguments are those of ``build_encoder_token_source``.

    Raises:
        InputError: the cache folder cannot be used.
    """
    model, settings = bundle.model, bundle.settings
    encoder, config = model.visual_encoder, model.config.video_config
    return build_encoder_token_source(
        model.encode_video,
        encoder,
        config,
        settings,
        frames,
        cache,
        dtype,
        must_write=must_write,
        leave_cached=leave_cached,
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
    leave_cached: bool = False,
) -> VideoTokenSource:
    """Builds the source of the video tokens of an encoder without a model around it.

    Args:
        encode: encodes clips ``[F, T, 3, H, W]`` float32 to tokens ``[F, V, hidden]``.
        encoder: the video encoder's module; with a cache its weights are hashed (0.2 s for VideoMAE-base).
        video_config: its configuration.
        settings: the model's settings; only ``video_pool`` is used.
        frames: the frames on disk.
        cache: the cache folder; None for no cache.
        dtype: the cache's dtype: ``fp16``, ``bf16`` or ``fp32``.
        must_write: whether a cache folder that cannot be written is an error.
        leave_cached: whether workers leave cached tokens to this process (``FrameReader.leave_cached``).

    Raises:
        InputError: the cache folder cannot be used.
    """
    store = None
    if cache is not None:
        values = _collect_fingerprint_values(encoder, video_config, settings, frames)
        store = FeatureCache(cache, values, video_config.hidden_size, dtype, must_write=must_write)
    return VideoTokenSource(encode, encoder, video_config, FrameReader(frames, store, leave_cached))
