"""Pooling over time: the mean of a patch's tokens, in VideoMAE's token order."""

import pytest
import torch
from transformers import VideoMAEConfig, VideoMAEModel

from surgvivqa.model.pooling import pool_tokens, token_count

CONFIG = VideoMAEConfig(
    image_size=32, num_frames=6, hidden_size=8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=8
)


def test_temporal_is_the_mean_over_time_of_each_patch() -> None:
    tokens = torch.randn(2, 12, 8)
    pooled = pool_tokens(tokens, CONFIG, "temporal")
    assert pooled.shape == (2, token_count(CONFIG, "temporal"), 8) == (2, 4, 8)
    for patch in range(4):
        assert torch.allclose(pooled[:, patch], (tokens[:, patch] + tokens[:, 4 + patch] + tokens[:, 8 + patch]) / 3)


def test_none_returns_the_tokens_unchanged() -> None:
    tokens = torch.randn(2, 12, 8)
    assert pool_tokens(tokens, CONFIG, "none") is tokens
    assert token_count(CONFIG, "none") == 12


def test_time_is_the_outermost_axis_of_the_encoders_tokens() -> None:
    patches = VideoMAEModel(CONFIG).embeddings.patch_embeddings
    clip = torch.zeros(1, 6, 3, 32, 32)
    changed_clip = clip.clone()
    changed_clip[:, 2:4] = 1.0  # the second of three tubelets
    is_changed = (patches(changed_clip) - patches(clip)).abs().sum(-1)[0] > 0
    assert is_changed.tolist() == [4 <= token < 8 for token in range(12)]


@pytest.mark.parametrize(("tokens", "mode"), [(11, "temporal"), (12, "spatial")])
def test_tokens_that_cannot_be_pooled_are_an_error(tokens: int, mode: str) -> None:
    with pytest.raises(ValueError, match="video"):
        pool_tokens(torch.zeros(1, tokens, 8), CONFIG, mode)
