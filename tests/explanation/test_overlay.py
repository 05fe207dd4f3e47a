"""Overlays are drawn where they belong, and come back from their file as they were written."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from surgvivqa.explanation.overlay import (
    OVERLAYS_FILE,
    Overlay,
    OverlayMap,
    Panel,
    color_map,
    draw_figure,
    draw_overlay,
    read_overlays,
    write_overlays,
)
from surgvivqa.explanation.scene_graphs import Box
from surgvivqa.utils.errors import InputError

VALUES = np.array([[-1.0, 0.5], [2.0, 1.0]], np.float32)
OVERLAY = Overlay(
    "VID02",
    7,
    "What color is the hook?",
    {"occlusion": OverlayMap.of_values("occlusion", VALUES)},
    (Box(0.5, 0.0, 0.75, 0.5),),
    (Box(0.0, 0.5, 0.25, 1.0),),
)


def test_a_map_is_scaled_to_its_largest_value_and_negative_values_are_0() -> None:
    assert OVERLAY.maps["occlusion"].values == pytest.approx(np.array([[0, 0.25], [1, 0.5]]), abs=1 / 255)
    assert not OverlayMap.of_values("none", -VALUES.clip(0)).values.any()


def test_overlays_come_back_as_they_were_written(tmp_path: Path) -> None:
    write_overlays(tmp_path, [OVERLAY])
    assert read_overlays(tmp_path) == {("VID02", 7, "What color is the hook?"): OVERLAY}


def test_a_line_is_small(tmp_path: Path) -> None:
    values = np.random.default_rng(0).random((14, 14)).astype(np.float32)
    maps = {name: OverlayMap.of_values(name, values) for name in ("attention", "gradient_attention", "occlusion")}
    write_overlays(tmp_path, [Overlay("VID02", 7, "How many tools are there?", maps, (), ())])
    assert (tmp_path / OVERLAYS_FILE).stat().st_size < 2800


def test_an_evaluation_without_overlays_has_none(tmp_path: Path) -> None:
    assert read_overlays(tmp_path) == {}


@pytest.mark.parametrize(
    "change, message",
    [
        ({"video": 3}, "it names no question"),
        ({"frame": "3"}, "it names no question"),
        ({"maps": []}, "missing or of another kind"),
        ({"asked": [[0, 0, 2, 1]]}, "a box is not four fractions"),
        ({"asked": [[0, 0, 1]]}, "a box is not four fractions"),
        ({"asked": [["x", 0, 1, 1]]}, "could not convert"),
        ({"maps": {"a": {"title": "a", "rows": [[1, 2], [3]]}}}, "a map's rows do not have 1 to 64 values each"),
        ({"maps": {"a": {"title": "a", "rows": [[256]]}}}, "a map's value is not an integer from 0 to 255"),
        ({"maps": {"a": {"title": "a", "rows": [[True]]}}}, "a map's value is not an integer from 0 to 255"),
        ({"maps": {"a": {"title": "a", "rows": [[0]] * 65}}}, "a map does not have 1 to 64 rows"),
        ({"maps": {"a": {"title": "a"}}}, "missing or of another kind"),
    ],
)
def test_a_damaged_line_is_refused(change: dict[str, Any], message: str, tmp_path: Path) -> None:
    lines = [OVERLAY.to_json(), OVERLAY.to_json() | {"frame": 8} | change]
    (tmp_path / OVERLAYS_FILE).write_text("".join(json.dumps(line) + "\n" for line in lines))
    with pytest.raises(InputError, match=r"overlays\.jsonl:2 is not a line of eval's overlays") as error:
        read_overlays(tmp_path)
    assert message in str(error.value)


@pytest.mark.parametrize("text", ["nonsense", "[" * 100_000, '"x"', "null"])
def test_other_json_is_refused(text: str, tmp_path: Path) -> None:
    (tmp_path / OVERLAYS_FILE).write_text(text)
    with pytest.raises(InputError, match="is not a line of eval's overlays"):
        read_overlays(tmp_path)


def test_brightness_rises_with_the_value() -> None:
    """The map is legible in grey, so for every kind of colour blindness and in print."""
    colours = color_map(np.linspace(0, 1, 200, dtype=np.float32)).astype(float)
    luminance = colours @ (0.2126, 0.7152, 0.0722)
    assert (np.diff(luminance) >= -0.5).all()
    assert luminance[-1] - luminance[0] > 150


def test_the_heat_is_where_the_map_is_large() -> None:
    grey = Image.new("RGB", (200, 100), (120, 120, 120))
    values = np.zeros((4, 4), np.float32)
    values[0, 3] = 1
    drawn = np.asarray(draw_overlay(grey, OverlayMap.of_values("attention", values))).astype(int)
    yellow = drawn[..., 0] - drawn[..., 2]  # red minus blue
    assert yellow[12, 175] > 100
    assert yellow[80, 30] <= 0


def test_boxes_are_drawn_at_their_edges_and_leave_the_inside() -> None:
    frame = Image.new("RGB", (200, 100), (120, 60, 60))
    drawn = np.asarray(draw_overlay(frame, asked=[Box(0.25, 0.2, 0.75, 0.8)]))
    assert drawn[20, 100].tolist() == drawn[79, 100].tolist() == drawn[50, 50].tolist() == [255, 255, 255]
    assert drawn[50, 100].tolist() == [120, 60, 60]


def test_a_figure_holds_its_panels_in_full() -> None:
    pictures = [Image.new("RGB", (300, 100), colour) for colour in ("red", "green", "blue")]
    panels = [Panel(picture, "title", ("a note " * 30,)) for picture in pictures]
    figure = np.asarray(draw_figure(panels, "headline " * 20, ["answer"], "footer", width=300))
    for colour in ((255, 0, 0), (0, 128, 0), (0, 0, 255)):
        assert int((figure == colour).all(axis=-1).sum()) == 300 * 100
