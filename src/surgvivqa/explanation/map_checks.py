"""Checks of maps: a model with random weights, rank correlation, and the pointing game."""

import copy
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from surgvivqa.explanation.frame_area import Map
from surgvivqa.explanation.scene_graphs import Box
from surgvivqa.model.modeling import SurgViVQAModel


def randomise_weights(model: SurgViVQAModel, seed: int = 0) -> SurgViVQAModel:
    """A copy of a model in which the values of every parameter are shuffled.

    A map that does not change says nothing about what the model has learned (Adebayo et al., NeurIPS 2018, arXiv
    1810.03292). Shuffling keeps the scale of every tensor, so that activations stay in their range, for any decoder and
    any adapters.

    Args:
        model: the model; it is not changed.
        seed: seed of the order.
    """
    random = copy.deepcopy(model).eval().requires_grad_(False)
    generator = torch.Generator().manual_seed(seed)
    for parameter in random.parameters():
        order = torch.randperm(parameter.numel(), generator=generator).to(parameter.device)
        parameter.data = parameter.data.flatten()[order].view_as(parameter.data)
    return random


def rank_correlation(first: Map, second: Map) -> float | None:
    """Spearman's rank correlation of two maps of one shape; None if a map has the same value everywhere."""
    ranks = np.stack([_ranks(values.ravel()) for values in (first, second)])
    if (np.ptp(ranks, axis=1) == 0).any():
        return None
    centred = ranks - ranks.mean(axis=1, keepdims=True)
    return float((centred[0] @ centred[1]) / np.sqrt((centred[0] @ centred[0]) * (centred[1] @ centred[1])))


def peak(values: Map) -> tuple[float, float]:
    """The centre of the cell with the largest value, the first of equal ones: x and y as fractions of the map."""
    row, column = np.unravel_index(int(values.argmax()), values.shape)
    return (float(column) + 0.5) / values.shape[1], (float(row) + 0.5) / values.shape[0]


def points_into(values: Map, boxes: Sequence[Box]) -> bool:
    """The pointing game (Zhang et al., ECCV 2016 and IJCV 2018): whether the largest value lies in one of the boxes.

    A map with the same value everywhere points nowhere.
    """
    return bool(np.ptp(values) > 0) and any(box.contains(*peak(values)) for box in boxes)


def covered_share(boxes: Sequence[Box], of: Box, resolution: int = 256) -> float:
    """The share of an area that boxes cover together: the accuracy of pointing at random, on a raster."""
    steps = (np.arange(resolution) + 0.5) / resolution
    x, y = of.left + steps * (of.right - of.left), of.top + steps * (of.bottom - of.top)
    covered = np.zeros((resolution, resolution), bool)
    for box in boxes:
        covered |= np.outer((y >= box.top) & (y < box.bottom), (x >= box.left) & (x < box.right))
    return float(covered.mean())


def _ranks(values: NDArray[np.float32]) -> NDArray[np.float64]:
    """Ranks from 0; equal values share their mean rank."""
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    return (last - (counts + 1) / 2)[inverse.ravel()]
