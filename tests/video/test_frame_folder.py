"""A folder of frames is a video of one frame each second, or of a given number."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from surgvivqa.data.frames import FrameStore
from surgvivqa.utils.errors import InputError
from surgvivqa.video import open_clip_source
from tests.helpers.videos import numbered_picture


def write_frames(folder: Path, names: list[str]) -> Path:
    folder.mkdir(exist_ok=True)
    for number, name in enumerate(names):
        Image.fromarray(numbered_picture(number)).save(folder / name)
    return folder


def numbers_of(pictures: list[Image.Image], count: int) -> list[int]:
    """Which of the numbered pictures these are."""
    known = [numbered_picture(number).tobytes() for number in range(count)]
    return [known.index(np.asarray(picture).tobytes()) for picture in pictures]


def test_six_digits_are_seconds(tmp_path: Path) -> None:
    source = open_clip_source(write_frames(tmp_path, ["000000.png", "000001.png", "000002.png"]))
    assert source.duration == 3
    assert [numbers_of(source.clip(at), 3) for at in (0, 0.9, 1, 2.99, 3)] == [[0], [0], [1], [2], [2]]


def test_other_names_are_in_the_order_of_their_numbers(tmp_path: Path) -> None:
    names = ["frame1.png", "frame2.png", "frame10.png"]
    source = open_clip_source(write_frames(tmp_path, names), fps=2)
    assert source.duration == 1.5
    assert [numbers_of(source.clip(at), 3) for at in (0, 0.5, 1)] == [[0], [1], [2]]


@pytest.mark.parametrize("second", [0, 2, 5, 7])
def test_a_clip_is_that_of_the_frame_store(second: int, tmp_path: Path) -> None:
    """In training, the nearest later frame of a clip replaces a missing one."""
    seconds = [0, 1, 2, 4, 5, 7]
    folder = write_frames(tmp_path / "VID01", [f"{number:06d}.png" for number in seconds])
    store = FrameStore(tmp_path, clip_mode="past", num_frames=5)
    shown = numbers_of(open_clip_source(folder).clip(second, frames=5), 6)
    assert [seconds[number] for number in shown] == store.clip_frames("VID01", second)


def test_a_missing_second_is_not_answered_by_an_older_frame(tmp_path: Path) -> None:
    source = open_clip_source(write_frames(tmp_path, ["000000.png", "000050.png"]))
    with pytest.raises(InputError, match=r"no frame for 0:10 \(nearest: 000000.png and 000050.png\)"):
        source.clip(10)


@pytest.mark.parametrize(
    "names, fps, message",
    [
        ([], None, "holds no pictures"),
        (["a.png"], None, r"whose name is not a second of six digits .*\(--fps\)"),
        (["000001.png", "000001.jpg"], None, "has two pictures of second 000001"),
        (["a.png"], 0, "0 frames per second cannot be used"),
    ],
)
def test_a_folder_that_cannot_be_used_is_refused(
    names: list[str], fps: float | None, message: str, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match=message):
        open_clip_source(write_frames(tmp_path, names), fps)


def test_an_image_is_a_source_without_time(tmp_path: Path) -> None:
    source = open_clip_source(write_frames(tmp_path, ["000000.png"]) / "000000.png")
    assert source.duration is None
    assert numbers_of(source.clip(0, frames=3), 1) == [0, 0, 0]


def test_a_file_that_does_not_exist_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"nowhere.mp4 does not exist"):
        open_clip_source(tmp_path / "nowhere.mp4")


def test_a_file_has_its_own_rate(tmp_path: Path) -> None:
    folder = write_frames(tmp_path, ["000000.png"])
    with pytest.raises(InputError, match="has its own frames per second"):
        open_clip_source(folder / "000000.png", fps=2)
