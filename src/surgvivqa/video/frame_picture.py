"""A decoded frame as the picture that a player shows: colours, shape of the pixels, orientation."""

from fractions import Fraction
from typing import Any

import numpy as np
from PIL import Image

MAX_PIXELS = 8192 * 8192
_QUARTERS = {
    (1, 0, 0, 1): None,
    (0, 1, -1, 0): Image.Transpose.ROTATE_270,
    (-1, 0, 0, -1): Image.Transpose.ROTATE_180,
    (0, -1, 1, 0): Image.Transpose.ROTATE_90,
    (-1, 0, 0, 1): Image.Transpose.FLIP_LEFT_RIGHT,
    (1, 0, 0, -1): Image.Transpose.FLIP_TOP_BOTTOM,
    (0, 1, 1, 0): Image.Transpose.TRANSPOSE,
    (0, -1, -1, 0): Image.Transpose.TRANSVERSE,
}


def to_picture(frame: Any, pixel_aspect: Fraction = Fraction(1), turn: Image.Transpose | None = None) -> Image.Image:
    """Converts a PyAV ``VideoFrame`` to an RGB picture.

    The matrix and the range of the colours are those that the file names; a file that names none is read as BT.601, as
    the ``ffmpeg`` command does.

    Args:
        frame: the decoded frame.
        pixel_aspect: width by height of a pixel; the picture is stretched to square pixels.
        turn: what makes the picture upright (``read_orientation``).

    Raises:
        ValueError: the frame is damaged or too large.
    """
    if frame.is_corrupt:
        raise ValueError("it is damaged")
    width, height = frame.width, frame.height
    if pixel_aspect > 1:
        width = max(1, round(width * pixel_aspect))
    elif pixel_aspect < 1:
        height = max(1, round(height / pixel_aspect))
    if width * height > MAX_PIXELS:
        raise ValueError(f"it has {width} x {height} pixels, more than {MAX_PIXELS:,}")
    converted = frame.reformat(width=width, height=height, format="rgb24", interpolation="BICUBIC")
    picture = Image.fromarray(converted.to_ndarray())
    return picture if turn is None else picture.transpose(turn)


def read_orientation(frame: Any) -> Image.Transpose | None:
    """How the display matrix of a frame turns or mirrors it; other angles than quarters are not applied.

    It is for one frame of a video: PyAV's list of side data and its frame refer to each other, so that a frame whose
    list was read stays in memory until the garbage collector finds the two.
    """
    try:
        data = bytes(frame.side_data["DISPLAYMATRIX"])
    except KeyError:
        return None
    a, b, _, c, d = np.frombuffer(data, np.int32, 5).tolist()
    largest = max(abs(a), abs(b), abs(c), abs(d), 1)
    key = (round(a / largest), round(b / largest), round(c / largest), round(d / largest))
    return _QUARTERS.get(key)
