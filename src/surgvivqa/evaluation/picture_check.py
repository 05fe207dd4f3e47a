"""Does the model use the picture? The same questions asked on black frames and on frames of another video.

Questions alone tell much of the answer (template, plausible objects), so an accuracy says little without the accuracy
that the same model has without the picture. Black frames show what the question alone gives; frames of another video
also show what a plausible but wrong picture gives. The share of answers that change is the Image Sensitivity of
arXiv 2603.03437. A model that ignores the picture changes no answer.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from surgvivqa.data.frame_views import ONE_VIDEO, Shown, show_black, show_other_videos
from surgvivqa.data.frames import FrameStore
from surgvivqa.data.splits import base_video
from surgvivqa.data.ssgqa import FrameQuestions
from surgvivqa.evaluation.ask_again import AskAgain, select_predictions
from surgvivqa.evaluation.estimates import Counts, Estimate, count_by_video, estimate, format_interval, format_percent
from surgvivqa.evaluation.metrics import TYPE_GROUPS
from surgvivqa.evaluation.predictions import Prediction

SEED = 0
"""Seed of the draw of other videos' frames."""


@dataclass(frozen=True)
class WithoutPicture:
    """The answers on pictures that do not belong to the questions, beside those on the questions' own frames.

    Attributes:
        acc: accuracy on these pictures.
        gain: accuracy on the own frames minus ``acc``, paired by question.
        share: ``gain`` divided by the accuracy on the own frames: the share of the accuracy that the picture gives. It
            is negative where the own frames are worse, and not defined where their accuracy is 0.
        changed: share of the answers that differ from those on the own frames, right or wrong (Image Sensitivity).
    """

    acc: Estimate
    gain: Estimate
    share: Estimate
    changed: Estimate


@dataclass(frozen=True)
class PictureFigures:
    """The figures of a group of questions.

    Attributes:
        n: number of questions.
        videos: number of their videos.
        own: accuracy on the questions' own frames.
        black: the same questions on black frames.
        shuffled: the same questions on frames of another video; None if there is only one video.
    """

    n: int
    videos: int
    own: Estimate
    black: WithoutPicture
    shuffled: WithoutPicture | None


@dataclass(frozen=True)
class PictureCheck:
    """The section ``picture`` of ``metrics.json``.

    Attributes:
        overall: the figures of all questions that were asked again.
        by_type: the figures by type of template question, and by the authors' groups of types, as in ``by_type``.
        distinct: number of distinct questions among them; an answer on black frames depends on the question alone.
        seed: seed of the draw of other videos' frames.
        note: why there are no figures for frames of another video; empty if there are.
    """

    overall: PictureFigures
    by_type: dict[str, PictureFigures]
    distinct: int
    seed: int
    note: str = ""


def check_picture(
    ask: AskAgain,
    sample: Sequence[FrameQuestions],
    sources: Iterable[tuple[str, int]],
    store: FrameStore,
    known: Mapping[Shown, Sequence[Prediction]],
) -> PictureCheck | None:
    """Asks the questions of ``sample`` on the pictures for which there are no predictions yet, and compares.

    Args:
        ask: asks the model; every process must call this function.
        sample: whole frames with their questions.
        sources: video and number of the frames that are shown in place of others.
        store: the questions' own frames.
        known: predictions that are known, by what was shown; questions that are missing in them are left out.

    Returns:
        The comparison; None if no question was answered on every kind of picture.

    Raises:
        FrameError: a frame cannot be used, and they are not skipped.
    """
    sources = list(sources)
    # Frames are drawn for the videos of the sample, each of which needs another one.
    several = len({base_video(video) for video, _ in sources}) > 1
    own = known.get("own") or ask(sample, store)
    black = known.get("black") or ask(sample, show_black(store))
    answers = [own, black]
    if several:
        answers.append(known.get("shuffled") or ask(sample, show_other_videos(store, sources, SEED)))
    rows = list(select_predictions(sample, *answers))
    if not rows:
        return None
    groups: dict[str, list[tuple[Prediction, ...]]] = {}
    for row in rows:
        if row[0].reasoning and row[0].type:
            groups.setdefault(row[0].type, []).append(row)
            if row[0].type in TYPE_GROUPS:
                groups.setdefault(TYPE_GROUPS[row[0].type], []).append(row)
    return PictureCheck(
        overall=_compute_figures(rows),
        by_type={name: _compute_figures(groups[name]) for name in sorted(groups)},
        distinct=len({row[0].question for row in rows}),
        seed=SEED,
        note="" if several else f"{ONE_VIDEO}.",
    )


def _compute_figures(rows: Sequence[tuple[Prediction, ...]]) -> PictureFigures:
    """The figures of questions, each with its predictions on own, black and other frames."""
    own, *others = zip(*rows, strict=True)
    columns = [[p.correct for p in own]]
    for other in others:
        columns.append([p.correct for p in other])
        columns.append([p.prediction != q.prediction for p, q in zip(own, other, strict=True)])
    counts = count_by_video([p.video for p in own], columns)
    found = [_compare(counts, 2 + 2 * index) for index in range(len(others))]
    return PictureFigures(
        n=len(rows),
        videos=len(counts),
        own=estimate(counts, lambda c: c[..., 1] / c[..., 0], 0, 1),
        black=found[0],
        shuffled=found[1] if len(found) > 1 else None,
    )


def _compare(counts: Counts, hits: int) -> WithoutPicture:
    """The figures of one kind of picture, whose correct answers and changes are columns ``hits`` and ``hits + 1``."""
    return WithoutPicture(
        acc=estimate(counts, lambda c: c[..., hits] / c[..., 0], 0, 1),
        gain=estimate(counts, lambda c: (c[..., 1] - c[..., hits]) / c[..., 0], -1, 1),
        share=estimate(
            counts, lambda c: np.where(c[..., 1] > 0, (c[..., 1] - c[..., hits]) / c[..., 1], np.nan), most=1
        ),
        changed=estimate(counts, lambda c: c[..., hits + 1] / c[..., 0], 0, 1),
    )


def picture_verdicts(check: PictureCheck) -> list[str]:
    """What the check says about the model, in sentences, the most important one first."""
    figures = check.overall
    asked = " of ".join(_count(number, noun) for number, noun in ((figures.n, "question"), (figures.videos, "video")))
    sentences = [
        _gain_sentence(figures, asked),
        f"On black frames the model gives the same answer to {_same(figures.black)}% of these questions"
        + (f", on frames of another video to {_same(figures.shuffled)}%." if figures.shuffled else "."),
    ]
    if figures.shuffled is not None and _is_above_zero(figures.black.gain):
        gain = figures.shuffled.gain
        if _is_above_zero(gain):
            sentences.append(
                f"A frame of another video costs {format_percent(gain)} points of accuracy (95% interval "
                f"{format_interval(gain)}), so the model reads this frame and not frames in general."
            )
        else:
            sentences.append(
                f"Frames of another video do not clearly cost accuracy ({format_percent(figures.shuffled.acc)}%; "
                f"difference {format_percent(gain)} points, 95% interval {format_interval(gain)}), so it is not shown "
                f"that the model reads this frame and not frames in general."
            )
    if check.note:
        sentences.append(check.note)
    return sentences


def _gain_sentence(figures: PictureFigures, asked: str) -> str:
    own, black = format_percent(figures.own), format_percent(figures.black.acc)
    gain = figures.black.gain
    compared = f"accuracy {own}% on the questions' own frames, {black}% on black ones ({asked}"
    if gain.low is not None:
        compared += f"; difference {format_percent(gain)} points, 95% interval {format_interval(gain)}"
    else:
        compared += "; one video gives no interval"
    compared += ")"
    if figures.black.changed.value == 0:
        return f"The model ignores the picture: no answer changes on black frames; {compared}."
    if gain.value is not None and gain.value <= 0:
        return f"The picture does not help the model: {compared}."
    if not _is_above_zero(gain):
        return f"It is not shown that the picture helps the model: {compared}."
    return f"The picture gives {format_percent(figures.black.share)}% of the accuracy: {compared}."


def _is_above_zero(found: Estimate) -> bool:
    """Whether the figure's whole interval is above 0; not without an interval."""
    return found.low is not None and found.low > 0


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def _same(compared: WithoutPicture) -> str:
    return "-" if compared.changed.value is None else f"{100 * (1 - compared.changed.value):.1f}"


def format_picture(check: PictureCheck) -> str:
    """The check as a table of accuracies and changed answers in %, by type of question."""
    figures = check.overall
    head = f"{'other pictures':<18}{'n':>7}{'own':>8}{'black':>8}{'other':>8}{'share':>8}{'changed':>16}"
    lines = [head, _format_row("all", figures)]
    lines += [_format_row(name, group) for name, group in check.by_type.items() if name not in TYPE_GROUPS.values()]
    lines.append("accuracy on own, black and another video's frames; share: (own - black) / own; changed: black, other")
    return "\n".join(lines)


def _format_row(name: str, figures: PictureFigures) -> str:
    black, other = figures.black, figures.shuffled
    acc, changed = ("-", "-") if other is None else (format_percent(other.acc), format_percent(other.changed))
    return (
        f"{name:<18}{figures.n:>7}{format_percent(figures.own):>8}{format_percent(black.acc):>8}{acc:>8}"
        f"{format_percent(black.share):>8}{format_percent(black.changed):>8}{changed:>8}"
    )
