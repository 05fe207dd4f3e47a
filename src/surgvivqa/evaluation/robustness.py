"""Accuracy on corrupted pictures: the same questions on the same frames, by corruption and severity."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass

from surgvivqa.data.corruptions import Corruption
from surgvivqa.data.frame_views import show_corrupted
from surgvivqa.data.frames import FrameStore
from surgvivqa.data.ssgqa import FrameQuestions
from surgvivqa.evaluation.ask_again import AskAgain, select_predictions
from surgvivqa.evaluation.estimates import Estimate, count_by_video, estimate, format_interval, format_percent
from surgvivqa.evaluation.predictions import Prediction

log = logging.getLogger("surgvivqa")
SEED = 0
"""Seed of what the corruptions draw."""


@dataclass(frozen=True)
class CorruptionRow:
    """The answers under one corruption.

    Attributes:
        corruption: its name (``data.corruptions.CORRUPTIONS``).
        severity: from 1 to 5.
        n: number of questions.
        own: accuracy of the same questions on the frames as they are.
        acc: accuracy on the corrupted frames, with its interval over videos.
        drop: ``own`` minus ``acc``, paired by question, with its interval over videos.
        changed: share of the answers that change.
    """

    corruption: str
    severity: int
    n: int
    own: float
    acc: Estimate
    drop: Estimate
    changed: Estimate


@dataclass(frozen=True)
class Robustness:
    """The section ``robustness`` of ``metrics.json``.

    Attributes:
        n: number of questions that were asked again.
        frames: number of their frames.
        videos: number of their videos.
        own: accuracy on the frames as they are.
        seed: seed of what the corruptions draw.
        rows: one for each corruption and severity.
    """

    n: int
    frames: int
    videos: int
    own: Estimate
    seed: int
    rows: list[CorruptionRow]


def measure_robustness(
    ask: AskAgain,
    sample: Sequence[FrameQuestions],
    store: FrameStore,
    own: Sequence[Prediction],
    corruptions: Sequence[Corruption],
) -> Robustness | None:
    """Asks the questions of ``sample`` on corrupted frames.

    Args:
        ask: asks the model; every process must call this function.
        sample: whole frames with their questions.
        store: the frames as they are.
        own: the predictions on these; questions that are missing are left out.
        corruptions: the corruptions, in the order of the rows.

    Returns:
        The figures; None if there is no prediction for a question of ``sample``.

    Raises:
        FrameError: a frame cannot be used, and they are not skipped.
    """
    known = [prediction for (prediction,) in select_predictions(sample, own)]
    if not known:
        return None
    counts = count_by_video([p.video for p in known], [[p.correct for p in known]])
    return Robustness(
        n=len(known),
        frames=len({(p.video, p.frame) for p in known}),
        videos=len(counts),
        own=estimate(counts, lambda c: c[..., 1] / c[..., 0], 0, 1),
        seed=SEED,
        rows=[_measure(ask, sample, store, known, corruption) for corruption in corruptions],
    )


def _measure(
    ask: AskAgain,
    sample: Sequence[FrameQuestions],
    store: FrameStore,
    known: Sequence[Prediction],
    corruption: Corruption,
) -> CorruptionRow:
    row = _compute_row(corruption, sample, known, ask(sample, show_corrupted(store, corruption, SEED)))
    log.info("%s: accuracy %s%%, without corruption %.1f%%", corruption, format_percent(row.acc), 100 * row.own)
    return row


def _compute_row(
    corruption: Corruption,
    sample: Sequence[FrameQuestions],
    known: Sequence[Prediction],
    corrupted: Sequence[Prediction],
) -> CorruptionRow:
    pairs = list(select_predictions(sample, known, corrupted))
    columns = [
        [own.correct for own, _ in pairs],
        [other.correct for _, other in pairs],
        [own.prediction != other.prediction for own, other in pairs],
    ]
    counts = count_by_video([own.video for own, _ in pairs], columns)
    total = counts.sum(0)
    return CorruptionRow(
        corruption=corruption.name,
        severity=corruption.severity,
        n=len(pairs),
        own=float(total[1] / total[0]),
        acc=estimate(counts, lambda c: c[..., 2] / c[..., 0], 0, 1),
        drop=estimate(counts, lambda c: (c[..., 1] - c[..., 2]) / c[..., 0], -1, 1),
        changed=estimate(counts, lambda c: c[..., 3] / c[..., 0], 0, 1),
    )


def format_robustness(found: Robustness) -> str:
    """The section as a table in %: accuracy, drop with its interval, changed answers."""
    lines = [
        f"{'corrupted frames':<18}{'n':>7}{'acc':>8}{'drop':>8}{'95% interval':>18}{'changed':>9}",
        f"{'none':<18}{found.n:>7}{format_percent(found.own):>8}",
    ]
    for row in found.rows:
        name = f"{row.corruption}:{row.severity}"
        lines.append(
            f"{name:<18}{row.n:>7}{format_percent(row.acc):>8}{format_percent(row.drop):>8}"
            f"{format_interval(row.drop):>18}{format_percent(row.changed):>9}"
        )
    return "\n".join(lines)
