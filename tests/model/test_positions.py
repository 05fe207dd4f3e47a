"""Positions for clips of other lengths: the trained table, or the table interpolated over time."""

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

PLACES, HIDDEN, TRAINED = 4, 32, 16


def positions(num_frames: int, trained: int = TRAINED) -> torch.Tensor:
    video = VideoMAEConfig(image_size=32, patch_size=16, hidden_size=HIDDEN, num_frames=num_frames)
    return interpolate_positions(video, trained)


def table(moments: int) -> torch.Tensor:
    return get_sinusoid_encoding_table(moments * PLACES, HIDDEN).view(moments, PLACES, HIDDEN)


def test_the_trained_length_is_the_table_itself() -> None:
    assert torch.equal(positions(TRAINED), get_sinusoid_encoding_table(8 * PLACES, HIDDEN))
    model = VideoMAEModel(VideoMAEConfig(image_size=32, patch_size=16, hidden_size=HIDDEN, num_frames=16,
                                         num_hidden_layers=1, num_attention_heads=2))  # fmt: skip
    assert torch.equal(positions(TRAINED), model.embeddings.position_embeddings)


@pytest.mark.parametrize("frames", [4, 6, 8, 30])
def test_other_lengths_run_from_the_first_trained_moment_to_the_last(frames: int) -> None:
    found = positions(frames).view(-1, PLACES, HIDDEN)
    moments, trained = frames // 2, table(8)
    assert len(found) == moments
    for n in range(moments):  # the reference, moment by moment
        place = n * 7 / (moments - 1)
        low, share = min(int(place), 6), place - min(int(place), 6)
        torch.testing.assert_close(found[n], (1 - share) * trained[low] + share * trained[low + 1], rtol=0, atol=1e-5)


def test_a_single_moment_is_the_middle_and_a_single_trained_one_is_continued() -> None:
    trained = table(8)
    torch.testing.assert_close(positions(2).view(PLACES, HIDDEN), (trained[3] + trained[4]) / 2, rtol=0, atol=1e-6)
    assert torch.equal(positions(6, trained=2).view(3, PLACES, HIDDEN), table(3))


def test_a_model_of_another_length_keeps_its_positions_through_checkpoints(tmp_path: Path) -> None:
    parts = make_parts(tmp_path / "parts", num_frames=8)
    bundle = build_for_training(config(parts, num_frames=4))
    wanted = interpolate_positions(bundle.model.visual_encoder.config, 8)
    assert torch.equal(bundle.model.visual_encoder.embeddings.position_embeddings, wanted)
    assert not torch.equal(wanted, interpolate_positions(bundle.model.visual_encoder.config, 4))
    for everything in (False, True):
        save_checkpoint(bundle, tmp_path / "saved", everything=everything)
        again = load_checkpoint(tmp_path / "saved", settings(parts)).model
        assert torch.equal(again.visual_encoder.embeddings.position_embeddings, wanted)
        assert again.config.position_frames == 8 and again.config.video_config.num_frames == 4
