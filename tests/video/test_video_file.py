"""A video file shows what a player shows, and a file that is not whole is refused in one sentence."""

import gc
import shutil
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from PIL import Image

from surgvivqa.utils.errors import InputError
from surgvivqa.video.decoding import FrameDecoder, TimedFrame
from surgvivqa.video.video_file import VideoFile
from surgvivqa.video.writing import write_video
from tests.helpers.videos import Recipe, decode_all, numbered_picture


def picture_of(path: Path, at: float = 0.0) -> np.ndarray:
    with VideoFile(path) as video:
        return np.asarray(video.clip(at)[0])


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return Recipe(options={"g": "25"}).write(tmp_path_factory.mktemp("plain"))


def test_a_lossless_frame_is_the_picture_that_was_written(tmp_path: Path) -> None:
    path = Recipe(suffix=".mkv", codec="ffv1", pix_fmt="bgr0", ticks=range(4)).write(tmp_path)
    assert np.array_equal(picture_of(path, 0.08), numbered_picture(2))


def test_a_jpeg_frame_has_the_colours_that_pillow_shows(tmp_path: Path) -> None:
    path = Recipe(suffix=".avi", codec="mjpeg", pix_fmt="yuvj444p", options={"q": "2"}, ticks=range(2)).write(tmp_path)
    with av.open(str(path)) as file:
        data = bytes(next(file.demux(video=0)))
    (tmp_path / "frame.jpg").write_bytes(data)
    expected = np.asarray(Image.open(tmp_path / "frame.jpg").convert("RGB"), int)
    assert np.abs(picture_of(path).astype(int) - expected).max() <= 3


@pytest.mark.parametrize("matrix, name", [(1, "bt709"), (5, "bt470bg")])
def test_the_colour_matrix_that_a_file_names_is_used(matrix: int, name: str, tmp_path: Path) -> None:
    red = np.zeros((48, 64, 3), np.uint8)
    red[:] = (200, 40, 30)
    path = tmp_path / "red.mkv"
    with av.open(str(path), "w") as file:
        stream: Any = file.add_stream("libx264", rate=25, options={"crf": "1", "x264-params": f"colormatrix={name}"})
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv444p"
        frame = av.VideoFrame.from_ndarray(red, "rgb24").reformat(format="yuv444p", dst_colorspace=matrix)
        file.mux(stream.encode(frame))
        file.mux(stream.encode())
    assert np.abs(picture_of(path).astype(int) - red).max() <= 4


@pytest.mark.parametrize("degrees", [90, 180, 270])
def test_a_rotated_video_is_shown_upright(degrees: int, tmp_path: Path) -> None:
    def turn(stream: Any) -> None:
        stream.set_display_rotation(degrees)

    lossless = {"qp": "0"}
    (tmp_path / "turned").mkdir()
    turned = Recipe(options=lossless, pix_fmt="yuv444p", ticks=range(2), change=turn).write(tmp_path / "turned")
    upright = Recipe(options=lossless, pix_fmt="yuv444p", ticks=range(2)).write(tmp_path)
    expected = np.rot90(picture_of(upright), degrees // 90)
    assert np.array_equal(picture_of(turned), expected)


def test_pixels_that_are_not_square_are_stretched(tmp_path: Path) -> None:
    path = Recipe(options={"x264-params": "sar=4/3"}, ticks=range(2)).write(tmp_path)
    assert picture_of(path).shape == (48, 85, 3)


def test_the_main_one_of_several_video_streams_is_shown(tmp_path: Path) -> None:
    path = tmp_path / "two.mkv"
    with av.open(str(path), "w") as file:
        small, large = (file.add_stream("libx264", rate=25) for _ in range(2))
        for stream, size in ((small, (32, 32)), (large, (64, 48))):
            stream.width, stream.height, stream.pix_fmt = *size, "yuv420p"
        large.disposition = av.stream.Disposition.default
        for stream in (small, large):
            for number in range(3):
                picture = numbered_picture(number, stream.width, stream.height)
                file.mux(stream.encode(av.VideoFrame.from_ndarray(picture, "rgb24")))
            file.mux(stream.encode())
    assert picture_of(path).shape == (48, 64, 3)


def test_the_picture_of_a_cover_is_no_video(tmp_path: Path) -> None:
    path = tmp_path / "song.mp4"
    with av.open(str(path), "w") as file:
        audio = file.add_stream("aac", rate=48000)
        cover: Any = file.add_stream("mjpeg", rate=25)
        cover.width, cover.height, cover.pix_fmt = 32, 32, "yuvj420p"
        cover.disposition = av.stream.Disposition.attached_pic
        sound = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), "fltp", "mono")
        sound.sample_rate = 48000
        file.mux(audio.encode(sound))
        file.mux(cover.encode(av.VideoFrame.from_ndarray(numbered_picture(0, 32, 32), "rgb24")))
        file.mux(cover.encode())
        file.mux(audio.encode())
    with pytest.raises(InputError, match=r"song.mp4 has no video stream"):
        VideoFile(path)


def test_ascending_moments_are_decoded_once(plain: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seeks = []
    original = FrameDecoder._seek

    def note_seek(self: FrameDecoder, at: float) -> None:
        seeks.append(at)
        original(self, at)

    monkeypatch.setattr(FrameDecoder, "_seek", note_seek)
    with VideoFile(plain) as video:
        for number in range(40):
            video.clip(number / 10, frames=4, stride=0.1)
    assert not seeks


def test_a_far_moment_is_sought(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = Recipe(options={"g": "25"}, size=(32, 32), ticks=range(0, 25 * 60, 5)).write(tmp_path)
    with VideoFile(path) as video:
        video.clip(0.0)
        decoded = []
        decode = video._decoder._decode

        def note_frames() -> Iterator[TimedFrame]:
            for shown in decode():
                decoded.append(shown.time)
                yield shown

        monkeypatch.setattr(video._decoder, "_decode", note_frames)
        video.clip(55.0)
    assert 0 < len(decoded) < 60  # of 275


def test_no_more_pictures_are_kept_than_a_clip_has(plain: Path) -> None:
    with VideoFile(plain) as video:
        for number in range(20):
            video.clip(number * 0.2, frames=5, stride=0.07)
            assert len(video._kept) <= 5


def test_a_frame_is_freed_without_the_garbage_collector(plain: Path) -> None:
    """PyAV's list of side data keeps its frame; of a long video, hundreds of frames would be in memory."""
    gc.collect()
    gc.disable()
    try:
        with VideoFile(plain) as video:
            for number in range(40):
                video.clip(number / 10)
            held = sum(type(item) is av.VideoFrame for item in gc.get_objects())
    finally:
        gc.enable()
    assert held <= 12  # of 40


def test_a_clip_is_the_past_of_its_moment(plain: Path) -> None:
    frames = decode_all(plain)
    with VideoFile(plain) as video:
        shown = [np.asarray(picture) for picture in video.clip(0.4, frames=4, stride=0.2)]
    for picture, number in zip(shown, (0, 0, 5, 10), strict=True):
        assert np.array_equal(picture, frames[number][1])


@pytest.mark.parametrize("suffix", [".mkv", ".ts", ".avi"])
def test_a_file_that_is_cut_off_lasts_until_the_cut(suffix: str, tmp_path: Path) -> None:
    codec = "mpeg4" if suffix == ".avi" else "libx264"
    path = Recipe(suffix=suffix, codec=codec, options={"g": "12"}).write(tmp_path)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with VideoFile(path) as video:
        assert video.duration == pytest.approx(decode_all(path)[-1][0] + 0.04, abs=0.1)
        assert video.duration < 3.5
        video.clip(video.duration - 0.1)
        with pytest.raises(InputError, match=r"0:03.9 is beyond the end of .*, which lasts 0:0[0123]"):
            video.clip(3.9)


def test_a_cut_mp4_shows_no_old_picture_after_the_cut(tmp_path: Path) -> None:
    path = Recipe(options={"g": "12"}, container={"movflags": "+faststart"}).write(tmp_path)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with VideoFile(path) as video:
        video.clip(0.5)
        with pytest.raises(InputError, match=r"shows no picture at 0:03.9: it .* after 0:0\d.*damaged or cut off"):
            video.clip(3.9)
        video.clip(0.5)


def test_a_stream_without_a_keyframe_at_its_beginning_starts_at_the_next(tmp_path: Path) -> None:
    path = Recipe(suffix=".ts", options={"g": "30", "bf": "2"}).write(tmp_path)
    packets = path.read_bytes()
    cut = tmp_path / "cut.ts"
    cut.write_bytes(packets[: 3 * 188] + packets[188 * (len(packets) // 188 // 8) :])
    frames = decode_all(cut)
    assert frames[0][0] > 0.2  # of the first packet, which cannot be decoded
    with VideoFile(cut) as video:
        assert np.array_equal(np.asarray(video.clip(0.0)[0]), frames[0][1])
        late = frames[-5]
        assert np.array_equal(np.asarray(video.clip(late[0])[0]), late[1])


def test_a_frame_that_was_damaged_is_refused_or_left_out(plain: Path, tmp_path: Path) -> None:
    path = tmp_path / "damaged.mp4"
    data = bytearray(plain.read_bytes())
    for place in range(len(data) // 4, len(data) // 2, 7):
        data[place] ^= 0xFF
    path.write_bytes(data)
    refused = 0
    with VideoFile(path) as video:
        for number in range(40):
            try:
                video.clip(number / 10)
            except InputError:
                refused += 1
    assert refused < 40


NOT_VIDEOS = {
    "empty.mp4": (b"", "is empty"),
    "text.mp4": (b"What is the grasper doing?\n" * 40, "cannot be read as a video"),
    "zeros.mp4": (bytes(5000), "cannot be read as a video"),
    "list.mp4": (
        b"#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\nfile:///etc/passwd\n#EXT-X-ENDLIST\n",
        "cannot be read",
    ),
    "concat.mp4": (b"ffconcat version 1.0\nfile plain.mp4\n", "cannot be read"),
    "huge.y4m": (b"YUV4MPEG2 W20000 H20000 F25:1 C420\nFRAME\n" + bytes(100), "cannot be read"),
    "header.y4m": (b"YUV4MPEG2 W64 H48 F25:1 C420\n", "holds no frame"),
}


@pytest.mark.parametrize("name", NOT_VIDEOS)
def test_a_file_that_is_not_a_video_is_refused_in_one_sentence(name: str, plain: Path, tmp_path: Path) -> None:
    content, message = NOT_VIDEOS[name]
    shutil.copy(plain, tmp_path / "plain.mp4")
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=message) as raised:
        VideoFile(tmp_path / name)
    assert "\n" not in str(raised.value) and str(raised.value).endswith(".")


def test_frames_that_are_too_large_are_refused_before_they_are_decoded(
    plain: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("surgvivqa.video.decoding.MAX_PIXELS", 3000)
    with pytest.raises(InputError, match=r"frames of 64 x 48 pixels, more than 3,000; scale it down"):
        VideoFile(plain)


def test_a_name_that_looks_like_an_address_is_a_name(
    plain: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    shutil.copy(plain, "concat:a|b.mp4")
    assert picture_of(Path("concat:a|b.mp4")).shape == (48, 64, 3)


def test_a_written_video_has_its_frames_at_their_times(tmp_path: Path) -> None:
    pictures = [Image.fromarray(numbered_picture(n, 65, 49)) for n in range(5)]
    write_video(tmp_path / "clip.mp4", pictures, fps=2)
    with VideoFile(tmp_path / "clip.mp4") as video:
        assert video.duration == 2.5
        for number, picture in enumerate(pictures):
            shown = np.asarray(video.clip(number / 2 + 0.25)[0], int)
            assert np.abs(shown - np.asarray(picture)[:48, :64]).mean() < 6
    with av.open(str(tmp_path / "clip.mp4")) as file:
        assert file.streams.video[0].average_rate == Fraction(2)
