"""Views of a frame store: what each shows, and that it is the same in every process."""

import pickle
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from surgvivqa.data.corruptions import Corruption, corrupt
from surgvivqa.data.frame_views import show_black, show_corrupted, show_other_videos
from surgvivqa.data.frames import FrameStore, image_to_tensor, load_image, open_image
from surgvivqa.data.splits import base_video
from surgvivqa.utils.errors import FrameError, InputError

NAMES = [(video, frame) for video in ("VID01", "VID02", "VID02_clean", "VID04") for frame in range(4)]


@pytest.fixture
def store(tmp_path: Path) -> FrameStore:
    for seed, (video, frame) in enumerate(NAMES):
        (tmp_path / video).mkdir(exist_ok=True)
        pixels = np.random.default_rng(seed).integers(0, 256, (24, 43, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / video / f"{frame:06d}.png")
    return FrameStore(tmp_path, size=32, clip_mode="past", num_frames=4)


def test_a_black_picture_equals_that_of_a_black_file(store: FrameStore) -> None:
    Image.new("RGB", (43, 24)).save(store.path("VID01", 9))
    black = show_black(store)
    assert torch.equal(black.image("VID01", 0), load_image(store.path("VID01", 9), 32))
    assert torch.equal(black.clip("VID01", 3), store.image("VID01", 9).expand(4, -1, -1, -1))


def test_black_pictures_read_no_file(tmp_path: Path) -> None:
    black = show_black(FrameStore(tmp_path / "nothing", size=32, clip_mode="past"))
    assert black.clip("VID01", 7).shape == (16, 3, 32, 32)
    assert black.file_states("VID01", 7) == []


def test_shuffled_frames_are_of_another_video_and_follow_from_the_seed(store: FrameStore) -> None:
    view = show_other_videos(store, NAMES)
    shown = {name: view.shown(*name) for name in NAMES}
    assert all(base_video(other[0]) != base_video(own[0]) for own, other in shown.items())
    assert {view.shown("VID04", n) for n in range(300)} == {name for name in NAMES if name[0] != "VID04"}
    assert {name: show_other_videos(store, NAMES[::-1]).shown(*name) for name in NAMES} == shown
    assert {name: show_other_videos(store, NAMES, seed=1).shown(*name) for name in NAMES} != shown


def test_a_video_that_is_not_among_the_frames_to_draw_from_sees_all_of_them(store: FrameStore) -> None:
    view = show_other_videos(store, NAMES[:8])
    assert {view.shown("VID99", n) for n in range(200)} == set(NAMES[:8])


def test_one_video_has_no_other(store: FrameStore) -> None:
    with pytest.raises(InputError, match="the questions are about one video only"):
        show_other_videos(store, [name for name in NAMES if base_video(name[0]) == "VID02"])


def test_a_corrupted_frame_is_corrupted_before_it_is_fitted(store: FrameStore) -> None:
    view = show_corrupted(store, Corruption("noise", 3), seed=5)
    image = corrupt(open_image(store.path("VID02", 1)), Corruption("noise", 3), 5, "VID02", 1)
    assert torch.equal(view.image("VID02", 1), image_to_tensor(image, 32))
    clip = view.clip("VID02", 3)
    assert torch.equal(clip[1], view.image("VID02", 1)) and not torch.equal(clip, store.clip("VID02", 3))
    store.path("VID02", 1).unlink()
    with pytest.raises(FrameError, match="does not exist"):
        view.image("VID02", 1)


@pytest.mark.parametrize(
    "show",
    [
        show_black,
        lambda store: show_other_videos(store, NAMES),
        lambda store: show_corrupted(store, Corruption("smoke", 2)),
    ],
    ids=["black", "shuffled", "corrupted"],
)
def test_a_view_shows_the_same_in_a_worker_process(store: FrameStore, show: Callable[[FrameStore], FrameStore]) -> None:
    view = show(store)
    copy = pickle.loads(pickle.dumps(view))
    assert copy == view
    shown = view.shown("VID01", 2)
    assert copy.shown("VID01", 2) == shown and torch.equal(copy.clip(*shown), view.clip(*shown))
