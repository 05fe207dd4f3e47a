"""The section ``wordings``: the same questions in several wordings, as in SurgCheck's protocol.

A data set names the wording of each question and what the wordings of one question share (``pair_id``). A model that
reads the picture answers both wordings alike; one that guesses from the words does not. The unit of the interval is the
video (``evaluation.paired``).
"""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

from surgvivqa.evaluation.estimates import Estimate, count_by_video, estimate, format_interval, format_percent
from surgvivqa.evaluation.paired import PairedDifference, compare_accuracy
from surgvivqa.evaluation.predictions import Prediction


@dataclass(frozen=True)
class WordingFigures:
    """The figures of the pairs of one group, as fractions.

    Attributes:
        n: number of pairs.
        reference: accuracy on the reference wording.
        other: accuracy on the other wording.
        both: share of the pairs with both answers right: what is robust to the wording.
        changed: share of the pairs whose two answers differ.
    """

    n: int
    reference: Estimate
    other: Estimate
    both: Estimate
    changed: Estimate


@dataclass(frozen=True)
class WordingPair:
    """Two wordings of the same questions.

    Attributes:
        reference: name of the reference wording.
        other: name of the other wording.
        overall: the figures of all pairs.
        difference: accuracy on the other wording minus that on the reference, paired by question, over videos.
            ``right_to_wrong`` counts the questions that are right in the reference wording only.
        by_type: the figures of the pairs of each type.
        unpaired: number of questions of the two wordings that have no partner, one with another true answer, or
            several that might be it.
    """

    reference: str
    other: str
    overall: WordingFigures
    difference: PairedDifference
    by_type: dict[str, WordingFigures]
    unpaired: int


@dataclass(frozen=True)
class Wordings:
    """The section ``wordings`` of ``metrics.json``.

    Attributes:
        pairs: the reference wording beside each other one.
    """

    pairs: list[WordingPair]


def compute_wordings(predictions: Sequence[Prediction], order: Sequence[str] = ()) -> Wordings | None:
    """Compares the answers to the wordings of the same questions.

    Args:
        predictions: the predictions, in any order.
        order: the wordings, the reference first; others follow in the order of their predictions.

    Returns:
        The section; None if no question has two wordings.
    """
    by_wording: dict[str, dict[tuple[str, str], Prediction]] = {name: {} for name in order}
    counts: dict[str, int] = {}
    unclear = set[tuple[str, str]]()  # pairs with several questions of a wording, of which none is known to be meant
    for prediction in predictions:
        if prediction.wording is not None and prediction.pair_id is not None:
            found = by_wording.setdefault(prediction.wording, {})
            key = prediction.video, prediction.pair_id
            if found.setdefault(key, prediction).question != prediction.question:
                unclear.add(key)
            counts[prediction.wording] = counts.get(prediction.wording, 0) + 1
    names = [name for name, found in by_wording.items() if found]
    rows = []
    for other in names[1:]:
        first, second = by_wording[names[0]], by_wording[other]
        matched = [(first[key], second[key]) for key in first if key in second and key not in unclear]
        matched = [(old, new) for old, new in matched if old.answer == new.answer]
        if matched:
            unpaired = counts[names[0]] + counts[other] - 2 * len(matched)
            rows.append(_compare(names[0], other, matched, unpaired))
    return Wordings(rows) if rows else None


def _compare(
    reference: str, other: str, matched: Sequence[tuple[Prediction, Prediction]], unpaired: int
) -> WordingPair:
    kinds = sorted({old.type for old, _ in matched if old.type})
    return WordingPair(
        reference=reference,
        other=other,
        overall=_figures(matched),
        difference=compare_accuracy(*(_under_one_name([pair[i] for pair in matched]) for i in (1, 0))),
        by_type={kind: _figures([pair for pair in matched if pair[0].type == kind]) for kind in kinds},
        unpaired=unpaired,
    )


def _under_one_name(predictions: Sequence[Prediction]) -> list[Prediction]:
    """The predictions with the pair's id as their question, by which the two wordings are matched."""
    return [dataclasses.replace(p, question=p.pair_id or "", frame=0) for p in predictions]


def _figures(matched: Sequence[tuple[Prediction, Prediction]]) -> WordingFigures:
    columns = [
        [old.correct for old, _ in matched],
        [new.correct for _, new in matched],
        [old.correct and new.correct for old, new in matched],
        [old.prediction != new.prediction for old, new in matched],
    ]
    counts = count_by_video([old.video for old, _ in matched], columns)
    found = [estimate(counts, lambda c, i=i: c[..., i] / c[..., 0], 0, 1) for i in range(1, 5)]  # type: ignore[misc]
    return WordingFigures(len(matched), *found)


def format_wordings(wordings: Wordings) -> str:
    """The section as tables in %."""
    parts = []
    for pair in wordings.pairs:
        head = f"{'wordings':<28}{'pairs':>7}{pair.reference[:14]:>15}{pair.other[:14]:>15}{'both':>7}{'changed':>9}"
        lines = [head, _row("all", pair.overall)]
        lines += [_row(kind, figures) for kind, figures in pair.by_type.items()]
        found = pair.difference
        gain = f"{100 * found.difference:+.1f}"
        known = "no interval from a single video"
        if found.low is not None and found.high is not None:
            known = f"95% interval {100 * found.low:+.1f} to {100 * found.high:+.1f} over {found.videos} videos"
        lines.append(
            f"{pair.other} minus {pair.reference}: {gain} points ({known}); {found.right_to_wrong} answers are right "
            f"in {pair.reference} only, {found.wrong_to_right} in {pair.other} only"
        )
        both = pair.overall.both
        lines.append(f"robust to wording (both right): {format_percent(both)}%{_known(both)}")
        if pair.unpaired:
            lines.append(f"{pair.unpaired} questions without a partner of the same true answer are left out")
        parts.append("\n".join(lines))
    return "\n\n".join(parts)


def _known(figure: Estimate) -> str:
    return "" if figure.interval is None else f" ({format_interval(figure)})"


def _row(name: str, figures: WordingFigures) -> str:
    cells = (figures.reference, figures.other, figures.both, figures.changed)
    widths = (15, 15, 7, 9)
    shown = "".join(f"{format_percent(cell):>{width}}" for cell, width in zip(cells, widths, strict=True))
    return f"{name[:27]:<28}{figures.n:>7}{shown}"
