"""Section ``evidence``: whether answers depend on the object that is asked about, and which maps point at it.

``explanation.evidence`` measures the questions; this file summarises them. Shares and differences are computed per
video first, and their mean has Student's t interval over videos.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from surgvivqa.data.splits import base_video
from surgvivqa.evaluation.intervals import student_interval


@dataclass(frozen=True)
class MethodResult:
    """One method's map of one question.

    Attributes:
        points: whether its largest value lies in a box of the asked objects.
        random_points: the same for the map of a model with random weights.
        other_points: the share of the maps of other questions about the same frame that point into these boxes; None
            if the frame has no other question about other objects.
        correlation: rank correlation of the map with that of the model with random weights; None if one is constant.
    """

    points: bool
    random_points: bool
    other_points: float | None
    correlation: float | None


@dataclass(frozen=True)
class EvidenceRecord:
    """What was measured for one question.

    Attributes:
        video: name of the video.
        frame: number of the frame.
        question: the question.
        asked: what it asks: ``count``, ``exist``, ``color``, ``type``, ``component``, ``location`` or ``verb``.
        label: index of the predicted label, whose log-probability is watched.
        correct: whether it is the true one.
        probability: its probability.
        changed_asked: whether the answer changes if the asked objects are covered.
        changed_elsewhere: the share of equal areas elsewhere that change it if they are covered.
        drop_asked: drop of the label's log-probability if the asked objects are covered, in nats.
        drop_elsewhere: its mean over the areas elsewhere.
        chance: the share of the frame that the asked objects' boxes cover.
        centre_points: whether the centre of the frame lies in one of the boxes.
        methods: the maps' results, by method.
    """

    video: str
    frame: int
    question: str
    asked: str
    label: int
    correct: bool
    probability: float
    changed_asked: bool
    changed_elsewhere: float
    drop_asked: float
    drop_elsewhere: float
    chance: float
    centre_points: bool
    methods: Mapping[str, MethodResult]


@dataclass(frozen=True)
class Estimate:
    """A mean over videos.

    Attributes:
        value: the mean of the videos' means.
        low: lower end of its 95% interval (Student's t over videos), cut where the measure ends; None with fewer than
            two videos.
        high: upper end.
    """

    value: float
    low: float | None
    high: float | None


@dataclass(frozen=True)
class EvidenceGroup:
    """The effect of covering objects in the questions of one kind.

    Attributes:
        asked: what they ask.
        n: number of questions.
        changed_asked: share of answers that change if the asked objects are covered.
        changed_elsewhere: the same for equal areas elsewhere.
    """

    asked: str
    n: int
    changed_asked: float
    changed_elsewhere: float


@dataclass(frozen=True)
class PointingResult:
    """The pointing accuracy of one method.

    Attributes:
        method: ``attention``, ``gradient_attention`` or ``occlusion``.
        title: its name in words.
        pointing: share of the questions whose map has its largest value in a box of the asked objects.
        random_weights: the same for the model with random weights.
        other_question: the share for the maps of other questions about the same frame; None if there are none.
        over_chance: ``pointing`` less the share that pointing at random reaches.
        over_random_weights: ``pointing`` less ``random_weights``.
        over_other_question: ``pointing`` less ``other_question``, on the questions that have one; None if none has.
        randomisation_correlation: mean rank correlation with the map of the model with random weights; None if it is
            defined for no question.
        points: whether ``pointing`` is above chance and above random weights, each with an interval above 0; None with
            fewer than two videos.
    """

    method: str
    title: str
    pointing: float
    random_weights: float
    other_question: float | None
    over_chance: Estimate
    over_random_weights: Estimate
    over_other_question: Estimate | None
    randomisation_correlation: float | None
    points: bool | None


@dataclass(frozen=True)
class Evidence:
    """Whether answers depend on the asked object, and which maps point at it.

    Attributes:
        n: number of questions measured.
        videos: number of videos they come from.
        fill: what covered the boxes (``explanation.occlusion``).
        controls: number of equal areas elsewhere for each question.
        left_out: number of questions of the same frames that could not be used, by reason.
        changed_asked: share of answers that change if the asked objects are covered.
        changed_elsewhere: share that change if equal areas elsewhere are covered.
        changed_difference: the paired difference.
        drop_asked: mean drop of the answer's log-probability if the asked objects are covered, in nats.
        drop_elsewhere: the same for equal areas elsewhere.
        drop_difference: the paired difference.
        by_asked: the shares by what is asked.
        chance: pointing accuracy of a random point: the mean share of the frame in the asked objects' boxes.
        centre: pointing accuracy of the frame's centre.
        methods: pointing accuracy of each method.
        verdicts: what follows, in words.
    """

    n: int
    videos: int
    fill: str
    controls: int
    left_out: dict[str, int]
    changed_asked: Estimate
    changed_elsewhere: Estimate
    changed_difference: Estimate
    drop_asked: Estimate
    drop_elsewhere: Estimate
    drop_difference: Estimate
    by_asked: tuple[EvidenceGroup, ...]
    chance: float
    centre: float
    methods: tuple[PointingResult, ...]
    verdicts: tuple[str, ...]


def summarise_evidence(
    records: Sequence[EvidenceRecord],
    titles: Mapping[str, str],
    *,
    fill: str,
    controls: int,
    left_out: Mapping[str, int],
) -> Evidence:
    """Summarises the measured questions.

    Args:
        records: at least one question.
        titles: the methods' names in words, in the order of the result.
        fill: what covered the boxes.
        controls: number of areas elsewhere for each question.
        left_out: number of questions that could not be used, by reason.

    Raises:
        ValueError: there is no question.
    """
    if not records:
        raise ValueError("there is no question to summarise")
    changed = [_estimate(records, m, least, 1) for m, least in zip(_CHANGED, (0, 0, -1), strict=True)]
    drops = [_estimate(records, measure) for measure in _DROPS]
    chance = _estimate(records, lambda r: r.chance).value
    methods = tuple(_pointing(records, method, title) for method, title in titles.items())
    groups = {asked: [r for r in records if r.asked == asked] for asked in sorted({r.asked for r in records})}
    return Evidence(
        n=len(records),
        videos=len({base_video(r.video) for r in records}),
        fill=fill,
        controls=controls,
        left_out=dict(left_out),
        changed_asked=changed[0],
        changed_elsewhere=changed[1],
        changed_difference=changed[2],
        drop_asked=drops[0],
        drop_elsewhere=drops[1],
        drop_difference=drops[2],
        by_asked=tuple(
            EvidenceGroup(asked, len(part), *(float(np.mean([m(r) for r in part])) for m in _CHANGED[:2]))
            for asked, part in groups.items()
        ),
        chance=chance,
        centre=_estimate(records, lambda r: r.centre_points).value,
        methods=methods,
        verdicts=(_dependence_verdict(*changed), *_pointing_verdicts(methods, chance)),
    )


def format_evidence(evidence: Evidence) -> str:
    """Formats the section as lines for the terminal, in %."""
    lines = [
        f"Evidence on {evidence.n} questions of {evidence.videos} video{'s' * (evidence.videos != 1)} "
        f"(areas covered with {evidence.fill}):",
        *(f"  {verdict}" for verdict in evidence.verdicts),
        f"  {'pointing, %':<28}{'model':>8}{'random':>8}{'other':>8}{'chance':>8}{'rho':>8}",
    ]
    for m in evidence.methods:
        other = "-" if m.other_question is None else f"{100 * m.other_question:.1f}"
        rho = "-" if m.randomisation_correlation is None else f"{m.randomisation_correlation:.2f}"
        values = (
            f"{100 * m.pointing:.1f}",
            f"{100 * m.random_weights:.1f}",
            other,
            f"{100 * evidence.chance:.1f}",
            rho,
        )
        lines.append(f"  {m.title:<28}" + "".join(f"{value:>8}" for value in values))
    lines.append(
        "  random: a model with shuffled weights; other: the map of another question about the frame; rho: rank "
        "correlation with random weights"
    )
    return "\n".join(lines)


Measure = Callable[[EvidenceRecord], float]
_CHANGED: tuple[Measure, ...] = (
    lambda r: r.changed_asked,
    lambda r: r.changed_elsewhere,
    lambda r: r.changed_asked - r.changed_elsewhere,
)
_DROPS: tuple[Measure, ...] = (
    lambda r: r.drop_asked,
    lambda r: r.drop_elsewhere,
    lambda r: r.drop_asked - r.drop_elsewhere,
)


def _estimate(
    records: Sequence[EvidenceRecord], measure: Measure, least: float = -math.inf, most: float = math.inf
) -> Estimate:
    """The mean of the videos' means of a measure between ``least`` and ``most``; copies of a video are one video."""
    by_video: dict[str, list[float]] = {}
    for record in records:
        by_video.setdefault(base_video(record.video), []).append(float(measure(record)))
    means = [float(np.mean(values)) for values in by_video.values()]
    low, high = student_interval(means, least, most) or (None, None)
    return Estimate(float(np.mean(means)), low, high)


def _pointing(records: Sequence[EvidenceRecord], method: str, title: str) -> PointingResult:
    def result(record: EvidenceRecord) -> MethodResult:
        return record.methods[method]

    def other(record: EvidenceRecord) -> float:
        share = result(record).other_points
        assert share is not None
        return share

    paired = [r for r in records if result(r).other_points is not None]
    correlations = [c for r in records if (c := result(r).correlation) is not None]
    over_chance = _estimate(records, lambda r: result(r).points - r.chance, -1, 1)
    over_random = _estimate(records, lambda r: result(r).points - result(r).random_points, -1, 1)
    lows = (over_chance.low, over_random.low)
    return PointingResult(
        method=method,
        title=title,
        pointing=_estimate(records, lambda r: result(r).points).value,
        random_weights=_estimate(records, lambda r: result(r).random_points).value,
        other_question=_estimate(paired, other).value if paired else None,
        over_chance=over_chance,
        over_random_weights=over_random,
        over_other_question=_estimate(paired, lambda r: result(r).points - other(r), -1, 1) if paired else None,
        randomisation_correlation=float(np.mean(correlations)) if correlations else None,
        points=None if None in lows else all(low is not None and low > 0 for low in lows),
    )


def _dependence_verdict(asked: Estimate, elsewhere: Estimate, difference: Estimate) -> str:
    shares = (
        f"Covering the asked object changes {100 * asked.value:.0f}% of the answers, covering an equal area elsewhere "
        f"{100 * elsewhere.value:.0f}%"
    )
    if difference.low is None or difference.high is None:
        return f"{shares}; one video gives no interval, so no verdict."
    interval = (
        f"(difference {100 * difference.value:.0f} points, 95% interval {100 * difference.low:.0f} to "
        f"{100 * difference.high:.0f})"
    )
    if difference.low > 0:
        return f"{shares} {interval}: the answers depend on the asked object."
    return f"{shares} {interval}: it is not shown that the answers depend on the asked object."


def _pointing_verdicts(methods: Sequence[PointingResult], chance: float) -> list[str]:
    """Which maps point, which are not shown to, and which point as well for another question."""
    if any(m.points is None for m in methods):
        return ["One video gives no interval, so it cannot be said which maps point at the asked object."]
    sentences = []
    pointing = [m for m in methods if m.points]
    if pointing:
        sentences.append(
            f"On this model {_join([_share(m) for m in pointing])} point{'s' if len(pointing) == 1 else ''} at the "
            f"asked object, above chance ({100 * chance:.0f}%) and above random weights "
            f"({_join([f'{100 * m.random_weights:.0f}%' for m in pointing])})."
        )
    sentences += [
        f"It is not shown that {_share(m)} points at it: {100 * chance:.0f}% by chance, {100 * m.random_weights:.0f}% "
        f"with random weights."
        for m in methods
        if not m.points
    ]
    same = [m.title for m in pointing if not _depends_on_question(m)]
    if same:
        sentences.append(
            f"It is not shown that {_join(same)} depends on the question: the map of another question about the same "
            f"frame points at the object as often."
        )
    return sentences


def _share(method: PointingResult) -> str:
    return f"{method.title} ({100 * method.pointing:.0f}%)"


def _depends_on_question(method: PointingResult) -> bool:
    estimate = method.over_other_question
    return estimate is not None and estimate.low is not None and estimate.low > 0


def _join(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
