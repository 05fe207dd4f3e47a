"""Frames that look wrong are reported, and ordinary frames are not."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from surgvivqa.data.frame_checks import find_wrong_rates, inspect_frames
from surgvivqa.data.frames import FrameStore, find_missing_frames
from surgvivqa.data.ssgqa import FrameQuestions
from tests.conftest import SHARED


def frames(*numbers: int) -> list[FrameQuestions]:
    return [FrameQuestions("VID01", n, ()) for n in numbers]


def write_frame(root: Path, number: int, seed: int | None, size: tuple[int, int] = (96, 80)) -> None:
    """Writes a frame of noise, or a black one if ``seed`` is None."""
    path = root / "VID01" / f"{number:06d}.png"
    path.parent.mkdir(exist_ok=True)
    noise = np.random.default_rng(seed).integers(0, 255, (size[1], size[0], 3), np.uint8)
    Image.fromarray(noise * (seed is not None)).save(path)


@pytest.mark.parametrize(
    "count, highest, is_wrong",
    [(150, 5, True), (2_000, 999, True), (6, 3, False), (1_000, 900, False), (1_100, 700, False), (12, 5, False)],
)
def test_a_video_with_far_more_frames_than_seconds_is_found(
    count: int, highest: int, is_wrong: bool, tmp_path: Path
) -> None:
    (tmp_path / "VID01").mkdir()
    for number in range(count):
        (tmp_path / "VID01" / f"{number:06d}.png").touch()
    store = FrameStore(tmp_path)
    find_missing_frames(store, frames(0))
    assert find_wrong_rates(store, frames(0, highest)) == ([("VID01", count, highest)] if is_wrong else [])


@pytest.mark.parametrize("black, is_reported", [(0, False), (2, False), (3, True), (18, True)])
def test_many_frames_of_one_colour_are_reported(black: int, is_reported: bool, tmp_path: Path) -> None:
    for number in range(20):
        write_frame(tmp_path, number, None if number < black else number)
    sentences = inspect_frames(FrameStore(tmp_path), frames(*range(20))).describe()
    assert [s.split(" have ")[0] for s in sentences] == ([f"{black} of the 20 opened frames"] if is_reported else [])


@pytest.mark.parametrize("same, is_reported", [(1, False), (3, False), (4, True), (20, True)])
def test_many_identical_frames_of_a_video_are_reported(same: int, is_reported: bool, tmp_path: Path) -> None:
    for number in range(20):
        write_frame(tmp_path, number, 0 if number < same else number + 1)
    sentences = inspect_frames(FrameStore(tmp_path), frames(*range(20))).describe()
    assert [s.split(" are ")[0] for s in sentences] == (
        [f"{same} of the 20 opened frames of VID01"] if is_reported else []
    )


@pytest.mark.parametrize("size", [(40, 300), (5000, 200)])
def test_frames_of_an_implausible_size_are_reported(size: tuple[int, int], tmp_path: Path) -> None:
    write_frame(tmp_path, 0, 0, size)
    (sentence,) = inspect_frames(FrameStore(tmp_path), frames(0)).describe()
    assert sentence.startswith("1 of the 1 opened frames have a side below 64 or above 4096 px")


@pytest.mark.skipif(not SHARED.is_dir(), reason="the real data is not here")
def test_the_real_frames_are_not_reported() -> None:
    store = FrameStore(SHARED / "real" / "frames")
    real = [
        FrameQuestions(folder.name, int(path.stem), ())
        for folder in sorted(store.root.iterdir())
        for path in sorted(folder.glob("*.png"))
    ]
    find_missing_frames(store, real)
    inspection = inspect_frames(store, real[::4])
    assert inspection.opened == 110 and inspection.describe() == [] and find_wrong_rates(store, real) == []
