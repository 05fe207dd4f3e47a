"""What a step is given of each frame: its clip, or its video tokens where a cache has them."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from surgvivqa.data.cache import FeatureStore, tag_of
from surgvivqa.data.cache_file import Key
from surgvivqa.data.frames import FrameStore
from surgvivqa.data.ssgqa import Frame


@dataclass(frozen=True)
class FrameInputs:
    """F frames, each as a clip or as cached tokens.

    ``keys`` are the F cache keys and ``cached`` says which have tokens. ``tokens`` is ``[C, V, H]`` in the cache's
    dtype, of the C that have, in order (None for none); ``clips`` is ``[F - C, T or 1, 3, H, W]`` float32, of the
    others, with 1 where one frame is repeated T times (None for none).
    """

    keys: tuple[Key, ...]
    cached: tuple[bool, ...]
    clips: Tensor | None
    tokens: Tensor | None


@dataclass(frozen=True)
class FrameReader:
    """Reads frames for a model, in a worker process: an image is decoded only where the cache has no tokens of it."""

    store: FrameStore
    cache: FeatureStore | None = None

    def key(self, video: str, frame: int) -> Key:
        """The cache key of a frame: its images' sizes and modification times are in the tag.

        Raises:
            InputError: an image of its clip is missing.
        """
        return video, frame, tag_of(self.store.stamp(video, frame)) if self.cache is not None else 0

    def read(self, frames: Sequence[Frame]) -> FrameInputs:
        """The frames as a step wants them.

        Raises:
            InputError: an image cannot be read, or a cache file is damaged.
        """
        keys = [self.key(f.video, f.frame) for f in frames]
        found = [self.cache.get(*key) if self.cache is not None else None for key in keys]
        clips = [self._clip(f) for f, tokens in zip(frames, found, strict=True) if tokens is None]
        tokens = [t for t in found if t is not None]
        return FrameInputs(
            keys=tuple(keys),
            cached=tuple(t is not None for t in found),
            clips=torch.stack(clips) if clips else None,
            tokens=torch.stack(tokens) if tokens else None,
        )

    def read_rows(self, picked: Sequence[tuple[Frame, Sequence[int]]]) -> FrameInputs:
        """``read`` of frames with the questions that are asked of them, which change nothing here."""
        return self.read([frame for frame, _ in picked])

    def _clip(self, frame: Frame) -> Tensor:
        clip = self.store.clip(frame.video, frame.frame)
        return clip[:1] if self.store.clip_mode == "repeat" else clip
