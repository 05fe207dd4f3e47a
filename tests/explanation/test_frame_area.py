"""Boxes and maps move between a frame and the model's input as the pixels do."""

import numpy as np
import pytest
from PIL import Image, ImageDraw

from surgvivqa.data.frames import FRAME_FITS, fit_image
from surgvivqa.explanation.frame_area import FrameArea
from surgvivqa.explanation.scene_graphs import Box


@pytest.mark.parametrize("fit", FRAME_FITS)
@pytest.mark.parametrize("size", [(430, 240), (200, 320)])
def test_a_box_covers_the_pixels_that_show_it(fit: str, size: tuple[int, int]) -> None:
    box = Box(0.35, 0.4, 0.6, 0.65)
    frame = Image.new("RGB", size)
    edges = [round(edge * size[i % 2]) for i, edge in enumerate(box)]
    ImageDraw.Draw(frame).rectangle((edges[0], edges[1], edges[2] - 1, edges[3] - 1), fill=(255, 255, 255))
    pixels = np.asarray(fit_image(frame, 112, fit).convert("L")) > 200
    if fit == "pad":
        pixels[:, :] &= np.asarray(fit_image(Image.new("RGB", size), 112, fit).convert("L")) < 20  # the frame's part
    rows, columns = np.flatnonzero(pixels.any(1)), np.flatnonzero(pixels.any(0))
    shown = np.array([columns[0], rows[0], columns[-1] + 1, rows[-1] + 1]) / 112
    assert np.array(FrameArea.of_fit(fit, *size, 112).to_input(box)) == pytest.approx(shown, abs=2 / 112)


def test_what_a_crop_removes_has_no_area_in_the_input() -> None:
    area = FrameArea.of_fit("crop", 430, 240, 112)
    assert area.to_input(Box(0.0, 0.0, 0.1, 1.0)).area == 0
    assert area.visible == Box(0.0, 0.0, 1.0, 1.0)


def test_padding_shows_the_whole_frame_in_a_part_of_the_input() -> None:
    area = FrameArea.of_fit("pad", 400, 200, 100)
    assert area.visible == Box(0.0, 0.25, 1.0, 0.75)
    assert area.to_input(Box(0.0, 0.0, 1.0, 1.0)) == area.visible


def test_a_map_of_a_squashed_frame_stays_as_it_is() -> None:
    values = np.arange(16, dtype=np.float32).reshape(4, 4)
    assert FrameArea.of_fit("squash", 430, 240, 112).to_frame(values) is values


def test_a_map_of_a_padded_frame_loses_the_padding() -> None:
    values = np.repeat(np.arange(8, dtype=np.float32)[:, None], 8, axis=1)
    moved = FrameArea.of_fit("pad", 400, 200, 112).to_frame(values)
    assert moved.shape == (4, 8)
    assert moved[:, 0].tolist() == [2, 3, 4, 5]


def test_a_map_of_a_cropped_frame_is_0_where_the_input_does_not_show_it() -> None:
    values = np.ones((8, 8), np.float32)
    moved = FrameArea.of_fit("crop", 400, 200, 112).to_frame(values)
    assert moved.shape == (8, 16)
    assert moved[0].tolist() == [0] * 4 + [1] * 8 + [0] * 4


def test_an_unknown_fit_is_refused() -> None:
    with pytest.raises(ValueError, match="'stretch' is unknown"):
        FrameArea.of_fit("stretch", 1, 1, 1)
