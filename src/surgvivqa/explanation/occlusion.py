"""Evidence by occlusion: covers a part of the clip and measures what that does to the answer.

What the model says about the covered clip is compared with what it says about the clip as it is (Zeiler and Fergus,
ECCV 2014). Boxes are fractions of the model's input. A box is covered in every frame of the clip, with one of:

``mean``
    the mean colour of the rest of that frame;
``surround``
    for each pixel the mean of the four pixels beyond the box's edges in its row and column, weighted by the inverse of
    their distance: no new edges, and nothing of what the box showed.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import torch
from torch import Tensor

from surgvivqa.explanation.frame_area import Map
from surgvivqa.explanation.scene_graphs import Box
from surgvivqa.model.label_trie import LabelTrie
from surgvivqa.model.modeling import SurgViVQAModel
from surgvivqa.model.scoring import normalise_scores, score_labels

Fill = Literal["mean", "surround"]
FILLS: tuple[str, ...] = get_args(Fill)
GRID, SPAN = 8, 2  # of the sliding windows: cells along a side of the input, and cells along a side of a window
CLIPS_PER_PASS = 16


def cover_boxes(clip: Tensor, boxes: Sequence[Box], fill: Fill = "surround") -> Tensor:
    """A copy of a clip with boxes covered; every pixel outside the boxes is unchanged.

    Args:
        clip: ``[T, 3, H, W]`` float, normalised.
        boxes: the boxes; pixels that a box covers in part are covered.
        fill: what covers them.

    Raises:
        ValueError: ``fill`` is unknown.
    """
    if fill not in FILLS:
        raise ValueError(f"fill {fill!r} is not one of {', '.join(FILLS)}")
    covered = clip.clone()
    areas = [_pixels(box, *clip.shape[-2:]) for box in boxes if box.area]
    if fill == "surround":
        for area in areas:
            _interpolate(covered, *area)
        return covered
    hidden = torch.zeros(clip.shape[-2:], dtype=torch.bool, device=clip.device)
    for top, bottom, left, right in areas:
        hidden[top:bottom, left:right] = True
    rest = ~hidden if not hidden.all() else hidden
    colour = clip[:, :, rest].mean(dim=-1)
    return torch.where(hidden, colour[:, :, None, None], covered)


def window_boxes(grid: int = GRID, span: int = SPAN) -> list[Box]:
    """The boxes of all windows of ``span x span`` cells on a grid of ``grid x grid`` cells, row by row."""
    starts = range(grid - span + 1)
    return [Box(x / grid, y / grid, (x + span) / grid, (y + span) / grid) for y in starts for x in starts]


def window_map(values: Sequence[float], grid: int = GRID, span: int = SPAN) -> Map:
    """The map ``[grid, grid]`` of windows' values: the mean over the windows that cover a cell.

    Args:
        values: the value of each window, in the order of ``window_boxes``.
        grid: cells along a side.
        span: cells along a side of a window.
    """
    sums, counts = np.zeros((grid, grid)), np.zeros((grid, grid))
    places = [(y, x) for y in range(grid - span + 1) for x in range(grid - span + 1)]
    for value, (y, x) in zip(values, places, strict=True):
        sums[y : y + span, x : x + span] += value
        counts[y : y + span, x : x + span] += 1
    return (sums / counts).astype(np.float32)


@dataclass(frozen=True)
class LabelScorer:
    """Scores the labels for questions about clips.

    Attributes:
        model: the model in eval mode.
        trie: the labels.
        mask: the mask mode.
        score_norm: how a label's score follows from its tokens (``scoring.normalise_scores``).
    """

    model: SurgViVQAModel
    trie: LabelTrie
    mask: str
    score_norm: str = "sum"

    @torch.no_grad()
    def encode(self, clips: Tensor) -> Tensor:
        """Video tokens ``[B, V, hidden]`` of clips ``[B, T, 3, H, W]``."""
        dtype = next(self.model.visual_encoder.parameters()).dtype
        return self.model.encode_video(clips.to(self.model.device, dtype))

    def log_probabilities(self, video: Tensor, prompts: Sequence[Sequence[int]]) -> Tensor:
        """The labels' log-probabilities ``[B, Q, C]`` (float32, CPU, nats) for Q questions about each of B clips.

        Args:
            video: video tokens ``[B, V, hidden]``.
            prompts: token ids of each question's prompt.
        """
        scores = score_labels(self.model, [prompts] * len(video), video, self.trie, self.mask).float()
        ranking, _ = normalise_scores(scores, self.trie, self.score_norm)
        return ranking.log_softmax(dim=-1).view(len(video), len(prompts), -1).cpu()

    def ask(self, clips: Sequence[Tensor], prompts: Sequence[Sequence[int]]) -> Tensor:
        """The log-probabilities ``[B, Q, C]`` of Q questions about each of B clips, some clips at a time."""
        parts = []
        for start in range(0, len(clips), CLIPS_PER_PASS):
            part = torch.stack(list(clips[start : start + CLIPS_PER_PASS]))
            parts.append(self.log_probabilities(self.encode(part), prompts))
        return torch.cat(parts)


def occlusion_drops(
    scorer: LabelScorer, clip: Tensor, prompts: Sequence[Sequence[int]], labels: Sequence[int], fill: Fill
) -> list[Map]:
    """The occlusion map of each question about a clip; the windows are encoded once for all questions.

    Args:
        scorer: scores the labels.
        clip: ``[T, 3, H, W]`` float, normalised.
        prompts: token ids of each question's prompt.
        labels: the label of each question whose log-probability is watched.
        fill: what covers the windows.

    Returns:
        Maps ``[GRID, GRID]``: how far the label's log-probability drops, in nats, if the cell is covered (negative
        where it rises), as the mean over the windows that cover it.
    """
    clips = [clip, *(cover_boxes(clip, [box], fill) for box in window_boxes())]
    log_probs = scorer.ask(clips, prompts)
    watched = log_probs[:, range(len(labels)), list(labels)]
    drops = watched[0] - watched[1:]
    return [window_map(drops[:, question].tolist()) for question in range(len(labels))]


def _pixels(box: Box, height: int, width: int) -> tuple[int, int, int, int]:
    """Top, bottom, left and right of the pixels that a box touches; an edge on a pixel's edge does not touch it."""
    near = 1e-6
    return (
        math.floor(box.top * height + near),
        min(height, math.ceil(box.bottom * height - near)),
        math.floor(box.left * width + near),
        min(width, math.ceil(box.right * width - near)),
    )


def _interpolate(frames: Tensor, top: int, bottom: int, left: int, right: int) -> None:
    """Fills an area of frames ``[T, 3, H, W]`` from the pixels around it, in place; with 0 if there are none.

    0 is the mean colour that frames are normalised with.
    """
    height, width = frames.shape[-2:]
    rows = torch.arange(top, bottom, device=frames.device, dtype=frames.dtype)[:, None]
    columns = torch.arange(left, right, device=frames.device, dtype=frames.dtype)[None, :]
    total = frames.new_zeros(1)
    weight_sum = frames.new_zeros(1)
    for is_inside, pixels, distance in (
        (top > 0, frames[:, :, top - 1 : top, left:right], rows - (top - 1)),
        (bottom < height, frames[:, :, bottom : bottom + 1, left:right], bottom - rows),
        (left > 0, frames[:, :, top:bottom, left - 1 : left], columns - (left - 1)),
        (right < width, frames[:, :, top:bottom, right : right + 1], right - columns),
    ):
        if is_inside:
            total = total + pixels / distance
            weight_sum = weight_sum + 1 / distance
    filled = total / weight_sum if weight_sum.any() else frames.new_zeros(1)
    frames[:, :, top:bottom, left:right] = filled
