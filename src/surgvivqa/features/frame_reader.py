"""Reads the inputs of frames: a frame's cached video tokens, or its clip if the tokens are not cached."""

import dataclasses
from collections.abc import Callable, Sequence
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
    """F frames, each as a clip or as cached video tokens.

    Attributes:
        keys: the cache keys of the F frames.
        cached: for each frame, whether its tokens are cached; otherwise its clip is in ``clips``.
        clips: ``[F - C, T, 3, H, W]`` float32, the frames without cached tokens, in order; ``[F - C, 1, 3, H, W]`` if
            each clip repeats one frame T times. None if all frames are cached, or all look alike.
        tokens: ``[C, V, hidden]`` in the cache's dtype, the C cached frames, in order. None if no frame is cached, or
            if the tokens are still to be read (``FrameReader.leave_cached``).
    """

    keys: tuple[Key, ...]
    cached: tuple[bool, ...]
    clips: Tensor | None
    tokens: Tensor | None

    def part(self, start: int, stop: int) -> "FrameInputs":
        """The inputs of the frames ``start`` to ``stop - 1``."""
        before, inside = sum(self.cached[:start]), sum(self.cached[start:stop])
        keys = self.keys[start:stop]
        clips_before, num_clips = start - before, len(keys) - inside
        return FrameInputs(
            keys=keys,
            cached=self.cached[start:stop],
            clips=self.clips[clips_before : clips_before + num_clips] if num_clips and self.clips is not None else None,
            tokens=self.tokens[before : before + inside] if inside and self.tokens is not None else None,
        )

    def map_tensors(self, function: Callable[[Tensor], Tensor]) -> "FrameInputs":
        """The inputs with ``function`` applied to each tensor."""
        clips, tokens = (None if t is None else function(t) for t in (self.clips, self.tokens))
        return dataclasses.replace(self, clips=clips, tokens=tokens)

    def pin_memory(self) -> "FrameInputs":
        """The inputs in pinned memory, from which a copy to a GPU is asynchronous."""
        return self.map_tensors(lambda tensor: tensor.pin_memory())


@dataclass(frozen=True)
class FrameReader:
    """Reads frames in a worker process; an image is decoded only if its tokens are not cached.

    Attributes:
        store: the frames on disk.
        cache: the cache of video tokens; None without one.
        leave_cached: leave cached tokens to be read by the training process (``VideoTokenSource.read_cached``). It
            reads them straight from the files' memory maps, where copies through a worker process are slower than a
            GPU encodes a frame.
    """

    store: FrameStore
    cache: FeatureCache | None = None
    leave_cached: bool = False

    @property
    def bytes_per_frame(self) -> int:
        """Size of a frame's clip in bytes."""
        images = 1 if self.store.clip_mode == "repeat" else self.store.num_frames
        return 4 * 3 * images * self.store.size**2

    def cache_key(self, video: str, frame: int) -> Key:
        """The cache key of the frame that is shown for a frame.

        Its tag depends on the sizes and modification times of the clip's images.

        Raises:
            FrameError: an image of the clip is missing.
        """
        shown = self.store.shown(video, frame)
        return *shown, compute_tag(self.store.file_states(*shown)) if self.cache is not None else 0

    def read_cached(self, frame: FrameQuestions) -> Tensor | None:
        """Reads a frame's tokens ``[V, hidden]`` in the cache's dtype; None if they are not cached.

        Raises:
            FrameError: an image is missing, or the frame's item in a cache file is damaged; the error names the frame.
            InputError: a cache file is damaged as a whole.
        """
        with name_frame_in_errors(frame):
            return self.cache.get(*self.cache_key(frame.video, frame.frame)) if self.cache is not None else None

    def read(self, frames: Sequence[FrameQuestions]) -> FrameInputs:
        """Reads the inputs of frames.

        Raises:
            FrameError: an image, or a frame's item in a cache file, cannot be used; the error names the frame.
            InputError: a cache file is damaged as a whole.
        """
        if self.store.all_alike:  # the source makes the one clip
            keys = [self.cache_key(frame.video, frame.frame) for frame in frames]
            return FrameInputs(tuple(keys), (False,) * len(keys), clips=None, tokens=None)
        keys, cached, clips, tokens = [], [], [], []
        for frame in frames:
            with name_frame_in_errors(frame):
                keys.append(self.cache_key(frame.video, frame.frame))
                item = None
                if self.cache is not None and self.leave_cached:
                    cached.append(self.cache.check(*keys[-1]))
                else:
                    item = self.cache.get(*keys[-1]) if self.cache is not None else None
                    cached.append(item is not None)
                if item is not None:
                    tokens.append(item)
                if not cached[-1]:
                    clips.append(self.read_clip(*keys[-1][:2]))
        return FrameInputs(
            keys=tuple(keys),
            cached=tuple(cached),
            clips=torch.stack(clips) if clips else None,
            tokens=torch.stack(tokens) if tokens else None,
        )

    def read_requests(self, requests: Sequence[FrameRequest]) -> FrameInputs:
        """Reads the inputs of the requested frames, independent of the selected questions (see ``FeatureReader``)."""
        return self.read([frame for frame, _ in requests])

    def read_clip(self, video: str, frame: int) -> Tensor:
        """The clip ``[T, 3, H, W]`` of a frame that is shown, ``[1, 3, H, W]`` if it repeats one frame.

        Raises:
            FrameError: an image cannot be used.
        """
        clip = self.store.clip(video, frame)
        return clip[:1] if self.store.clip_mode == "repeat" else clip
