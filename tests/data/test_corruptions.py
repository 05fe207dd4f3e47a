"""Corruptions: each does what its name says, more of it with each severity, and the same in every run."""

import itertools
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage

from surgvivqa.data.corruptions import (
    CORRUPTIONS,
    SEVERITIES,
    Corruption,
    _spread_light,
    corrupt,
    parse_corruptions,
)
from surgvivqa.utils.errors import InputError
from tests.conftest import SHARED

DRAWN = ("smoke", "blood", "blur", "noise", "specular", "cut_corners")  # the others draw no random number


@pytest.fixture(scope="module")
def picture(synthetic_set: Path) -> Image.Image:
    return Image.open(synthetic_set / "frames" / "VID02" / "000001.png").convert("RGB")


def apply(picture: Image.Image, name: str, severity: int, video: str = "VID02", frame: int = 1) -> NDArray[np.float64]:
    return np.asarray(corrupt(picture, Corruption(name, severity), 0, video, frame), np.float64)


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_a_higher_severity_is_farther_from_the_original(name: str, picture: Image.Image) -> None:
    original = np.asarray(picture, np.float64)
    for frame in (1, 2, 3):
        distances = [float(np.abs(apply(picture, name, s, frame=frame) - original).mean()) for s in SEVERITIES]
        assert distances[0] > 0.2
        assert all(later > 1.1 * earlier for earlier, later in itertools.pairwise(distances)), distances


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_severities_of_real_frames_are_in_order(name: str) -> None:
    if not (SHARED / "real" / "frames").is_dir():
        pytest.skip("the real frames are not on this machine")
    for path in sorted((SHARED / "real" / "frames").glob("*/*.png"))[::110]:
        image = Image.open(path).convert("RGB")
        original = np.asarray(image, np.float64)
        distances = [np.abs(apply(image, name, severity) - original).mean() for severity in SEVERITIES]
        assert distances == sorted(distances) and distances[-1] > 2 * distances[0], (path.parent.name, distances)


@pytest.mark.parametrize("name", DRAWN)
def test_what_is_drawn_follows_from_seed_video_and_frame(name: str, picture: Image.Image) -> None:
    once = apply(picture, name, 4)
    assert np.array_equal(apply(picture, name, 4), once)
    assert not np.array_equal(apply(picture, name, 4, frame=2), once)
    assert not np.array_equal(apply(picture, name, 4, video="VID22"), once)
    other_seed = np.asarray(corrupt(picture, Corruption(name, 4), 1, "VID02", 1))
    assert not np.array_equal(other_seed, once)


@pytest.mark.parametrize("name", CORRUPTIONS)
@pytest.mark.parametrize("size", [(854, 480), (31, 18), (8, 8), (40, 200)])
def test_the_size_is_kept(name: str, size: tuple[int, int]) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    assert corrupt(Image.fromarray(pixels), Corruption(name, 5), 0, "VID02", 1).size == size


def test_light_is_spread_as_a_convolution_does() -> None:
    pixels = np.random.default_rng(0).random((24, 31, 3), np.float32)
    kernel = np.random.default_rng(1).random((7, 7))
    expected = np.stack(
        [ndimage.convolve(pixels[..., c] ** 2.2, kernel / kernel.sum(), mode="reflect") for c in range(3)], axis=-1
    )
    assert np.allclose(_spread_light(pixels, kernel), expected ** (1 / 2.2), atol=1e-4)


@pytest.mark.parametrize("name", ["blur", "defocus"])
def test_blur_leaves_an_even_picture_and_takes_detail(name: str, picture: Image.Image) -> None:
    even = Image.new("RGB", (60, 40), (120, 40, 200))
    assert np.abs(apply(even, name, 5) - np.asarray(even, np.float64)).max() <= 1
    detail = [np.abs(np.diff(apply(picture, name, s), axis=1)).mean() for s in SEVERITIES]
    assert detail == sorted(detail, reverse=True)


def test_a_severity_looks_the_same_in_another_resolution(picture: Image.Image) -> None:
    large = picture.resize((2 * picture.width, 2 * picture.height), Image.Resampling.BICUBIC)
    for name in ("defocus", "cut_corners", "brightness"):
        reduced = Image.fromarray(apply(large, name, 4).astype(np.uint8)).resize(picture.size, Image.Resampling.BOX)
        assert np.abs(np.asarray(reduced, np.float64) - apply(picture, name, 4)).mean() < 3, name


def test_each_corruption_is_what_it_is_called(picture: Image.Image) -> None:
    original = np.asarray(picture, np.float64)

    def saturation(pixels: NDArray[np.float64]) -> float:
        return float((pixels.max(2) - pixels.min(2)).mean())

    assert saturation(apply(picture, "smoke", 4)) < 0.6 * saturation(original)
    red, green, blue = apply(picture, "blood", 4).mean((0, 1))
    assert red > 5 * green and red > 5 * blue
    assert apply(picture, "brightness", 5).mean() > 1.5 * original.mean()
    white = (apply(picture, "specular", 5).min(2) > 230).mean()
    assert 0.04 < white - (original.min(2) > 230).mean() < 0.15
    cut = apply(picture, "cut_corners", 5)
    assert (cut[:20, :20] == 0).all() and (cut[:, :40] == 0).all()
    assert np.array_equal(cut[100:140, 195:235], original[100:140, 195:235])


def test_nothing_shines_in_the_black_around_a_round_picture() -> None:
    pixels = np.zeros((240, 430, 3), np.uint8)
    rows, columns = np.ogrid[:240, :430]
    pixels[(rows - 120) ** 2 + (columns - 215) ** 2 < 110**2] = (150, 70, 60)
    for name in ("smoke", "blood", "specular"):
        assert apply(Image.fromarray(pixels), name, 5)[:, :60].max() <= 4, name


def test_names_and_severities_are_parsed() -> None:
    assert len(parse_corruptions(["all"])) == 45
    assert [str(c) for c in parse_corruptions(["blur", "smoke:3", "blur:2"])] == (
        ["smoke:3", "blur:1", "blur:2", "blur:3", "blur:4", "blur:5"]
    )
    assert [str(c) for c in parse_corruptions(["all:5"])] == [f"{name}:5" for name in CORRUPTIONS]
    for text, fault in (("fog", "'fog' is not one of all, smoke"), ("smoke:6", "1 to 5"), ("smoke:", "1 to 5")):
        with pytest.raises(InputError, match=fault):
            parse_corruptions([text])
