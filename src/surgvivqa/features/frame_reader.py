"""What a step is given of each frame: its clip, or its video tokens where a cache has them."""

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from surgvivqa.data.frames import BadFrame, FrameStore
from surgvivqa.data.ssgqa import FrameQuestions
from surgvivqa.features.cache import FeatureStore, tag_of
from surgvivqa.features.cache_file import Key
from surgvivqa.utils.errors import FrameError


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
            FrameError: an image of its clip is missing.
        """
        return video, frame, tag_of(self.store.stamp(video, frame)) if self.cache is not None else 0

    def cached(self, frame: FrameQuestions) -> Tensor | None:
        """What the cache has of a frame.

        Raises:
            FrameError: as ``read``.
        """
        with attach_frame(frame):
            return self.cache.get(*self.key(frame.video, frame.frame)) if self.cache is not None else None

    def read(self, frames: Sequence[FrameQuestions]) -> FrameInputs:
        """The frames as a step wants them.

        Raises:
            FrameError: an image, or what a cache file holds of a frame, cannot be used; it names the frame.
            InputError: a whole cache file is damaged.
        """
        keys, found, clips = [], [], []
        for f in frames:
            with attach_frame(f):
                keys.append(self.key(f.video, f.frame))
                found.append(self.cache.get(*keys[-1]) if self.cache is not None else None)
                if found[-1] is None:
                    clips.append(self._clip(f))
        tokens = [t for t in found if t is not None]
        return FrameInputs(
            keys=tuple(keys),
            cached=tuple(t is not None for t in found),
            clips=torch.stack(clips) if clips else None,
            tokens=torch.stack(tokens) if tokens else None,
        )

    def read_rows(self, picked: Sequence[tuple[FrameQuestions, Sequence[int]]]) -> FrameInputs:
        """``read`` of frames with the questions that are asked of them, which change nothing here."""
        return self.read([frame for frame, _ in picked])

    def _clip(self, frame: FrameQuestions) -> Tensor:
        clip = self.store.clip(frame.video, frame.frame)
        return clip[:1] if self.store.clip_mode == "repeat" else clip


@contextlib.contextmanager
def attach_frame(frame: FrameQuestions) -> Iterator[None]:
    """Says in a ``FrameError`` which frame's questions cannot be asked; its image may be of another one, in a clip."""
    try:
        yield
    except FrameError as error:
        error.frame = (frame.video, frame.frame)
        raise


def read_usable(
    reader: Any, picked: Sequence[tuple[FrameQuestions, Sequence[int]]]
) -> tuple[Any, list[tuple[FrameQuestions, Sequence[int]]], tuple[BadFrame, ...]]:
    """``reader.read_rows`` of those frames that can be used.

    Returns:
        What was read (None where none can be used), the frames it is of, and the others.

    Raises:
        InputError: something other than a frame cannot be used.
    """
    left, bad = list(picked), list[BadFrame]()
    while left:
        try:
            return reader.read_rows(left), left, tuple(bad)
        except FrameError as error:
            if error.frame is None:
                raise
            bad.append(BadFrame(*error.frame, error.sentence))
            left = [(frame, chosen) for frame, chosen in left if (frame.video, frame.frame) != error.frame]
    return None, [], tuple(bad)
