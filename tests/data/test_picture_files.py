"""Where the pictures of clips are, and what the frame store makes of them."""

from pathlib import Path

import pytest
import torch
from PIL import Image

from surgvivqa.config import ModelConfig
from surgvivqa.data.corruptions import Corruption
from surgvivqa.data.frame_views import show_black, show_corrupted
from surgvivqa.data.frames import FrameStore, check_missing_frames, find_missing_frames
from surgvivqa.data.picture_files import INNER, PictureFiles, fill_path, frame_number
from surgvivqa.data.ssgqa import FrameQuestions
from surgvivqa.model.bundle import build_frame_store
from surgvivqa.utils.errors import InputError

CLIP = PictureFiles(
    {("v", 7): "v/c.png", ("v", INNER): "v/a.png", ("v", INNER + 1): "v/b.png"}, {("v", 7): (INNER, INNER + 1, 7)}
)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "v").mkdir()
    for index, name in enumerate("abc"):
        Image.new("RGB", (40, 40), (80 * index, 0, 0)).save(tmp_path / "v" / f"{name}.png")
    return tmp_path


@pytest.mark.parametrize(
    ("rule", "video", "frame", "path"),
    [
        ("{video}/{frame:06}.png", "VID02", "12", "VID02/000012.png"),
        ("{video}/left_frames/{frame}.png", "seq_2", "frame900", "seq_2/left_frames/frame900.png"),
        ("{frame}", "164", "164_25_bbox_lt.jpg", "164_25_bbox_lt.jpg"),
    ],
)
def test_a_rule_gives_the_path(rule: str, video: str, frame: str, path: str) -> None:
    assert fill_path(rule, video, frame) == path


@pytest.mark.parametrize(("rule", "frame"), [("{frame}", "../secret.png"), ("/{frame}", "a"), ("{frame:04}", "a.png")])
def test_a_rule_that_leaves_the_folder_or_finds_no_number_is_an_error(rule: str, frame: str) -> None:
    with pytest.raises(ValueError):
        fill_path(rule, "v", frame)


@pytest.mark.parametrize(
    ("name", "number"), [("frame900", 900), ("002-003_39453", 39453), ("a/0012.jpg", 12), ("x", None)]
)
def test_the_number_of_a_frame(name: str, number: int | None) -> None:
    assert frame_number(name) == number


@pytest.mark.parametrize(("length", "shown"), [(2, "ac"), (4, "abbc"), (6, "aabbcc")])
def test_a_listed_clip_is_spread_over_the_models_frames(root: Path, length: int, shown: str) -> None:
    store = FrameStore(root, size=8, clip_mode="listed", num_frames=length, files=CLIP)
    reds = store.clip("v", 7)[:, 0, 0, 0]
    singles = {
        name: FrameStore(root, size=8, files=PictureFiles({("v", 0): f"v/{name}.png"})).image("v", 0) for name in "abc"
    }
    expected = torch.stack([singles[name][0, 0, 0] for name in shown])
    # numpy rounds halves to even, so the middle picture may be shown twice or the neighbours
    assert torch.equal(reds, expected)


def test_every_picture_of_a_clip_must_exist(root: Path) -> None:
    store = FrameStore(root, size=8, clip_mode="listed", num_frames=2, files=CLIP)
    assert find_missing_frames(store, [FrameQuestions("v", 7, ())]) == []
    (root / "v" / "b.png").unlink()
    assert find_missing_frames(store, [FrameQuestions("v", 7, ())]) == [("v", 7)]
    with pytest.raises(InputError, match="1 of 1 frames are missing"):
        check_missing_frames(store, [FrameQuestions("v", 7, ())])


def test_views_keep_the_pictures_places(root: Path) -> None:
    store = FrameStore(root, size=8, clip_mode="listed", num_frames=2, files=CLIP)
    assert show_black(store).clip("v", 7).unique().numel() == 3
    assert show_corrupted(store, Corruption("noise", 3)).clip("v", 7).shape == (2, 3, 8, 8)


def test_earlier_frames_are_refused_where_pictures_are_named() -> None:
    with pytest.raises(InputError, match="--clip-mode past needs frames that are numbered by the second"):
        build_frame_store(ModelConfig(clip_mode="past"), Path("frames"), 2, files=CLIP)


def test_earlier_frames_follow_a_rule_by_number(root: Path) -> None:
    for number in (3, 4):
        Image.new("RGB", (40, 40)).save(root / "v" / f"{number:03d}.png")
    files = PictureFiles({("v", 4): "v/004.png"}, rule="{video}/{frame:03}.png")
    store = build_frame_store(ModelConfig(clip_mode="past"), root, 4, files=files)
    assert store.clip_frames("v", 4) == [3, 3, 3, 4]
