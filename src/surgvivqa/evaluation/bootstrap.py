"""95% intervals of the five figures by a bootstrap over videos.

Questions of one video share a patient, a camera and neighbouring frames: videos are independent draws, questions not.
A resample draws as many videos as there are, with replacement, and takes all questions of each (the cluster bootstrap:
Davison and Hinkley, Bootstrap Methods and their Application, 1997, section 3.8). The interval is the middle 95% of the
resamples' figures (Efron's percentile interval).
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from surgvivqa.data.labels import LABEL_INDEX, LABELS, parse_label
from surgvivqa.data.splits import base_video

FIGURES = ("acc", "mAP", "mAR", "mAF1", "wF1")
METHOD = "percentile bootstrap over videos"
LEVEL = 0.95
RESAMPLES = 1000
SEED = 0


def confusion_by_video(records: Sequence[dict[str, Any]]) -> tuple[list[str], NDArray[np.int64]]:
    """Confusion matrices from prediction records (``video``, ``answer``, ``prediction``).

    A copy under another name (``VID02_clean``) is the same video.

    Returns:
        The videos in order of their names, and ``[V, 51, 51]`` int64: questions by video, true label, predicted label.
    """
    names = sorted({base_video(r["video"]) for r in records})
    place, size = {name: i for i, name in enumerate(names)}, len(LABELS)
    cells = np.empty(len(records), np.int64)
    for i, record in enumerate(records):
        truth = parse_label(record["answer"])
        assert truth is not None
        cells[i] = (place[base_video(record["video"])] * size + truth) * size + LABEL_INDEX[record["prediction"]]
    return names, np.bincount(cells, minlength=len(names) * size * size).reshape(len(names), size, size)


def resampled_videos(videos: int, resamples: int = RESAMPLES, seed: int = SEED) -> NDArray[np.int64]:
    """``[R, V]`` int64: which videos each resample draws, a function of the seed alone."""
    return np.random.default_rng(seed).integers(0, videos, (resamples, videos))


def resampled_figures(
    confusion: NDArray[np.int64], resamples: int = RESAMPLES, seed: int = SEED
) -> dict[str, NDArray[np.float64]]:
    """The five figures of every resample.

    Args:
        confusion: ``[V, 51, 51]`` as ``confusion_by_video`` gives it; every video has a question.
        resamples: R, how many.
        seed: of the draw.

    Returns:
        Figure to ``[R]`` float64 fractions, each equal to ``compute_metrics`` on the resample's questions.
    """
    drawn = resampled_videos(len(confusion), resamples, seed)
    times = np.stack([np.bincount(row, minlength=len(confusion)) for row in drawn])
    # The figures need the diagonal and the two margins alone: [V, 51] each instead of [V, 51, 51].
    hits = times @ np.diagonal(confusion, axis1=1, axis2=2)
    support, predicted = times @ confusion.sum(2), times @ confusion.sum(1)
    present = support > 0
    classes, questions = present.sum(1), support.sum(1)

    def ratio(above: NDArray[np.int64], below: NDArray[np.int64]) -> NDArray[np.float64]:
        return np.divide(above, below, out=np.zeros(above.shape), where=present & (below > 0))

    f1 = ratio(2 * hits, support + predicted)
    return {
        "acc": hits.sum(1) / questions,
        "mAP": ratio(hits, predicted).sum(1) / classes,
        "mAR": ratio(hits, support).sum(1) / classes,
        "mAF1": f1.sum(1) / classes,
        "wF1": (f1 * support).sum(1) / questions,
    }


def bootstrap_intervals(
    records: Sequence[dict[str, Any]], resamples: int = RESAMPLES, seed: int = SEED
) -> dict[str, Any] | None:
    """95% intervals of ``acc``, ``mAP``, ``mAR``, ``mAF1``, ``wF1``, each ``[low, high]`` in fractions.

    With them come ``method``, ``level``, ``resamples``, ``seed`` and ``videos``. None where there are fewer than two
    videos, since nothing then tells how videos differ.
    """
    names, confusion = confusion_by_video(records)
    if len(names) < 2:
        return None
    tails = ((1 - LEVEL) / 2, (1 + LEVEL) / 2)
    found = resampled_figures(confusion, resamples, seed)
    ends = {name: [float(end) for end in np.quantile(found[name], tails)] for name in FIGURES}
    return {**ends, "method": METHOD, "level": LEVEL, "resamples": resamples, "seed": seed, "videos": len(names)}
