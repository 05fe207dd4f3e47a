"""Where a frame lies in the model's square input: converts boxes and maps between the two."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from surgvivqa.explanation.scene_graphs import Box

Map = NDArray[np.float32]
"""Values ``[h, w]`` float32 over a square input or over a frame, from its top left corner."""


@dataclass(frozen=True)
class FrameArea:
    """The area that a fitted frame takes in the model's input (``data.frames.fit_image``).

    Attributes:
        area: the frame's edges as fractions of the input: the whole input under ``squash``, less under ``pad``, and
            more under ``crop``, where the frame reaches beyond it.
        width: width of the frame in pixels.
        height: its height.
    """

    area: Box
    width: int
    height: int

    @classmethod
    def of_fit(cls, fit: str, width: int, height: int, size: int) -> "FrameArea":
        """The area of a frame of ``width x height`` pixels in an input of ``size x size``.

        Raises:
            ValueError: ``fit`` is unknown.
        """
        if fit == "squash":
            return cls(Box(0.0, 0.0, 1.0, 1.0), width, height)
        if fit == "pad":
            scale = size / max(width, height)
            inner = (max(1, round(width * scale)), max(1, round(height * scale)))
            left, top = (size - inner[0]) // 2, (size - inner[1]) // 2
        elif fit == "crop":
            inner = (size, int(size * height / width)) if width <= height else (int(size * width / height), size)
            left, top = -((inner[0] - size) // 2), -((inner[1] - size) // 2)
        else:
            raise ValueError(f"frame fit {fit!r} is unknown")
        edges = Box(left / size, top / size, (left + inner[0]) / size, (top + inner[1]) / size)
        return cls(edges, width, height)

    @property
    def visible(self) -> Box:
        """The part of the input that shows the frame."""
        return _clip(self.area)

    def to_input(self, box: Box) -> Box:
        """A box of the frame in the input, cut off at the input's edges; its area is 0 if it lies outside."""
        left, top, right, bottom = self.area
        width, height = right - left, bottom - top
        moved = Box(
            left + box.left * width, top + box.top * height, left + box.right * width, top + box.bottom * height
        )
        return _clip(moved)

    def to_frame(self, values: Map) -> Map:
        """A map of the input as a map of the frame: 0 where the input does not show the frame.

        Under ``squash`` the values stay as they are; otherwise the result has cells of nearly equal sides.
        """
        if self.area == Box(0.0, 0.0, 1.0, 1.0):
            return values
        left, top, right, bottom = self.area
        side = max(values.shape)
        shape = (max(1, round(side * (bottom - top))), max(1, round(side * (right - left))))
        y = (top + (np.arange(shape[0]) + 0.5) / shape[0] * (bottom - top)) * values.shape[0]
        x = (left + (np.arange(shape[1]) + 0.5) / shape[1] * (right - left)) * values.shape[1]
        rows, columns = np.floor(y).astype(int), np.floor(x).astype(int)
        inside = np.outer((rows >= 0) & (rows < values.shape[0]), (columns >= 0) & (columns < values.shape[1]))
        taken = values[np.ix_(rows.clip(0, values.shape[0] - 1), columns.clip(0, values.shape[1] - 1))]
        return np.where(inside, taken, np.float32(0))


def _clip(box: Box) -> Box:
    return Box(*(min(1.0, max(0.0, edge)) for edge in box))
