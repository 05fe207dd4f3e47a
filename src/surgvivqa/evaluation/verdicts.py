"""What the figures of an evaluation say, in sentences: the first lines of ``eval`` and ``verdicts`` of metrics.json."""

import dataclasses
from collections.abc import Callable

from surgvivqa.data.dataset_overlaps import summarise_findings
from surgvivqa.evaluation.baseline_rows import Baseline, GroupDifference
from surgvivqa.evaluation.dataset_facts import DatasetFacts
from surgvivqa.evaluation.metrics import METRICS, TYPE_GROUPS
from surgvivqa.evaluation.paired import PairedDifference
from surgvivqa.evaluation.picture_check import picture_verdicts
from surgvivqa.evaluation.published import why_not_comparable
from surgvivqa.evaluation.report import EvaluationReport


def with_verdicts(report: EvaluationReport) -> EvaluationReport:
    """The report with the verdicts on its other fields, the most important one first."""
    verdicts = [verdict for find in _VERDICTS for verdict in find(report)]
    return dataclasses.replace(report, verdicts=verdicts)


def points(fraction: float, *, signed: bool = False) -> str:
    """A fraction in percentage points with one digit, such as ``-5.9``; never ``-0.0``."""
    value = round(100 * fraction, 1) + 0.0
    return f"{value:+.1f}" if signed else f"{value:.1f}"


def strongest_blind(report: EvaluationReport) -> Baseline | None:
    """The baseline with the highest accuracy among those that do not see the frames; None if there is none."""
    found = [row for row in report.baselines or () if row.metrics is not None and not row.sees_frames]
    return max(found, key=lambda row: row.metrics.acc if row.metrics else 0.0, default=None)


def _compare_with_blind(report: EvaluationReport) -> list[str]:
    """Whether the model is above what the questions alone give, and which of its figures are not.

    Figures below come first.
    """
    baseline = strongest_blind(report)
    if baseline is None or baseline.metrics is None or baseline.difference is None:
        notes = [row.note for row in report.baselines or () if row.note]
        return [f"Whether the model beats a baseline without frames is not known: {notes[0]}."] if notes else []
    acc, other, paired = report.metrics.overall.acc, baseline.metrics.acc, baseline.difference
    videos = f" over the {paired.videos} videos" if paired.videos > 1 else ""
    known = f"95% interval {_range(paired)}" if paired.low is not None else "no interval from a single video"
    difference = f"mean difference{videos} {points(paired.difference, signed=True)} points, {known}"
    figures = f"accuracy {points(acc)}% against {points(other)}% ({difference})"
    below = _figures_below(report, baseline)
    named = f"the best baseline without frames ({baseline.title})"
    if baseline.name == "question_only":
        named = "the question-only baseline"
    if acc <= other:
        rest = [f"Also below it: {'; '.join(below)}."] if below else []
        return [f"The model does not beat {named}: {figures}.", *rest]
    if paired.low is not None and paired.low > 0:
        verdict = f"The model beats {named}: {figures}."
    else:
        shown_by = "one video does" if paired.videos == 1 else f"{paired.videos} videos do"
        verdict = f"The model is above {named}, but {shown_by} not show that it is better: {figures}."
    if below:
        return [f"Below {named}: {'; '.join(below)}.", verdict]
    return [verdict]


def _figures_below(report: EvaluationReport, baseline: Baseline) -> list[str]:
    """The other metrics, and the accuracies by reasoning and type, that are below the baseline's."""
    assert baseline.metrics is not None
    below = []
    for name in METRICS[1:]:
        ours, other = getattr(report.metrics.overall, name), getattr(baseline.metrics, name)
        if ours < other:
            below.append(f"{name} {points(ours)}% against {points(other)}%")
    theirs = baseline.by_reasoning | baseline.by_type
    for group, metrics in (report.metrics.by_reasoning | report.metrics.by_type).items():
        # Raw types repeat their group: ``exist`` is ``existence``.
        if (
            group in theirs
            and group in baseline.groups
            and group not in TYPE_GROUPS
            and metrics.acc < theirs[group].acc
        ):
            paired = baseline.groups[group]
            known = "" if paired.low is None else f", {_range(paired)}"
            difference = f"{points(paired.difference, signed=True)} points{known}"
            below.append(
                f"accuracy on {group} {points(metrics.acc)}% against {points(theirs[group].acc)}% ({difference})"
            )
    return below


def _range(paired: PairedDifference | GroupDifference) -> str:
    """The ends of a difference's interval."""
    assert paired.low is not None and paired.high is not None
    return f"{points(paired.low, signed=True)} to {points(paired.high, signed=True)}"


def _judge_frames(report: EvaluationReport) -> list[str]:
    """What the model was shown, if not the frames that the questions are about."""
    shown = {
        "black": "The model was shown black pictures, so the figures say what it reads from the questions alone.",
        "shuffled": "The model was shown frames of other videos, not those that the questions are about.",
    }
    return [shown[report.frames]] if report.frames in shown else []


def _judge_split(report: EvaluationReport) -> list[str]:
    """Whether the questions are those that the baselines were fitted on."""
    if report.split != "train":
        return []
    return [
        "These are the training questions, which the baselines were fitted on and the model may have been, so the "
        "figures do not say how well either answers others."
    ]


def _judge_only(report: EvaluationReport) -> list[str]:
    """Which questions were left out by a list."""
    if report.only is None:
        return []
    only = report.only
    lacking = f"; {only.missing:,} of the {only.listed:,} listed ones are not in it" if only.missing else ""
    return [
        f"All figures are about the questions that {only.file} lists: {only.selected:,} of the {only.of:,} questions "
        f"of the {report.split} split{lacking}."
    ]


def _judge_pretraining(report: EvaluationReport) -> list[str]:
    """Whether the model has, or may have, seen videos of the split before."""
    found = [f for f in report.pretraining or () if f.verdict in ("seen", "possible")]
    if not found:
        return []
    seen = "were seen" if any(f.verdict == "seen" for f in found) else "may have been seen"
    return [f"The figures may be too high, because videos of the split {seen} before: {summarise_findings(found)}"]


def _judge_picture(report: EvaluationReport) -> list[str]:
    """Whether the model uses the picture."""
    return [] if report.picture is None else picture_verdicts(report.picture)


def _judge_precision(report: EvaluationReport) -> list[str]:
    """How far the accuracy may be off."""
    if report.intervals is None:
        return ["How far the figures may be off is not known: an interval needs at least two videos."]
    low, high = report.intervals.ends["acc"]
    videos = report.intervals.videos
    if low == high:
        return [f"All {videos} videos have the same accuracy, so its 95% interval has no width and shows nothing."]
    return [f"With {videos} videos the 95% interval of the accuracy is {points(low)}% to {points(high)}%."]


def _judge_comparability(report: EvaluationReport) -> list[str]:
    """Whether published results may be set beside the figures."""
    if report.dataset is not None:
        return _judge_published(report, report.dataset)
    reason = why_not_comparable(report)
    if reason is None:
        return ["All questions of SSG-QA's test split were scored, so published results may be set beside these."]
    return [f"No published result may be set beside these figures: {reason}."]


def _judge_published(report: EvaluationReport, facts: DatasetFacts) -> list[str]:
    """Whether published results on another data set than SSG-QA may be set beside the figures."""
    if not facts.published:
        return [f"No published result on {facts.title} is known to surgvivqa."]
    reason = why_not_beside_published(report, facts)
    if reason is not None:
        return [f"The published results may not be set beside these figures: {reason}."]
    return [f"All questions of {facts.title}'s test split were scored, so published results may be set beside these."]


def why_not_beside_published(report: EvaluationReport, facts: DatasetFacts) -> str | None:
    """Why published results on another data set than SSG-QA may not be set beside the figures; None if they may."""
    reasons = {
        "the questions are those of the synthetic set": report.synthetic,
        "the questions are not those of the test split": report.split != "test",
        "the model was not shown the questions' own frames": report.frames != "own",
        "not all questions were scored": report.max_samples is not None or bool(report.skipped_frames),
        "only some of the questions were scored (--only)": report.only is not None,
        "the videos are not those of the data set's own test split": not facts.own_splits
        or report.crossval is not None,
        "questions whose answers are no labels were left out": report.skipped.get("unknown_answer"),
        "lines that cannot be used were left out": any(n for why, n in report.skipped.items() if why != "dropped"),
    }
    return next((text for text, holds in reasons.items() if holds), None)


_VERDICTS: tuple[Callable[[EvaluationReport], list[str]], ...] = (
    _judge_split,
    _judge_frames,
    _judge_only,
    _judge_pretraining,
    _compare_with_blind,
    _judge_picture,
    _judge_precision,
    _judge_comparability,
)
