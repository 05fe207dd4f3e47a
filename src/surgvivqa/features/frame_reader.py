"""Reads the inputs of frames: a frame's cached video tokens, or its clip where the cache has none."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from surgvivqa.data.frames import FrameStore
from surgvivqa.data.ssgqa import FrameQuestions
from surgvivqa.features.cache import FeatureCache, compute_tag
from surgvivqa.features.cache_file import Key
from surgvivqa.features.source import FrameRequest, name_frame_in_errors


@dataclass(frozen=True)
class FrameInputs:
    """F frames, each as a clip or as cached video tokens, on the CPU.

    Attributes:
        keys: the cache keys of the F frames.
        cached: for each frame, whether its tokens are in ``tokens``; otherwise its clip is in ``clips``.
        clips: ``[F - C, T or 1, 3, H, W]`` float32, the frames without cached tokens, in order; length 1 in the second
            axis stands for one frame repeated T times. None if all frames are cached.
        tokens: ``[C, V, hidden]`` in the cache's dtype, the cached frames, in order. None if no frame is cached.
    """

    keys: tuple[Key, ...]
    cached: tuple[bool, ...]
    clips: Tensor | None
    tokens: Tensor | None


@dataclass(frozen=True)
class FrameReader:
    """Reads frames in a worker process; an image is decoded only if the cache does not have its tokens."""

    store: FrameStore
    cache: FeatureCache | None = None

    def key(self, video: str, frame: int) -> Key:
        """Returns the cache key of a frame; its tag depends on the sizes and modification times of the clip's images.

        Raises:
            FrameError: an image of the clip is missing.
        """
        return video, frame, compute_tag(self.store.file_states(video, frame)) if self.cache is not None else 0

    def cached(self, frame: FrameQuestions) -> Tensor | None:
        """Returns a frame's cached tokens ``[V, hidden]``, or None.

        Raises:
            FrameError: an image is missing, or the cache file is damaged there; it names the frame.
        """
        with name_frame_in_errors(frame):
            return self.cache.get(*self.key(frame.video, frame.frame)) if self.cache is not None else None

    def read(self, frames: Sequence[FrameQuestions]) -> FrameInputs:
        """Returns the inputs of some frames.

        Raises:
            FrameError: an image, or a frame's item in a cache file, cannot be used; it names the frame.
            InputError: a cache file is damaged as a whole.
        """
        keys, found, clips = [], [], []
        for f in frames:
            with name_frame_in_errors(f):
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

    def read_requests(self, requests: Sequence[FrameRequest]) -> FrameInputs:
        """``read``, whichever questions are asked; see ``FeatureReader``."""
        return self.read([frame for frame, _ in requests])

    def _clip(self, frame: FrameQuestions) -> Tensor:
        clip = self.store.clip(frame.video, frame.frame)
        return clip[:1] if self.store.clip_mode == "repeat" else clip
