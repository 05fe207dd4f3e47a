"""Position embeddings for clips of other lengths: the trained table, interpolated over time."""

from pathlib import Path

import pytest
import torch
from transformers import VideoMAEConfig, VideoMAEModel
from transformers.models.videomae.modeling_videomae import get_sinusoid_encoding_table

from surgvivqa.checkpoints.loading import load_checkpoint
from surgvivqa.checkpoints.saving import save_checkpoint
from surgvivqa.model.positions import interpolate_positions
from surgvivqa.training.initial_model import build_for_training
from tests.helpers.parts import config, make_parts, settings

PATCHES, HIDDEN, TRAINED_FRAMES = 4, 32, 16


def positions(num_frames: int, trained: int = TRAINED_FRAMES) -> torch.Tensor:
    video = VideoMAEConfig(image_size=32, patch_size=16, hidden_size=HIDDEN, num_frames=num_frames)
    return interpolate_positions(video, trained)


def table(tubelets: int) -> torch.Tensor:
    return get_sinusoid_encoding_table(tubelets * PATCHES, HIDDEN).view(tubelets, PATCHES, HIDDEN)


def test_the_trained_length_has_the_trained_table() -> None:
    assert torch.equal(positions(TRAINED_FRAMES), get_sinusoid_encoding_table(8 * PATCHES, HIDDEN))
    model = VideoMAEModel(VideoMAEConfig(image_size=32, patch_size=16, hidden_size=HIDDEN, num_frames=16,
                                         num_hidden_layers=1, num_attention_heads=2))  # fmt: skip
    assert torch.equal(positions(TRAINED_FRAMES), model.embeddings.position_embeddings)


@pytest.mark.parametrize("frames", [4, 6, 8, 30])
def test_other_lengths_span_the_trained_positions(frames: int) -> None:
    interpolated = positions(frames).view(-1, PATCHES, HIDDEN)
    tubelets, trained = frames // 2, table(8)
    assert len(interpolated) == tubelets
    for n in range(tubelets):
        time = n * 7 / (tubelets - 1)
        low = min(int(time), 6)
        weight = time - low
        expected = (1 - weight) * trained[low] + weight * trained[low + 1]
        torch.testing.assert_close(interpolated[n], expected, rtol=0, atol=1e-5)


def test_a_single_tubelet_has_the_position_in_the_middle() -> None:
    trained = table(8)
    torch.testing.assert_close(positions(2).view(PATCHES, HIDDEN), (trained[3] + trained[4]) / 2, rtol=0, atol=1e-6)


def test_positions_trained_with_a_single_tubelet_are_not_interpolated() -> None:
    assert torch.equal(positions(6, trained=2).view(3, PATCHES, HIDDEN), table(3))


def test_checkpoints_keep_the_positions_of_another_clip_length(tmp_path: Path) -> None:
    parts = make_parts(tmp_path / "parts", num_frames=8)
    bundle = build_for_training(config(parts, num_frames=4))
    expected = interpolate_positions(bundle.model.visual_encoder.config, 8)
    assert torch.equal(bundle.model.visual_encoder.embeddings.position_embeddings, expected)
    assert not torch.equal(expected, interpolate_positions(bundle.model.visual_encoder.config, 4))
    for everything in (False, True):
        save_checkpoint(bundle, tmp_path / "saved", everything=everything)
        loaded = load_checkpoint(tmp_path / "saved", settings(parts)).model
        assert torch.equal(loaded.visual_encoder.embeddings.position_embeddings, expected)
        assert loaded.config.position_frames == 8 and loaded.config.video_config.num_frames == 4
