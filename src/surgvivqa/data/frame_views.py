"""Views of a ``FrameStore`` that show other pictures: black ones, those of another video, or corrupted ones.

A view is a ``FrameStore`` itself, so that everything that reads frames reads it in the same way, in worker processes
and through a cache too. A cache keeps pictures of another kind (``FrameStore.pictures``) apart by its fingerprint, and
other frames (``FrameStore.shown``) under the key of the frame that is shown.
"""

import dataclasses
import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor

from surgvivqa.data.corruptions import Corruption, corrupt
from surgvivqa.data.frames import FrameStore, image_to_tensor, open_image
from surgvivqa.data.splits import base_video
from surgvivqa.utils.errors import InputError

Shown = Literal["own", "black", "shuffled"]
"""The pictures that a model is shown: the questions' own frames, black ones, or frames of other videos."""


@dataclass(frozen=True)
class BlackFrames(FrameStore):
    """Every picture is black (0 in each channel before the normalisation), whatever its file holds."""

    @property
    def pictures(self) -> str:
        """``black``."""
        return "black"

    @property
    def all_alike(self) -> bool:
        """True."""
        return True

    def shown(self, video: str, frame: int) -> tuple[str, int]:
        """One name for all frames."""
        return "black", 0

    def image(self, video: str, frame: int) -> Tensor:
        """A black picture, float32 ``[3, size, size]``; no file is read."""
        pixels = torch.zeros(3, self.size, self.size)
        return (pixels - torch.tensor(self.mean).view(3, 1, 1)) / torch.tensor(self.std).view(3, 1, 1)

    def clip_frames(self, video: str, frame: int) -> list[int]:
        """The frame's number, ``num_frames`` times; no folder is read."""
        return [frame] * self.num_frames

    def file_states(self, video: str, frame: int) -> list[list[int]]:
        """Empty, since no file is read."""
        return []


@dataclass(frozen=True)
class ShuffledFrames(FrameStore):
    """Each question sees the clip of a frame of another video, drawn by a hash of seed, video and frame.

    Attributes:
        frames: video and number of the frames to draw from, each video's (``splits.base_video``) one after another.
        blocks: for each of these videos, where its frames begin and end in ``frames``.
        seed: seed of the draw.
    """

    frames: tuple[tuple[str, int], ...] = ()
    blocks: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    seed: int = 0

    def shown(self, video: str, frame: int) -> tuple[str, int]:
        """The frame of another video that is shown for ``frame``; copies of one video count as the same video."""
        start, stop = self.blocks.get(base_video(video), (0, 0))
        draw = hashlib.blake2b(json.dumps([self.seed, video, frame]).encode(), digest_size=8).digest()
        index = int.from_bytes(draw, "little") % (len(self.frames) - (stop - start))
        return self.frames[index if index < start else index + stop - start]


@dataclass(frozen=True)
class CorruptedFrames(FrameStore):
    """Each picture is corrupted before it is fitted to the encoder's size.

    Attributes:
        corruption: what is done to it.
        seed: with the video and the frame's number, determines what is drawn.
    """

    corruption: Corruption = Corruption("noise", 1)
    seed: int = 0

    @property
    def pictures(self) -> str:
        """Corruption, severity and seed."""
        return f"{self.corruption}, seed {self.seed}"

    def image(self, video: str, frame: int) -> Tensor:
        """Loads and corrupts one frame, float32 ``[3, size, size]``.

        Raises:
            FrameError: the image cannot be used (``frames.open_image``).
        """
        image = corrupt(open_image(self.path(video, frame)), self.corruption, self.seed, video, frame)
        return image_to_tensor(image, self.size, self.fit, self.mean, self.std)


def show_black(store: FrameStore) -> BlackFrames:
    """The view of a store in which every picture is black."""
    return BlackFrames(**_fields(store))


def show_other_videos(store: FrameStore, frames: Iterable[tuple[str, int]], seed: int = 0) -> ShuffledFrames:
    """The view of a store in which each question sees a frame of another video.

    Args:
        store: the frames.
        frames: video and number of the frames to draw from.
        seed: seed of the draw.

    Raises:
        InputError: the frames are of one video only.
    """
    listed = sorted(set(frames), key=lambda name: (base_video(name[0]), name))
    blocks: dict[str, tuple[int, int]] = {}
    for index, (video, _) in enumerate(listed):
        base = base_video(video)
        blocks[base] = (blocks.get(base, (index, 0))[0], index + 1)
    if len(blocks) < 2:
        raise InputError(f"{ONE_VIDEO}; evaluate a split with several, or leave out --frames shuffled.")
    return ShuffledFrames(**_fields(store), frames=tuple(listed), blocks=blocks, seed=seed)


ONE_VIDEO = "Frames of another video cannot be shown, because the questions are about one video only"


def show_corrupted(store: FrameStore, corruption: Corruption, seed: int = 0) -> CorruptedFrames:
    """The view of a store in which every picture is corrupted."""
    return CorruptedFrames(**_fields(store), corruption=corruption, seed=seed)


def _fields(store: FrameStore) -> dict[str, Any]:
    return {f.name: getattr(store, f.name) for f in dataclasses.fields(FrameStore)}
