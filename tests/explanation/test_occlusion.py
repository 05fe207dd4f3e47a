"""Covering a box changes the box alone, and the answers are those of the covered clip."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from surgvivqa.explanation.occlusion import (
    FILLS,
    GRID,
    SPAN,
    Fill,
    LabelScorer,
    cover_boxes,
    occlusion_drops,
    window_boxes,
    window_map,
)
from surgvivqa.explanation.scene_graphs import Box
from surgvivqa.model.label_trie import LabelTrie
from surgvivqa.model.scoring import score_labels
from tests.helpers.small_models import LABEL_IDS, PROMPTS, clips, small_model

EDGES = st.tuples(st.floats(0, 1), st.floats(0, 1)).map(sorted)


def clip() -> Tensor:
    return clips()[0]


def covered_pixels(box: Box, size: int) -> Tensor:
    """Pixels that share area with a box, by comparison of each pixel's edges."""
    starts = torch.arange(size) / size
    ends = starts + 1 / size
    near = 1e-5
    rows = (starts < box.bottom - near) & (ends > box.top + near)
    columns = (starts < box.right - near) & (ends > box.left + near)
    return rows[:, None] & columns[None, :]


@settings(deadline=None, max_examples=60)
@given(EDGES, EDGES, st.sampled_from(FILLS))
def test_every_pixel_outside_the_box_is_unchanged(x: list[float], y: list[float], fill: Fill) -> None:
    box = Box(x[0], y[0], x[1], y[1])
    before = clip()
    after = cover_boxes(before, [box], fill)
    touched = (after != before).any(dim=0).any(dim=0)
    grown = Box(*(edge + shift for edge, shift in zip(box, (-1e-4, -1e-4, 1e-4, 1e-4), strict=True)))
    assert not (touched & ~covered_pixels(grown, 32)).any()
    assert after.isfinite().all()
    assert torch.equal(before, clip())  # it is a copy


@pytest.mark.parametrize("fill", FILLS)
def test_every_pixel_inside_the_box_is_covered(fill: Fill) -> None:
    box = Box(0.3, 0.25, 0.62, 0.7)
    changed = (cover_boxes(clip(), [box], fill) != clip()).all(dim=0).all(dim=0)
    assert torch.equal(changed, covered_pixels(box, 32))


@pytest.mark.parametrize("fill", FILLS)
def test_nothing_of_what_the_box_showed_is_left(fill: Fill) -> None:
    """Two clips that differ only inside the box are the same once it is covered."""
    box = Box(0.25, 0.25, 0.75, 0.75)
    other = torch.where(covered_pixels(box, 32), torch.randn(clip().shape), clip())
    assert torch.equal(cover_boxes(clip(), [box], fill), cover_boxes(other, [box], fill))


def test_mean_fills_each_frame_with_the_mean_colour_of_its_rest() -> None:
    box = Box(0.5, 0.0, 1.0, 0.5)
    rest = ~covered_pixels(box, 32)
    filled = cover_boxes(clip(), [box], "mean")
    for frame in range(4):
        for channel in range(3):
            expected = clip()[frame, channel][rest].mean()
            assert torch.allclose(filled[frame, channel][~rest], expected, atol=1e-6)


def test_surround_is_the_mean_of_four_pixels_weighted_by_their_distance() -> None:
    before = clip()
    filled = cover_boxes(before, [Box(8 / 32, 4 / 32, 16 / 32, 12 / 32)], "surround")
    row, column = 6, 13
    near = [(3, column, row - 3), (12, column, 12 - row), (row, 7, column - 7), (row, 16, 16 - column)]
    values = np.array([float(before[0, 1, y, x]) for y, x, _ in near])
    weights = np.array([1 / distance for *_, distance in near])
    assert float(filled[0, 1, row, column]) == pytest.approx((values * weights).sum() / weights.sum(), abs=1e-5)


def test_surround_continues_a_uniform_frame() -> None:
    flat = torch.full((2, 3, 16, 16), 0.7)
    assert torch.allclose(cover_boxes(flat, [Box(0.0, 0.2, 0.4, 1.0)], "surround"), flat)


def test_a_whole_frame_is_covered_with_the_mean_colour_of_the_normalisation() -> None:
    assert not cover_boxes(clip(), [Box(0.0, 0.0, 1.0, 1.0)], "surround").any()


def test_an_unknown_fill_is_refused() -> None:
    with pytest.raises(ValueError, match="fill 'black' is not one of mean, surround"):
        cover_boxes(clip(), [], "black")  # type: ignore[arg-type]


def test_the_map_is_the_mean_over_the_windows_that_cover_a_cell() -> None:
    values = np.random.default_rng(0).normal(size=(GRID - SPAN + 1) ** 2)
    result = window_map(values.tolist())
    for row in range(GRID):
        for column in range(GRID):
            x, y = (column + 0.5) / GRID, (row + 0.5) / GRID
            over = [value for box, value in zip(window_boxes(), values, strict=True) if box.contains(x, y)]
            assert result[row, column] == pytest.approx(np.mean(over), abs=1e-6)


def test_drops_are_those_of_clips_that_are_covered_one_by_one() -> None:
    model, trie = small_model().eval(), LabelTrie(LABEL_IDS)
    prompts, labels = PROMPTS[0], [3, 0, 5]
    maps = occlusion_drops(LabelScorer(model, trie, "prefix"), clip(), prompts, labels, "mean")

    def log_probability(shown: Tensor, question: int) -> float:
        with torch.no_grad():
            video = model.encode_video(shown.unsqueeze(0))
        scores = score_labels(model, [[prompts[question]]], video, trie, "prefix")[0]
        return float(scores.log_softmax(-1)[labels[question]])

    for question in range(3):
        whole = log_probability(clip(), question)
        drops = [whole - log_probability(cover_boxes(clip(), [box], "mean"), question) for box in window_boxes()]
        assert maps[question] == pytest.approx(window_map(drops), abs=1e-4)


def test_the_norm_of_scores_is_that_of_the_evaluation() -> None:
    model, trie = small_model().eval(), LabelTrie(LABEL_IDS)
    scorer = LabelScorer(model, trie, "prefix", "mean")
    video = scorer.encode(clips()[:1])
    scores = score_labels(model, [[PROMPTS[0][0]]], video, trie, "prefix")
    expected = (scores / trie.lengths).log_softmax(-1)[0]
    assert torch.allclose(scorer.log_probabilities(video, [PROMPTS[0][0]])[0, 0], expected, atol=1e-5)
