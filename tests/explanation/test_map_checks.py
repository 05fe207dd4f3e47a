"""Checks of maps: random weights, rank correlation and the pointing game."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import spearmanr

from surgvivqa.explanation.map_checks import covered_share, peak, points_into, randomise_weights, rank_correlation
from surgvivqa.explanation.scene_graphs import Box
from tests.helpers.small_models import clips, small_model

WHOLE = Box(0.0, 0.0, 1.0, 1.0)


def test_random_weights_have_the_values_of_the_model_in_another_order() -> None:
    model = small_model(lora=True)
    before = {name: value.clone() for name, value in model.named_parameters()}
    random = dict(randomise_weights(model).named_parameters())
    for name, value in before.items():
        assert torch.equal(value, dict(model.named_parameters())[name])  # the model is unchanged
        assert torch.equal(value.flatten().sort().values, random[name].flatten().sort().values)
        assert torch.equal(value, random[name]) == bool((value == value.flatten()[0]).all())


def test_random_weights_follow_from_the_seed_and_keep_tied_weights_tied() -> None:
    model = small_model()
    first, same, other = (randomise_weights(model, seed) for seed in (0, 0, 1))
    with torch.no_grad():
        tokens = [m.encode_video(clips()) for m in (first, same, other)]
    assert torch.equal(tokens[0], tokens[1]) and not torch.equal(tokens[0], tokens[2])
    assert first.decoder.lm_head.weight is first.decoder.transformer.wte.weight


@given(st.lists(st.integers(-3, 3), min_size=4, max_size=12), st.integers(0, 99))
def test_rank_correlation_is_spearmans(values: list[int], seed: int) -> None:
    first = np.array(values, np.float32)
    second = np.random.default_rng(seed).integers(0, 5, len(values)).astype(np.float32)
    found = rank_correlation(first, second)
    if np.ptp(first) == 0 or np.ptp(second) == 0:
        assert found is None
    else:
        assert found == pytest.approx(spearmanr(first, second).statistic, abs=1e-9)


def test_the_peak_is_the_centre_of_the_largest_cell() -> None:
    values = np.zeros((4, 8), np.float32)
    values[1, 6] = 1
    assert peak(values) == (6.5 / 8, 1.5 / 4)
    assert points_into(values, [Box(0.75, 0.25, 0.875, 0.5)])
    assert not points_into(values, [Box(0.0, 0.0, 0.8, 1.0)])


def test_a_constant_map_points_nowhere() -> None:
    assert not points_into(np.ones((4, 4), np.float32), [WHOLE])


def test_the_covered_share_counts_an_overlap_once() -> None:
    boxes = [Box(0.0, 0.0, 0.5, 0.5), Box(0.25, 0.25, 0.75, 0.75)]
    assert covered_share(boxes, WHOLE) == pytest.approx(0.25 + 0.25 - 0.0625, abs=1e-3)
    assert covered_share(boxes, Box(0.0, 0.0, 0.5, 0.5)) == 1.0


def test_chance_is_what_random_maps_reach() -> None:
    rng = np.random.default_rng(0)
    boxes = [Box(0.1, 0.2, 0.55, 0.6)]
    hits = [points_into(rng.random((16, 16), np.float32), boxes) for _ in range(4000)]
    assert np.mean(hits) == pytest.approx(covered_share(boxes, WHOLE), abs=0.03)
