"""Video tokens of views: a cache never gives the tokens of one picture for another; black ones are encoded once."""

from collections.abc import Sequence
from pathlib import Path

import pytest
import torch

from surgvivqa.checkpoints.loading import load_checkpoint
from surgvivqa.config import ModelConfig
from surgvivqa.data.corruptions import Corruption
from surgvivqa.data.frame_views import show_black, show_corrupted, show_other_videos
from surgvivqa.data.frames import FrameStore
from surgvivqa.data.ssgqa import FrameQuestions, read_split
from surgvivqa.features.video_tokens import VideoTokenSource, build_video_token_source
from surgvivqa.model.bundle import ModelBundle


@pytest.fixture(scope="module")
def bundle() -> ModelBundle:
    found = load_checkpoint(Path("tiny"), ModelConfig())
    found.model.requires_grad_(False)
    return found


@pytest.fixture(scope="module")
def frames(synthetic_set: Path) -> Sequence[FrameQuestions]:
    return read_split(synthetic_set / "ssg-qa", ["VID01", "VID02", "VID04"])[0]


@pytest.fixture
def store(bundle: ModelBundle, synthetic_set: Path) -> FrameStore:
    return bundle.frame_store(synthetic_set / "frames")


def encode(source: VideoTokenSource, frames: Sequence[FrameQuestions]) -> torch.Tensor:
    with source, torch.inference_mode():
        return source(source.reader.read(frames)).clone()


def names(frames: Sequence[FrameQuestions]) -> list[tuple[str, int]]:
    return [(frame.video, frame.frame) for frame in frames]


def cached_keys(source: VideoTokenSource) -> set[tuple[str, int]]:
    assert source.cache is not None
    source.cache.refresh()
    return {key[:2] for key in source.cache._index}


def test_shuffled_frames_are_cached_under_the_frame_that_is_shown(
    bundle: ModelBundle, store: FrameStore, frames: Sequence[FrameQuestions], tmp_path: Path
) -> None:
    view = show_other_videos(store, names(frames))
    shown = [view.shown(*name) for name in names(frames)]
    plain = dict(zip(names(frames), encode_plain(bundle, store, frames), strict=True))
    shuffled = build_video_token_source(bundle, view, tmp_path, "fp32")
    first = encode(shuffled, frames)
    assert cached_keys(shuffled) == set(shown)
    assert shuffled.misses == len(set(shown))
    torch.testing.assert_close(first, torch.stack([plain[name] for name in shown]), rtol=0, atol=1e-5)
    own = build_video_token_source(bundle, store, tmp_path, "fp32")
    torch.testing.assert_close(
        encode(own, frames), torch.stack([plain[name] for name in names(frames)]), rtol=0, atol=1e-5
    )
    assert own.cache is not None and shuffled.cache is not None and own.cache.folder == shuffled.cache.folder
    again = build_video_token_source(bundle, view, tmp_path, "fp32")
    assert torch.equal(encode(again, frames), first) and again.misses == 0


def encode_plain(bundle: ModelBundle, store: FrameStore, frames: Sequence[FrameQuestions]) -> torch.Tensor:
    return encode(build_video_token_source(bundle, store), frames)


def test_tokens_that_were_left_to_the_main_process_are_those_of_the_frame_that_is_shown(
    bundle: ModelBundle, store: FrameStore, frames: Sequence[FrameQuestions], tmp_path: Path
) -> None:
    view = show_other_videos(store, names(frames))
    expected = encode(build_video_token_source(bundle, view, tmp_path, "fp32"), frames)
    source = build_video_token_source(bundle, view, tmp_path, "fp32", leave_cached=True)
    inputs = source.reader.read(frames)
    assert all(inputs.cached) and inputs.tokens is None
    assert torch.equal(source(inputs), expected)
    for path in tmp_path.rglob("*.safetensors"):  # another process empties the cache after the inputs were read
        path.unlink()
    emptied = build_video_token_source(bundle, view, tmp_path, "fp32", leave_cached=True)
    torch.testing.assert_close(emptied(inputs), expected, rtol=0, atol=1e-5)


def test_pictures_that_are_not_on_disk_have_another_cache(
    bundle: ModelBundle, store: FrameStore, frames: Sequence[FrameQuestions], tmp_path: Path
) -> None:
    views = [
        store,
        show_black(store),
        show_corrupted(store, Corruption("smoke", 2)),
        show_corrupted(store, Corruption("smoke", 3)),
        show_corrupted(store, Corruption("smoke", 3), seed=1),
    ]
    sources = [build_video_token_source(bundle, view, tmp_path, "fp32") for view in views]
    assert len({source.cache.folder for source in sources if source.cache}) == len(views)
    for view, source in zip(views, sources, strict=True):
        plain = encode_plain(bundle, view, frames)
        torch.testing.assert_close(encode(source, frames), plain, rtol=0, atol=1e-5)
        torch.testing.assert_close(encode(source, frames), plain, rtol=0, atol=1e-5)


def test_a_view_of_a_cached_source_shares_the_cache_for_pictures_on_disk_only(
    bundle: ModelBundle, store: FrameStore, frames: Sequence[FrameQuestions], tmp_path: Path
) -> None:
    own = build_video_token_source(bundle, store, tmp_path, "fp32")
    encode(own, frames)
    keys = cached_keys(own)
    shuffled = own.showing(show_other_videos(store, names(frames)))
    encode(shuffled, frames)
    assert shuffled.cache is own.cache and shuffled.misses == 0
    for view in (show_black(store), show_corrupted(store, Corruption("blur", 1))):
        source = own.showing(view)
        encode(source, frames)
        assert source.cache is None
    assert cached_keys(own) == keys and len(list(tmp_path.iterdir())) == 1


class Encodings:
    """Counts the clips that a model's video encoder is given."""

    def __init__(self, source: VideoTokenSource) -> None:
        self.clips, encode = 0, source.encode

        def counted(clips: torch.Tensor) -> torch.Tensor:
            self.clips += len(clips)
            return encode(clips)

        source.encode = counted


@pytest.mark.parametrize("cached", [False, True])
def test_black_pictures_are_encoded_once(
    cached: bool, bundle: ModelBundle, store: FrameStore, frames: Sequence[FrameQuestions], tmp_path: Path
) -> None:
    source = build_video_token_source(bundle, show_black(store), tmp_path if cached else None, "fp32")
    encodings = Encodings(source)
    expected = bundle.model.encode_video(show_black(store).clip("VID02", 1).unsqueeze(0))
    for part in (frames[:3], frames):
        tokens = encode(source, part)
        torch.testing.assert_close(tokens, expected.expand(len(part), -1, -1), rtol=0, atol=1e-5)
    assert encodings.clips == 1


def test_black_tokens_of_a_validation_can_be_trained_on(
    bundle: ModelBundle, store: FrameStore, frames: Sequence[FrameQuestions]
) -> None:
    source = build_video_token_source(bundle, show_black(store))
    encode(source, frames)
    tokens = source(source.reader.read(frames))
    weight = torch.ones(tokens.shape[-1], requires_grad=True)
    (tokens * weight).sum().backward()
    assert weight.grad is not None


def test_a_trained_encoder_encodes_black_pictures_again(store: FrameStore, frames: Sequence[FrameQuestions]) -> None:
    bundle = load_checkpoint(Path("tiny"), ModelConfig())
    bundle.model.requires_grad_(True)
    source = build_video_token_source(bundle, show_black(store))
    before = encode(source, frames)
    with torch.no_grad():
        for parameter in bundle.model.visual_encoder.parameters():
            parameter += 0.05
    assert not torch.allclose(encode(source, frames), before, atol=1e-3)
    clips = source.clips(source.reader.read(frames))
    assert clips.shape[:2] == (len(frames), bundle.model.config.video_config.num_frames)
