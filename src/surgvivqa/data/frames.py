"""Frames from disk, fitted to the video encoder's square, and the clips made of them."""

import functools
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from surgvivqa.data.index import frame_names
from surgvivqa.data.ssgqa import Frame
from surgvivqa.errors import InputError

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
FRAME_FITS = ("squash", "pad", "crop")
CLIP_MODES = ("repeat", "past")


def fit_image(image: Image.Image, size: int, fit: str) -> Image.Image:
    """An RGB image fitted to ``size x size``, bilinear: ``squash`` the whole frame, ``pad`` it keeping its shape, or
    ``crop`` the centre after scaling the short edge (what VideoMAE's image processor does)."""
    width, height = image.size
    if fit == "squash":
        return image.resize((size, size), Image.Resampling.BILINEAR)
    if fit == "pad":
        scale = size / max(width, height)
        inner = (max(1, round(width * scale)), max(1, round(height * scale)))
        colour = tuple(round(255 * m) for m in IMAGENET_MEAN)
        canvas = Image.new("RGB", (size, size), colour)
        canvas.paste(image.resize(inner, Image.Resampling.BILINEAR), ((size - inner[0]) // 2, (size - inner[1]) // 2))
        return canvas
    if fit != "crop":
        raise ValueError(f"frame fit {fit!r} is none of {', '.join(FRAME_FITS)}")
    if width <= height:
        scaled = (size, int(size * height / width))
    else:
        scaled = (int(size * width / height), size)
    image = image.resize(scaled, Image.Resampling.BILINEAR)
    left, top = (scaled[0] - size) // 2, (scaled[1] - size) // 2
    return image.crop((left, top, left + size, top + size))


def load_image(
    path: Path,
    size: int = 224,
    fit: str = "squash",
    mean: Sequence[float] = IMAGENET_MEAN,
    std: Sequence[float] = IMAGENET_STD,
) -> Tensor:
    """One frame as float32 ``[3, size, size]``, normalised by channel.

    Raises:
        InputError: the file is missing, is no image, is cut off, or is absurdly large.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(path) as image:
                return image_tensor(image, size, fit, mean, std)
    except FileNotFoundError:
        raise InputError(f"Frame {path} does not exist.") from None
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise InputError(f"Frame {path} cannot be read as an image ({str(error).splitlines()[0][:120]}).") from None


def image_tensor(
    image: Image.Image,
    size: int = 224,
    fit: str = "squash",
    mean: Sequence[float] = IMAGENET_MEAN,
    std: Sequence[float] = IMAGENET_STD,
) -> Tensor:
    """An image of any mode as float32 ``[3, size, size]``, normalised by channel."""
    if image.mode.startswith("I") or image.mode == "F":  # 16-bit: convert("RGB") would clip, not scale
        grey = np.asarray(image, dtype=np.float32)
        top = 65535.0 if grey.max() > 255 else 255.0
        image = Image.fromarray((grey * (255.0 / top)).astype(np.uint8))
    fitted = fit_image(image.convert("RGB"), size, fit)
    pixels = torch.from_numpy(np.asarray(fitted, dtype=np.float32) / 255.0).permute(2, 0, 1)
    return ((pixels - torch.tensor(mean).view(3, 1, 1)) / torch.tensor(std).view(3, 1, 1)).contiguous()


@dataclass(frozen=True)
class FrameStore:
    """The frames of a data set as a model wants them.

    ``clip_mode`` ``repeat`` shows the asked frame ``num_frames`` times; ``past`` shows the frames at ``stride`` seconds
    that end at it. In a ``past`` clip a frame that is not on disk is replaced by the nearest later one that is, so the
    video's first frame is repeated at its start.
    """

    root: Path
    size: int = 224
    fit: str = "squash"
    mean: tuple[float, ...] = IMAGENET_MEAN
    std: tuple[float, ...] = IMAGENET_STD
    clip_mode: str = "repeat"
    num_frames: int = 16
    stride: int = 1

    def path(self, video: str, frame: int) -> Path:
        """Where a frame lies."""
        return Path(self.root) / video / f"{frame:06d}.png"

    def image(self, video: str, frame: int) -> Tensor:
        """One frame, float32 ``[3, size, size]``."""
        return load_image(self.path(video, frame), self.size, self.fit, self.mean, self.std)

    def clip_frames(self, video: str, frame: int) -> list[int]:
        """Numbers of the frames in a frame's clip, ``num_frames`` of them, oldest first."""
        if self.clip_mode == "repeat":
            return [frame] * self.num_frames
        numbers = [frame]
        there = _listing(str(Path(self.root) / video))
        for back in range(1, self.num_frames):
            wanted = frame - back * self.stride
            numbers.append(wanted if wanted >= 0 and f"{wanted:06d}.png" in there else numbers[-1])
        return numbers[::-1]

    def clip(self, video: str, frame: int) -> Tensor:
        """The clip of a frame, float32 ``[T, 3, size, size]``, oldest first (``repeat``: one decode, expanded)."""
        numbers = self.clip_frames(video, frame)
        images = {number: self.image(video, number) for number in dict.fromkeys(numbers)}
        if len(images) == 1:
            return images[frame].expand(self.num_frames, -1, -1, -1)
        return torch.stack([images[number] for number in numbers])

    def stamp(self, video: str, frame: int) -> list[list[int]]:
        """``[frame, bytes, modification time in ns]`` of each image of a frame's clip: another one, another clip.

        Raises:
            InputError: an image is missing.
        """
        stamps = []
        for number in sorted(set(self.clip_frames(video, frame))):
            try:
                status = self.path(video, number).stat()
            except OSError:
                raise InputError(f"Frame {self.path(video, number)} does not exist.") from None
            stamps.append([number, status.st_size, status.st_mtime_ns])
        return stamps


@functools.lru_cache(maxsize=64)
def _listing(folder: str) -> frozenset[str]:
    try:
        return frozenset(p.name for p in Path(folder).iterdir())
    except OSError:
        return frozenset()


def missing_frames(store: FrameStore, *frames: Sequence[Frame]) -> list[Path]:
    """Paths of the frames that do not exist; one directory listing a video."""
    _listing.cache_clear()
    return [
        path
        for group in frames
        for video, frame in frame_names(group)
        if (path := store.path(video, frame)).name not in _listing(str(Path(store.root) / video))
    ]


def refuse_missing(store: FrameStore, *frames: Sequence[Frame]) -> None:
    """Raises InputError, with a count and the first few, where a question's frame does not exist."""
    missing = missing_frames(store, *frames)
    if missing:
        first = ", ".join(str(p) for p in missing[:3])
        raise InputError(
            f"{len(missing)} of {sum(map(len, frames))} frames are missing under {store.root} (first: {first})."
        )


def unreadable_frames(store: FrameStore, frames: Sequence[Frame]) -> list[tuple[Path, str]]:
    """Frames that cannot be decoded, each with the reason."""
    bad = []
    for f in frames:
        try:
            store.image(f.video, f.frame)
        except InputError as error:
            bad.append((store.path(f.video, f.frame), str(error)))
    return bad
