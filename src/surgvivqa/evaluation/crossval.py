"""The section ``crossval`` of ``metrics.json``: which folds of a cross-validation an evaluation is about."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from surgvivqa.evaluation.metrics import METRICS, Metrics


@dataclass(frozen=True)
class FoldResult:
    """The results of one fold.

    Attributes:
        fold: the fold, from 1.
        videos: its test videos.
        metrics: the metrics of their questions.
    """

    fold: int
    videos: list[str]
    metrics: Metrics


@dataclass(frozen=True)
class CrossValidation:
    """The folds of a cross-validation that an evaluation is about.

    Attributes:
        fold: the fold whose test videos were evaluated; None if the evaluation is about all folds.
        folds: the results by fold, of an evaluation of all folds.
        mean: mean of each metric over the folds.
        spread: its standard deviation over the folds (of a sample, with N - 1).
    """

    fold: int | None
    folds: list[FoldResult] = field(default_factory=list)
    mean: dict[str, float] = field(default_factory=dict)
    spread: dict[str, float] = field(default_factory=dict)

    @classmethod
    def of_all(cls, folds: Sequence[FoldResult]) -> "CrossValidation":
        """The section of an evaluation of all folds, at least two."""
        values = {name: [getattr(fold.metrics, name) for fold in folds] for name in METRICS}
        return cls(
            fold=None,
            folds=list(folds),
            mean={name: float(np.mean(found)) for name, found in values.items()},
            spread={name: float(np.std(found, ddof=1)) for name, found in values.items()},
        )

    @classmethod
    def of_fold(cls, fold: int | None) -> "CrossValidation | None":
        """The section of an evaluation of one fold; None where the split is not a fold."""
        return None if fold is None else cls(fold)
