"""Frames: the three fits, clips, and files that are not usable as frames."""

import os
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from transformers.models.videomae.image_processing_pil_videomae import VideoMAEImageProcessorPil

from surgvivqa.data.frames import IMAGENET_MEAN, IMAGENET_STD, FrameStore, find_missing_frames, load_image
from surgvivqa.data.ssgqa import FrameQuestions
from surgvivqa.utils.errors import FrameError, InputError


def write_picture(path: Path, width: int = 430, height: int = 240, seed: int = 0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)
    return path


@pytest.mark.parametrize(("width", "height"), [(430, 240), (428, 240), (854, 480), (240, 430), (224, 224)])
def test_crop_equals_the_videomae_processor(tmp_path: Path, width: int, height: int) -> None:
    path = write_picture(tmp_path / "a.png", width, height)
    processor = VideoMAEImageProcessorPil(image_mean=list(IMAGENET_MEAN), image_std=list(IMAGENET_STD))
    with Image.open(path) as image:
        expected = processor([image], return_tensors="pt")["pixel_values"][0, 0]
    torch.testing.assert_close(load_image(path, fit="crop"), expected, rtol=0, atol=1e-5)


def test_squash_and_pad_keep_the_edges_and_crop_does_not(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    pixels = np.zeros((240, 430, 3), np.uint8)
    pixels[:, :40] = 255
    Image.fromarray(pixels).save(path)
    bright = {fit: load_image(path, 112, fit).max().item() > 1 for fit in ("squash", "pad", "crop")}
    assert bright == {"squash": True, "pad": True, "crop": False}


def test_a_past_clip_ends_at_the_frame_and_is_padded_with_the_first(tmp_path: Path) -> None:
    for second in range(3):
        write_picture(tmp_path / "VID04" / f"{second:06d}.png", seed=second)
    store = FrameStore(tmp_path, size=32, clip_mode="past", num_frames=4)
    clip = store.clip("VID04", 2)
    for slot, second in enumerate((0, 0, 1, 2)):
        assert torch.equal(clip[slot], store.image("VID04", second))


def test_a_repeated_clip_is_one_frame(tmp_path: Path) -> None:
    write_picture(tmp_path / "VID04" / "000002.png")
    clip = FrameStore(tmp_path, size=32, num_frames=6).clip("VID04", 2)
    assert clip.shape == (6, 3, 32, 32)
    assert (clip == clip[0]).all()


def png_chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def encode_png(width: int, height: int, depth: int, content: bytes) -> bytes:
    """A PNG file with the given size, RGB colours and compressed content."""
    header = struct.pack(">IIBBBBB", width, height, depth, 2, 0, 0, 0)
    parts = (png_chunk(b"IHDR", header), png_chunk(b"IDAT", zlib.compress(content)), png_chunk(b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def damage(path: Path, kind: str) -> None:
    """Replaces a frame by a file that must be refused."""
    grey = np.tile(np.linspace(0, 255, 64, dtype=np.uint8), (64, 1))
    image = Image.open(path).convert("RGB")
    match kind:
        case "truncated":
            path.write_bytes(path.read_bytes()[:5000])
        case "empty":
            path.write_bytes(b"")
        case "text":
            path.write_bytes(b"no picture")
        case "zeros":  # an interrupted copy may leave such a file
            path.write_bytes(bytes(path.stat().st_size))
        case "missing":
            path.unlink()
        case "folder" | "pipe":
            path.unlink()
            path.mkdir() if kind == "folder" else os.mkfifo(path)
        case "CMYK" | "LAB":
            image.convert("CMYK").save(path, "JPEG") if kind == "CMYK" else Image.merge(
                "LAB", [Image.fromarray(grey)] * 3
            ).save(path, "TIFF")
        case "16-bit grey":
            Image.fromarray(grey.astype(np.uint16) * 257).save(path)
        case "16-bit RGB":
            path.write_bytes(encode_png(8, 8, 16, (b"\0" + b"\x12\x34" * 24) * 8))
        case "float":
            Image.fromarray(grey.astype(np.float32)).save(path, "TIFF")
        case "animated":
            image.save(
                path, "PNG", save_all=True, append_images=[Image.fromarray(grey).convert("RGB").resize(image.size)]
            )
        case "two pages":
            image.save(path, "TIFF", save_all=True, append_images=[image])
        case "GIF":
            image.save(path, "GIF")
        case "EPS":  # Pillow would start Ghostscript
            image.save(path, "EPS")
        case "bomb":
            path.write_bytes(encode_png(60_000, 60_000, 8, b"\0" * 1000))
        case "bomb that is whole":
            path.write_bytes(encode_png(30_000, 30_000, 8, (b"\0" * 90_001) * 1000))
        case "huge file":
            path.write_bytes(path.read_bytes())
            os.truncate(path, 10**12)


KINDS = {
    "truncated": "cannot be read",
    "empty": "0 bytes",
    "text": "is not a PNG, JPEG, BMP, TIFF or WEBP file",
    "zeros": "is not a PNG, JPEG, BMP, TIFF or WEBP file",
    "missing": "does not exist",
    "folder": "not a regular file",
    "pipe": "not a regular file",
    "CMYK": "its colours are CMYK; convert it to RGB",
    "LAB": "its colours are LAB; convert it to RGB",
    "16-bit grey": "more than 8 bits per channel",
    "16-bit RGB": "more than 8 bits per channel",
    "float": "more than 8 bits per channel",
    "animated": "it holds 2 pictures",
    "two pages": "it holds 2 pictures",
    "GIF": "is not a PNG, JPEG, BMP, TIFF or WEBP file",
    "EPS": "is not a PNG, JPEG, BMP, TIFF or WEBP file",
    "bomb": "exceeds limit",
    "bomb that is whole": "exceeds limit",
    "huge file": "1,000,000,000,000 bytes",
}


@pytest.mark.parametrize("kind", KINDS)
def test_an_unusable_frame_is_an_error_of_one_sentence_with_its_path(tmp_path: Path, kind: str) -> None:
    path = write_picture(tmp_path / "000001.png")
    damage(path, kind)
    with pytest.raises(FrameError, match=r"000001\.png") as raised:
        load_image(path)
    assert KINDS[kind] in raised.value.sentence
    assert len(raised.value.sentence.splitlines()) == 1 and len(raised.value.sentence) < 300


def test_no_flipped_bit_decodes_to_another_picture(tmp_path: Path) -> None:
    """Without checksums, 3% of the flipped bits do."""
    path = write_picture(tmp_path / "000001.png", 86, 48)
    raw, expected, undetected = path.read_bytes(), load_image(path, 32), 0
    rng = np.random.default_rng(0)
    for offset, bit in zip(rng.integers(0, len(raw), 400), rng.integers(0, 8, 400), strict=True):
        damaged = bytearray(raw)
        damaged[offset] ^= 1 << int(bit)
        path.write_bytes(damaged)
        try:
            undetected += not torch.equal(load_image(path, 32), expected)
        except FrameError:
            continue
    assert undetected == 0


@pytest.mark.parametrize("kind", ["bytes", "cut", "noise"])
def test_a_damaged_file_loads_or_is_a_frame_error(tmp_path: Path, kind: str) -> None:
    rng = np.random.default_rng(1)
    path = tmp_path / "000001.png"
    for form in ("PNG", "JPEG", "BMP", "TIFF", "WEBP"):
        write_picture(tmp_path / "good.png", 43, 24)
        Image.open(tmp_path / "good.png").save(path, form)
        raw = path.read_bytes()
        for _ in range(60):
            damaged = bytearray(raw)
            if kind == "bytes":
                for offset in rng.integers(0, len(raw), 5):
                    damaged[offset] = int(rng.integers(0, 256))
            elif kind == "cut":
                damaged = damaged[: int(rng.integers(0, len(raw)))]
            else:
                damaged[8:200] = rng.bytes(192)
            path.write_bytes(damaged)
            try:
                assert load_image(path, 16).shape == (3, 16, 16)
            except FrameError as error:
                assert len(error.sentence.splitlines()) == 1


def test_a_killed_worker_is_not_a_fault_of_the_frame_that_is_decoded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_picture(tmp_path / "a.png")

    def load(_: Image.Image) -> None:  # PyTorch's handler of SIGCHLD raises at any line
        raise RuntimeError("DataLoader worker (pid 12) is killed by signal: Killed.")

    monkeypatch.setattr(Image.Image, "load", load)
    monkeypatch.setattr("PIL.ImageFile.ImageFile.load", load)
    with pytest.raises(RuntimeError, match="pid 12"):
        load_image(path)


def test_an_unreadable_folder_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_picture(tmp_path / "VID04" / "000001.png")

    def raise_permission_error(self: Path) -> None:
        raise PermissionError(13, "Permission denied", str(self))

    monkeypatch.setattr(Path, "iterdir", raise_permission_error)
    with pytest.raises(InputError, match=r"VID04 cannot be read \(Permission denied\)"):
        find_missing_frames(FrameStore(tmp_path), [FrameQuestions("VID04", 1, ())])


@pytest.mark.parametrize("mode", ["L", "RGBA", "P"])
def test_grey_palette_and_alpha_images_are_read_as_rgb(tmp_path: Path, mode: str) -> None:
    grey = np.tile(np.linspace(0, 255, 64, dtype=np.uint8), (64, 1))
    Image.fromarray(grey).convert(mode).save(tmp_path / "a.png")
    Image.fromarray(grey).convert("RGB").save(tmp_path / "b.png")
    torch.testing.assert_close(
        load_image(tmp_path / "a.png", 64), load_image(tmp_path / "b.png", 64), rtol=0, atol=0.02
    )


def test_find_missing_frames_ignores_copies(tmp_path: Path) -> None:
    write_picture(tmp_path / "VID04" / "000001.png")
    write_picture(tmp_path / "VID04" / "000002 (1).png")
    frames = [FrameQuestions("VID04", n, ()) for n in (1, 2)]
    assert find_missing_frames(FrameStore(tmp_path), frames) == [("VID04", 2)]
