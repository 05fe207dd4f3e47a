"""Frames: the three fits, clips, and files that are no frames."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from transformers.models.videomae.image_processing_pil_videomae import VideoMAEImageProcessorPil

from surgvivqa.data.frames import IMAGENET_MEAN, IMAGENET_STD, FrameStore, load_image, missing_frames
from surgvivqa.data.ssgqa import Frame
from surgvivqa.errors import InputError


def picture(path: Path, width: int = 430, height: int = 240, seed: int = 0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)
    return path


@pytest.mark.parametrize(("width", "height"), [(430, 240), (428, 240), (854, 480), (240, 430), (224, 224)])
def test_crop_equals_the_videomae_processor(tmp_path: Path, width: int, height: int) -> None:
    path = picture(tmp_path / "a.png", width, height)
    processor = VideoMAEImageProcessorPil(image_mean=list(IMAGENET_MEAN), image_std=list(IMAGENET_STD))
    with Image.open(path) as image:
        expected = processor([image], return_tensors="pt")["pixel_values"][0, 0]
    torch.testing.assert_close(load_image(path, fit="crop"), expected, rtol=0, atol=1e-5)


def test_squash_and_pad_keep_the_sides_that_crop_loses(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    pixels = np.zeros((240, 430, 3), np.uint8)
    pixels[:, :40] = 255
    Image.fromarray(pixels).save(path)
    bright = {fit: load_image(path, 112, fit).max().item() > 1 for fit in ("squash", "pad", "crop")}
    assert bright == {"squash": True, "pad": True, "crop": False}


def test_a_past_clip_ends_at_the_frame_and_repeats_the_first(tmp_path: Path) -> None:
    for second in range(3):
        picture(tmp_path / "VID04" / f"{second:06d}.png", seed=second)
    store = FrameStore(tmp_path, size=32, clip_mode="past", num_frames=4)
    clip = store.clip("VID04", 2)
    for slot, second in enumerate((0, 0, 1, 2)):
        assert torch.equal(clip[slot], store.image("VID04", second))


def test_a_repeated_clip_is_one_frame(tmp_path: Path) -> None:
    picture(tmp_path / "VID04" / "000002.png")
    clip = FrameStore(tmp_path, size=32, num_frames=6).clip("VID04", 2)
    assert clip.shape == (6, 3, 32, 32)
    assert (clip == clip[0]).all()


@pytest.mark.parametrize("kind", ["truncated", "empty", "text", "missing"])
def test_what_is_no_frame_is_one_sentence_with_its_path(tmp_path: Path, kind: str) -> None:
    path = picture(tmp_path / "000001.png")
    if kind == "truncated":
        path.write_bytes(path.read_bytes()[:5000])
    elif kind == "missing":
        path.unlink()
    else:
        path.write_bytes(b"" if kind == "empty" else b"no picture")
    with pytest.raises(InputError, match=r"000001\.png"):
        load_image(path)


@pytest.mark.parametrize("mode", ["L", "RGBA", "P", "I;16"])
def test_other_colour_modes_are_read_right(tmp_path: Path, mode: str) -> None:
    grey = np.tile(np.linspace(0, 255, 64, dtype=np.uint8), (64, 1))
    image = Image.fromarray(grey)
    image = Image.fromarray(grey.astype(np.uint16) * 257) if mode == "I;16" else image.convert(mode)
    image.save(tmp_path / "a.png")
    Image.fromarray(grey).convert("RGB").save(tmp_path / "b.png")
    torch.testing.assert_close(
        load_image(tmp_path / "a.png", 64), load_image(tmp_path / "b.png", 64), rtol=0, atol=0.02
    )


def test_missing_frames_ignores_copies(tmp_path: Path) -> None:
    picture(tmp_path / "VID04" / "000001.png")
    picture(tmp_path / "VID04" / "000002 (1).png")
    frames = [Frame("VID04", n, ()) for n in (1, 2)]
    assert missing_frames(FrameStore(tmp_path), frames) == [tmp_path / "VID04" / "000002.png"]
