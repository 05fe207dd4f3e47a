"""Heat maps and boxes over frames: drawn as pictures, and stored beside an evaluation for reports.

``overlays.jsonl`` holds one line per question: the maps over the frame at their own resolution, as integers from 0 to
255, and the boxes as fractions of the frame. A map of 14x14 cells takes about 700 bytes.
"""

import itertools
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from surgvivqa.explanation.frame_area import Map
from surgvivqa.explanation.scene_graphs import Box
from surgvivqa.utils.atomic_files import write_text
from surgvivqa.utils.errors import InputError
from surgvivqa.utils.safe_json import check_regular_file, parse_json

OVERLAYS_FILE = "overlays.jsonl"
_MOST_CELLS = 64  # along a side of a map
_MOST_BYTES = 64_000_000
# Cividis (Nunez et al., PLOS ONE 2018), which looks alike with normal and with red-green-blind eyes, at nine points.
_CIVIDIS = np.array(
    [
        (0, 34, 78),
        (24, 57, 112),
        (66, 78, 108),
        (95, 99, 110),
        (124, 123, 120),
        (156, 146, 115),
        (190, 170, 103),
        (226, 196, 83),
        (254, 232, 56),
    ],
    np.float32,
)
_ASKED, _REFERENT = (255, 255, 255), (120, 220, 255)
_INK, _PAPER, _FAINT = (28, 28, 30), (255, 255, 255), (96, 96, 102)


@dataclass(frozen=True)
class OverlayMap:
    """A map over a frame.

    Attributes:
        title: the method's name in words.
        rows: values from 0 to 1 by row, from the frame's top left corner; the largest value of the map is 1, and
            negative values are 0.
    """

    title: str
    rows: tuple[tuple[float, ...], ...]

    @classmethod
    def of_values(cls, title: str, values: Map) -> "OverlayMap":
        """Scales a map ``[h, w]`` to values from 0 to 1, with the precision that the file keeps."""
        positive = np.clip(values, 0, None)
        scaled = positive / max(float(positive.max()), 1e-12)
        return cls(title, tuple(tuple(round(255 * float(v)) / 255 for v in row) for row in scaled))

    @property
    def values(self) -> Map:
        """The rows as ``[h, w]`` float32."""
        return np.array(self.rows, np.float32)


@dataclass(frozen=True)
class Overlay:
    """Where a model looks for the answer to one question; boxes are fractions of the frame.

    Attributes:
        video: name of the video.
        frame: number of the frame.
        question: the question.
        maps: the maps by method: ``attention``, ``gradient_attention``, ``occlusion``.
        asked: boxes of the objects that the question asks about.
        referents: boxes of the other objects that it names.
    """

    video: str
    frame: int
    question: str
    maps: Mapping[str, OverlayMap]
    asked: tuple[Box, ...]
    referents: tuple[Box, ...]

    def to_json(self) -> dict[str, Any]:
        """A line of ``overlays.jsonl``."""
        maps = {
            method: {"title": shown.title, "rows": [[round(255 * value) for value in row] for row in shown.rows]}
            for method, shown in self.maps.items()
        }
        boxes = {
            name: [[round(edge, 4) for edge in box] for box in part]
            for name, part in (("asked", self.asked), ("referents", self.referents))
        }
        return {"video": self.video, "frame": self.frame, "question": self.question, **boxes, "maps": maps}

    @classmethod
    def from_json(cls, line: Any) -> "Overlay":
        """The overlay of a line of ``overlays.jsonl``, an untrusted file.

        Raises:
            ValueError: it is not such a line.
        """
        try:
            video, frame, question, maps = (line[name] for name in ("video", "frame", "question", "maps"))
            asked, referents = (tuple(_parse_box(box) for box in line[name]) for name in ("asked", "referents"))
            parsed = {str(method): OverlayMap(str(m["title"]), _parse_rows(m["rows"])) for method, m in maps.items()}
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"its value {error} is missing or of another kind") from None
        if not isinstance(video, str) or type(frame) is not int or not isinstance(question, str):
            raise ValueError("it names no question")
        return cls(video, frame, question, parsed, asked, referents)


def write_overlays(folder: Path, overlays: Sequence[Overlay]) -> None:
    """Writes the overlays of an evaluation to its folder."""
    lines = [json.dumps(overlay.to_json(), separators=(",", ":")) + "\n" for overlay in overlays]
    write_text(folder / OVERLAYS_FILE, "".join(lines))


def read_overlays(folder: Path) -> dict[tuple[str, int, str], Overlay]:
    """Reads the overlays of an evaluation by video, frame and question; empty if it has none.

    Raises:
        InputError: the file cannot be read, or is not what ``eval --evidence`` writes.
    """
    path = folder / OVERLAYS_FILE
    overlays: dict[tuple[str, int, str], Overlay] = {}
    try:
        check_regular_file(path)
        if path.stat().st_size > _MOST_BYTES:
            raise ValueError(f"it is larger than {_MOST_BYTES:,} bytes")
        for line in path.read_text(encoding="utf-8").splitlines():
            overlay = Overlay.from_json(parse_json(line))
            overlays[overlay.video, overlay.frame, overlay.question] = overlay
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror}).") from None
    except ValueError as error:
        raise InputError(f"{path}:{len(overlays) + 1} is not a line of eval's overlays ({str(error)[:120]}).") from None
    return overlays


def color_map(values: Map) -> NDArray[np.uint8]:
    """Colours ``[h, w, 3]`` of values from 0 (dark blue) to 1 (yellow), legible for colour-blind readers."""
    positions = np.clip(values, 0, 1) * (len(_CIVIDIS) - 1)
    low = np.floor(positions).astype(int).clip(0, len(_CIVIDIS) - 2)
    part = (positions - low)[..., None]
    return np.asarray((1 - part) * _CIVIDIS[low] + part * _CIVIDIS[low + 1]).round().astype(np.uint8)


def draw_overlay(
    frame: Image.Image,
    shown: OverlayMap | None = None,
    asked: Sequence[Box] = (),
    referents: Sequence[Box] = (),
) -> Image.Image:
    """Draws a map and boxes over a frame.

    Under a map the frame is grey, so that colour means the map alone. Boxes of asked objects are white and solid, those
    of referents light blue and dashed.
    """
    picture = frame.convert("RGB")
    if shown is not None:
        smooth = Image.fromarray(shown.values).resize(picture.size, Image.Resampling.BICUBIC)
        values = np.clip(np.asarray(smooth, np.float32), 0, 1)
        grey = np.asarray(picture.convert("L"), np.float32)[..., None]
        opacity = (0.25 + 0.5 * values)[..., None]
        mixed = (1 - opacity) * grey + opacity * color_map(values)
        picture = Image.fromarray(mixed.round().clip(0, 255).astype(np.uint8))
    draw = ImageDraw.Draw(picture)
    line = max(2, picture.width // 200)
    for box in referents:
        _draw_box(draw, box, picture.size, _REFERENT, line, is_dashed=True)
    for box in asked:
        _draw_box(draw, box, picture.size, _ASKED, line, is_dashed=False)
    return picture


@dataclass(frozen=True)
class Panel:
    """One picture of a figure, with a title and smaller lines of text above it."""

    picture: Image.Image
    title: str
    notes: tuple[str, ...] = ()


def draw_figure(
    panels: Sequence[Panel], headline: str, lines: Sequence[str], footer: str, width: int = 480
) -> Image.Image:
    """Draws panels in two columns below a headline, with a legend of the colours.

    Args:
        panels: the pictures, which are scaled to ``width``.
        headline: the largest text.
        lines: lines of text below it.
        footer: text at the bottom.
        width: width of a picture in pixels.
    """
    pad, gap = 24, 20
    total = 2 * width + gap + 2 * pad
    big, bold, small = (ImageFont.load_default(size) for size in (24, 18, 14))
    head = [(part, big, _INK) for part in _wrap(headline, big, total - 2 * pad)]
    head += [(part, bold, _INK) for line in lines for part in _wrap(line, bold, total - 2 * pad)]
    foot = _wrap(footer, small, total - 2 * pad)
    pictures = [_scaled(panel.picture, width) for panel in panels]
    notes = [[part for note in panel.notes for part in _wrap(note, small, width)] for panel in panels]
    rows = [range(start, min(start + 2, len(panels))) for start in range(0, len(panels), 2)]
    captions = [26 + 18 * max(len(notes[i]) for i in row) + 6 for row in rows]
    heights = [max(pictures[i].height for i in row) for row in rows]
    top = pad + sum(_line_height(font) for _, font, _ in head) + 14
    height = top + sum(captions) + sum(heights) + gap * len(rows) + 30 + 20 * len(foot) + pad
    figure = Image.new("RGB", (total, height), _PAPER)
    draw = ImageDraw.Draw(figure)
    y = pad
    for text, font, ink in head:
        draw.text((pad, y), text, ink, font)
        y += _line_height(font)
    y = top
    for row, caption, row_height in zip(rows, captions, heights, strict=True):
        for column, i in enumerate(row):
            x = pad + column * (width + gap)
            draw.text((x, y), panels[i].title, _INK, bold)
            for number, text in enumerate(notes[i]):
                draw.text((x, y + 25 + 18 * number), text, _FAINT, small)
            figure.paste(pictures[i], (x, y + caption))
        y += caption + row_height + gap
    _draw_legend(figure, pad, y, small)
    for number, text in enumerate(foot):
        draw.text((pad, y + 30 + 20 * number), text, _FAINT, small)
    return figure


def _draw_legend(figure: Image.Image, x: int, y: int, font: Any) -> None:
    draw = ImageDraw.Draw(figure)
    draw.text((x, y), "least", _INK, font)
    bar = Image.fromarray(np.tile(color_map(np.linspace(0, 1, 160, dtype=np.float32)[None, :]), (14, 1, 1)))
    start = x + math.ceil(draw.textlength("least", font)) + 8
    figure.paste(bar, (start, y + 2))
    draw.text((start + 168, y), "most, each map on its own scale", _INK, font)


def _draw_box(
    draw: ImageDraw.ImageDraw,
    box: Box,
    size: tuple[int, int],
    colour: tuple[int, int, int],
    line: int,
    *,
    is_dashed: bool,
) -> None:
    left, top = round(box.left * size[0]), round(box.top * size[1])
    right, bottom = round(box.right * size[0]) - 1, round(box.bottom * size[1]) - 1
    corners = [(left, top), (right, top), (right, bottom), (left, bottom), (left, top)]
    for (x1, y1), (x2, y2) in itertools.pairwise(corners):
        length = max(1, abs(x2 - x1) + abs(y2 - y1))
        steps = max(1, length // (4 * line)) if is_dashed else 1
        for step in range(0, steps, 2):
            start, end = step / steps, (step + 1) / steps
            ends = [(x1 + (x2 - x1) * at, y1 + (y2 - y1) * at) for at in (start, end)]
            draw.line(ends, (0, 0, 0), line + 2)
            draw.line(ends, colour, line)


def _scaled(picture: Image.Image, width: int) -> Image.Image:
    height = max(1, round(picture.height * width / picture.width))
    return picture.convert("RGB").resize((width, height), Image.Resampling.LANCZOS)


def _line_height(font: Any) -> int:
    return round(1.35 * font.size)


def _wrap(text: str, font: Any, width: int) -> list[str]:
    lines, line = list[str](), ""
    for word in text.split():
        longer = f"{line} {word}".strip()
        if line and font.getlength(longer) > width:
            lines.append(line)
            line = word
        else:
            line = longer
    return [*lines, line]


def _parse_box(edges: Any) -> Box:
    values = [float(edge) for edge in edges]
    if len(values) != 4 or not all(0 <= value <= 1 for value in values):
        raise ValueError("a box is not four fractions")
    return Box(*values)


def _parse_rows(rows: Any) -> tuple[tuple[float, ...], ...]:
    if not isinstance(rows, list) or not 0 < len(rows) <= _MOST_CELLS or not isinstance(rows[0], list):
        raise ValueError(f"a map does not have 1 to {_MOST_CELLS} rows")
    width = len(rows[0])
    for row in rows:
        if not isinstance(row, list) or len(row) != width or not 0 < width <= _MOST_CELLS:
            raise ValueError(f"a map's rows do not have 1 to {_MOST_CELLS} values each")
        if not all(type(value) is int and 0 <= value <= 255 for value in row):
            raise ValueError("a map's value is not an integer from 0 to 255")
    return tuple(tuple(value / 255 for value in row) for row in rows)
