"""Confusion matrices, of which all metrics, their intervals and their resamples are computed."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from surgvivqa.data.labels import LABELS
from surgvivqa.data.splits import base_video
from surgvivqa.evaluation.predictions import Prediction


def confusion_matrix(truth: Sequence[int], prediction: Sequence[int]) -> NDArray[np.int64]:
    """Counts questions by true label (row) and predicted label (column): ``[C, C]`` int64."""
    size = len(LABELS)
    cells = np.asarray(truth, np.int64) * size + np.asarray(prediction, np.int64)
    return np.bincount(cells, minlength=size * size).reshape(size, size)


def compute_confusion_by_video(predictions: Sequence[Prediction]) -> tuple[list[str], NDArray[np.int64]]:
    """Counts the confusion matrix of each video. ``VID02_clean`` is a copy of ``VID02`` and counts as the same video.

    Returns:
        The names of the videos, sorted, and ``[V, C, C]`` int64: questions by video, true label, predicted label.
    """
    originals = {video: base_video(video) for video in {p.video for p in predictions}}
    names = sorted(set(originals.values()))
    index = {video: names.index(name) for video, name in originals.items()}
    size = len(LABELS)
    cells = [(index[p.video] * size + p.answer) * size + p.prediction for p in predictions]
    counts = np.bincount(np.array(cells, np.int64), minlength=len(names) * size * size)
    return names, counts.reshape(len(names), size, size)
