"""Reads frames, fits them to the video encoder's input size, and builds clips."""

import contextlib
import errno
import functools
import io
import re
import stat
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from PIL import ExifTags, Image, ImageOps
from torch import Tensor

from surgvivqa.data.index import frame_names
from surgvivqa.data.picture_files import PictureFiles
from surgvivqa.data.ssgqa import FrameQuestions, is_system_file
from surgvivqa.data.suggestions import suggest_frames
from surgvivqa.utils.errors import FrameError, InputError, first_line
from surgvivqa.utils.loader_workers import is_lost_worker

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
FRAME_FITS = ("squash", "pad", "crop")
CLIP_MODES = ("repeat", "past")
_FORMATS = ("PNG", "JPEG", "BMP", "TIFF", "WEBP")  # other formats, such as EPS, may start programs
_MODES = ("RGB", "RGBA", "RGBX", "L", "LA", "La", "RGBa", "P", "PA", "1")
_MAX_BYTES = 300_000_000  # the largest picture that Pillow decodes has 268 MB without compression


class BadFrame(NamedTuple):
    """A frame that cannot be used, and the reason. Plain values, since it is sent between processes."""

    video: str
    frame: int
    why: str


def fit_image(image: Image.Image, size: int, fit: str) -> Image.Image:
    """Fits an RGB image to ``size x size`` pixels with bilinear interpolation.

    Args:
        image: the image, in RGB.
        size: side of the result in pixels.
        fit: ``squash`` resizes the whole image; ``pad`` keeps its aspect ratio and fills the rest with ImageNet's mean
            colour; ``crop`` scales the short edge and crops the centre, as VideoMAE's image processor does.

    Raises:
        ValueError: ``fit`` is unknown.
    """
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
        raise ValueError(f"frame fit {fit!r} is not one of {', '.join(FRAME_FITS)}")
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
    """Loads an image file as float32 ``[3, size, size]``, normalised by channel.

    The arguments after ``path`` are those of ``image_to_tensor``.

    Raises:
        FrameError: the file is not a usable image (``open_image``).
    """
    return image_to_tensor(open_image(path), size, fit, mean, std)


def open_image(path: Path) -> Image.Image:
    """Reads and decodes an image as RGB.

    Raises:
        FrameError: the file is missing, damaged, truncated, too large, not an image, or not a still picture with
            8 bits per channel in grey or RGB.
    """
    try:
        if not stat.S_ISREG((status := path.stat()).st_mode):  # opening a pipe would block
            raise _Refused("it is not a regular file")
        if not 0 < status.st_size <= _MAX_BYTES:
            raise _Refused(f"it has {status.st_size:,} bytes")
        raw = path.read_bytes()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(io.BytesIO(raw), formats=_FORMATS) as image:
                # 3% of flipped bits in a PNG decode to another picture without an error. verify() compares the
                # checksums, which decoding does not, in 1% of the decoding time.
                image.verify()
            with Image.open(io.BytesIO(raw), formats=_FORMATS) as image:
                return _to_rgb(image)
    except FileNotFoundError:
        raise FrameError(f"Frame {path} does not exist.") from None
    except Image.UnidentifiedImageError:
        formats = f"{', '.join(_FORMATS[:-1])} or {_FORMATS[-1]}"
        raise FrameError(f"Frame {path} is not a {formats} file, or is damaged.") from None
    except MemoryError:
        raise
    except Exception as error:  # decoders raise errors of many kinds
        if isinstance(error, OSError) and error.errno in (errno.EMFILE, errno.ENFILE, errno.ENOMEM):
            raise  # a limit of this process, not a fault of the frame
        if is_lost_worker(error):
            raise
        why = error.strerror if isinstance(error, OSError) and error.strerror else first_line(error, 120)
        raise FrameError(f"Frame {path} cannot be read as an image ({why}).") from None


class _Refused(ValueError):
    """An image that cannot be converted to RGB without guessing."""


def _to_rgb(image: Image.Image) -> Image.Image:
    """Converts an image to RGB and applies its EXIF orientation.

    Raises:
        ValueError: the conversion would be a guess: several pictures, more than 8 bits per channel, or CMYK.
    """
    pictures = getattr(image, "n_frames", 1)
    if pictures > 1:
        raise _Refused(f"it holds {pictures} pictures, not one")
    stored = " ".join(str(tile[3]) for tile in getattr(image, "tile", ()))  # Pillow returns "RGB;16B" as RGB
    if image.mode == "F" or image.mode.startswith("I") or ";16" in stored:
        raise _Refused("it has more than 8 bits per channel; convert it to 8")
    if image.mode not in _MODES:
        raise _Refused(f"its colours are {image.mode}; convert it to RGB")
    return _apply_orientation(image).convert("RGB")


def _apply_orientation(image: Image.Image) -> Image.Image:
    """Rotates an image by its EXIF orientation; returns it unchanged if its EXIF data are damaged."""
    with contextlib.suppress(Exception):  # Pillow's EXIF parser raises errors of many kinds
        if image.getexif().get(ExifTags.Base.Orientation, 1) != 1:
            return ImageOps.exif_transpose(image)
    return image


def image_to_tensor(
    image: Image.Image,
    size: int = 224,
    fit: str = "squash",
    mean: Sequence[float] = IMAGENET_MEAN,
    std: Sequence[float] = IMAGENET_STD,
) -> Tensor:
    """Converts an image to float32 ``[3, size, size]``, normalised by channel.

    Args:
        image: the image.
        size: side of the result in pixels.
        fit: how the image is fitted to it (``fit_image``).
        mean: mean of each channel, for values in [0, 1].
        std: standard deviation of each channel, for values in [0, 1].

    Raises:
        ValueError: it has several pictures, more than 8 bits per channel, or colours other than grey and RGB.
    """
    fitted = fit_image(_to_rgb(image), size, fit)
    pixels = torch.from_numpy(np.asarray(fitted, dtype=np.float32) / 255.0).permute(2, 0, 1)
    return ((pixels - torch.tensor(mean).view(3, 1, 1)) / torch.tensor(std).view(3, 1, 1)).contiguous()


@dataclass(frozen=True)
class FrameStore:
    """The frames of a data set, prepared for a model.

    Attributes:
        root: the folder with one folder of frames per video.
        size: frames become ``size x size`` pixels.
        fit: how a frame is fitted to them (``fit_image``).
        mean: mean of each channel, for the normalisation.
        std: standard deviation of each channel.
        clip_mode: ``repeat`` shows the frame ``num_frames`` times; ``past`` shows the ``num_frames`` frames that end at
            it. In a ``past`` clip the nearest later frame replaces a missing one, such as one before the first frame.
        num_frames: frames per clip.
        stride: seconds between the frames of a ``past`` clip.
        files: where the pictures are, if they are not ``<video>/<frame padded to 6>.png``. A clip that it lists is
            shown in place of one made by ``clip_mode``, which is then ``listed``: ``num_frames`` of its pictures,
            evenly spaced, and repeated if it has fewer.
    """

    root: Path
    size: int = 224
    fit: str = "squash"
    mean: tuple[float, ...] = IMAGENET_MEAN
    std: tuple[float, ...] = IMAGENET_STD
    clip_mode: str = "repeat"
    num_frames: int = 16
    stride: int = 1
    files: PictureFiles | None = None

    @property
    def pictures(self) -> str:
        """What is shown instead of the pictures on disk, for a cache's fingerprint; empty if it is these pictures."""
        return ""

    @property
    def all_alike(self) -> bool:
        """Whether every frame shows the same picture, so that one clip stands for all."""
        return False

    def shown(self, video: str, frame: int) -> tuple[str, int]:
        """The frame that is shown to questions about ``frame``: the same, except in a view (``data.frame_views``).

        The other methods take the frame that is shown.
        """
        return video, frame

    def path(self, video: str, frame: int) -> Path:
        """The path of a frame."""
        listed = None if self.files is None else self.files.path(video, frame)
        return Path(self.root) / (f"{video}/{frame:06d}.png" if listed is None else listed)

    def image(self, video: str, frame: int) -> Tensor:
        """Loads one frame as float32 ``[3, size, size]``.

        Raises:
            FrameError: the image cannot be used (``open_image``).
        """
        return load_image(self.path(video, frame), self.size, self.fit, self.mean, self.std)

    def clip_frames(self, video: str, frame: int) -> list[int]:
        """The numbers of the ``num_frames`` frames in a frame's clip, oldest first.

        Raises:
            FrameError: the video's folder cannot be read.
        """
        if self.files is not None and (listed := self.files.clips.get((video, frame))) is not None:
            return [listed[index] for index in np.linspace(0, len(listed) - 1, self.num_frames).round().astype(int)]
        if self.clip_mode != "past":
            return [frame] * self.num_frames
        numbers = [frame]
        for back in range(1, self.num_frames):
            wanted = frame - back * self.stride
            numbers.append(wanted if wanted >= 0 and self.exists(video, wanted) else numbers[-1])
        return numbers[::-1]

    def listed_pictures(self, video: str, frame: int) -> tuple[int, ...]:
        """The numbers of the pictures that a frame needs: those of its listed clip, or its own."""
        listed = None if self.files is None else self.files.clips.get((video, frame))
        return (frame,) if listed is None else listed

    def exists(self, video: str, frame: int) -> bool:
        """Whether the file of a frame exists, as of the last ``find_missing_frames``.

        Raises:
            FrameError: its folder cannot be read.
        """
        path = self.path(video, frame)
        return path.name in _list_folder(str(path.parent))

    def clip(self, video: str, frame: int) -> Tensor:
        """Loads the clip of a frame, float32 ``[T, 3, size, size]``, oldest frame first.

        Raises:
            FrameError: an image of the clip cannot be used (``open_image``).
        """
        numbers = self.clip_frames(video, frame)
        images = {number: self.image(video, number) for number in dict.fromkeys(numbers)}
        if len(images) == 1:
            return images[numbers[0]].expand(self.num_frames, -1, -1, -1)
        return torch.stack([images[number] for number in numbers])

    def file_states(self, video: str, frame: int) -> list[list[int]]:
        """``[frame, bytes, modification time in ns]`` of each image of a frame's clip, which change with the images.

        Raises:
            FrameError: an image is missing or cannot be accessed.
        """
        states = []
        for number in sorted(set(self.clip_frames(video, frame))):
            try:
                status = self.path(video, number).stat()
            except OSError as error:
                why = "does not exist" if isinstance(error, FileNotFoundError) else f"cannot be read ({error.strerror})"
                raise FrameError(f"Frame {self.path(video, number)} {why}.") from None
            states.append([number, status.st_size, status.st_mtime_ns])
        return states


@functools.lru_cache(maxsize=64)
def _list_folder(folder: str) -> frozenset[str]:
    """The names in a folder, cached; empty if it does not exist."""
    try:
        return frozenset(p.name for p in Path(folder).iterdir())
    except (FileNotFoundError, NotADirectoryError):
        return frozenset()
    except OSError as error:
        raise FrameError(f"Folder {folder} cannot be read ({error.strerror}).") from None


def list_frames(store: FrameStore, video: str) -> tuple[list[str], list[str]]:
    """The names of a video's frames (``NNNNNN.png``) and of other files, as of the last ``find_missing_frames``."""
    frames, others = [], []
    for name in sorted(_list_folder(str(Path(store.root) / video))):
        if re.fullmatch(r"\d{6}\.png", name):
            frames.append(name)
        elif not is_system_file(name):
            others.append(name)
    return frames, others


def find_missing_frames(store: FrameStore, *frames: Sequence[FrameQuestions]) -> list[tuple[str, int]]:
    """Finds the frames that do not exist, as video and number. Lists each video's folder once.

    Raises:
        InputError: a folder cannot be read.
    """
    _list_folder.cache_clear()
    return [
        (video, frame)
        for group in frames
        for video, frame in frame_names(group)
        if not all(store.exists(video, number) for number in store.listed_pictures(video, frame))
    ]


def check_missing_frames(store: FrameStore, *frames: Sequence[FrameQuestions], allowed: int = 0) -> list[BadFrame]:
    """Checks that at most ``allowed`` frames do not exist, and returns these.

    Args:
        store: the frames on disk.
        frames: the frames that are needed, in one or more groups.
        allowed: the number of frames that may be missing.

    Raises:
        InputError: there are more than ``allowed``.
    """
    missing = find_missing_frames(store, *frames)
    if len(missing) > allowed:
        first = ", ".join(str(store.path(*name)) for name in missing[:3])
        more = f"; at most {allowed} may be (--max-bad-frames)" if allowed else ""
        raise InputError(
            f"{len(missing)} of {sum(map(len, frames))} frames are missing under {store.root} (first: {first}){more}."
            f"{suggest_missing_frames(store, missing, *frames)}"
        )
    return [BadFrame(*name, f"Frame {store.path(*name)} does not exist.") for name in missing]


def suggest_missing_frames(
    store: FrameStore, missing: Sequence[tuple[str, int]], *frames: Sequence[FrameQuestions]
) -> str:
    """Describes what exists instead of a video's frames, if all of them are missing.

    Args:
        store: the frames.
        missing: video and number of each missing frame.
        frames: the frames that are needed.

    Returns:
        A sentence that starts with a space; empty if every video has some of its frames, or nothing similar is found.
    """
    if store.files is not None:
        return ""
    absent = set(missing)
    existing = {video for group in frames for video, frame in frame_names(group) if (video, frame) not in absent}
    for video, _ in missing:
        if video not in existing:
            return suggest_frames(Path(store.root), video, [n for v, n in missing if v == video])
    return ""
