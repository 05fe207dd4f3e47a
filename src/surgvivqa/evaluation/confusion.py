"""Confusion matrices, of which all metrics, their intervals and their resamples are computed."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from surgvivqa.data.splits import base_video
from surgvivqa.evaluation.predictions import Prediction, label_set_of


def confusion_matrix(truth: Sequence[int], prediction: Sequence[int]) -> NDArray[np.int64]:
    """Counts questions by true (row) and predicted label (column): ``[C, C]`` int64, up to the last that occurs."""
    size = 1 + max(max(truth, default=-1), max(prediction, default=-1))
    cells = np.asarray(truth, np.int64) * size + np.asarray(prediction, np.int64)
    return np.bincount(cells, minlength=size * size).reshape(size, size)


@dataclass(frozen=True)
class VideoCells:
    """The cell of each question in the confusion matrix of its video.

    ``VID02_clean`` is a copy of ``VID02`` and counts as the same video.

    Attributes:
        videos: the names of the videos, sorted.
        cells: ``[N]`` int64, index into ``[V, C, C]``: video, true label, predicted label.
        num_labels: C.
    """

    videos: list[str]
    cells: NDArray[np.int64]
    num_labels: int

    @classmethod
    def of_predictions(cls, predictions: Sequence[Prediction]) -> "VideoCells":
        """The cells of predictions, in their order."""
        originals = {video: base_video(video) for video in {p.video for p in predictions}}
        names = sorted(set(originals.values()))
        index = {video: names.index(name) for video, name in originals.items()}
        size = len(label_set_of(predictions))
        cells = [(index[p.video] * size + p.answer) * size + p.prediction for p in predictions]
        return cls(names, np.array(cells, np.int64), size)

    def count(self, selected: Sequence[int] | slice = slice(None)) -> NDArray[np.int64]:
        """The confusion matrices of the videos that have a selected question: ``[V, C, C]`` int64."""
        size = self.num_labels
        counts = np.bincount(self.cells[selected], minlength=len(self.videos) * size * size)
        by_video = counts.reshape(len(self.videos), size, size)
        return by_video[by_video.any((1, 2))]


def compute_confusion_by_video(predictions: Sequence[Prediction]) -> tuple[list[str], NDArray[np.int64]]:
    """Counts the confusion matrix of each video.

    Returns:
        The names of the videos, sorted, and ``[V, C, C]`` int64: questions by video, true label, predicted label.
    """
    found = VideoCells.of_predictions(predictions)
    return found.videos, found.count()
