"""The results of an evaluation as text: verdicts first, then tables in %."""

from collections.abc import Iterable

from surgvivqa.data.dataset_overlaps import summarise_findings
from surgvivqa.evaluation.baseline_rows import Baseline
from surgvivqa.evaluation.calibration import format_calibration
from surgvivqa.evaluation.contradictions import format_contradictions
from surgvivqa.evaluation.crossval import CrossValidation
from surgvivqa.evaluation.dataset_facts import format_published_rows
from surgvivqa.evaluation.evidence import format_evidence
from surgvivqa.evaluation.generation import format_generation
from surgvivqa.evaluation.intervals import Ends, Intervals
from surgvivqa.evaluation.metrics import METRICS, GroupedMetrics, Metrics
from surgvivqa.evaluation.picture_check import format_picture
from surgvivqa.evaluation.published import find_published, load_published, why_not_comparable
from surgvivqa.evaluation.report import EvaluationReport
from surgvivqa.evaluation.robustness import format_robustness
from surgvivqa.evaluation.strata import format_strata
from surgvivqa.evaluation.verdicts import points, why_not_beside_published
from surgvivqa.evaluation.wordings import format_wordings

_WIDTH = 36  # of the first column
_HEAD = f"{'':<{_WIDTH}}{'n':>7}" + "".join(f"{metric:>7}" for metric in METRICS)


def format_report(report: EvaluationReport) -> str:
    """Formats the verdicts, the metrics with their intervals, baselines, published results, and the other sections."""
    name = "all" if report.only is None else f"only {report.only.file}"
    parts = ["\n".join([*report.verdicts, *_pretraining(report)])]
    parts.append(format_metrics(report.metrics, report.intervals, report.bootstrap, name))
    parts += [format_folds(report.crossval), format_baselines(report.baselines or ()), format_published(report)]
    if report.dataset is not None and why_not_beside_published(report, report.dataset) is None:
        parts.append(format_published_rows(report.dataset))
    parts.append("" if report.wordings is None else format_wordings(report.wordings))
    parts.append("" if report.picture is None else format_picture(report.picture))
    parts.append("" if report.robustness is None else format_robustness(report.robustness))
    parts.append("" if report.strata is None else format_strata(report.strata))
    parts.append("" if report.calibration is None else format_calibration(report.calibration))
    parts.append("" if report.contradictions is None else format_contradictions(report.contradictions))
    parts.append("" if report.evidence is None else format_evidence(report.evidence))
    parts.append("" if report.generation is None else format_generation(report.generation))
    return "\n\n".join(part for part in parts if part)


def format_metrics(
    metrics: GroupedMetrics, intervals: Intervals | None, bootstrap: Intervals | None = None, name: str = "all"
) -> str:
    """Formats the metrics as a table: overall with their intervals, by reasoning, by type.

    Args:
        metrics: the metrics.
        intervals: of all questions, by Student's t.
        bootstrap: of all questions, by the bootstrap.
        name: the name of the row of all questions.
    """
    lines = [f"{_HEAD}   95% of acc", _row(name, metrics.overall, _span(metrics.overall.intervals))]
    if intervals is not None:
        lines += _ends("95%", intervals)
    if bootstrap is not None:
        lines += _ends("bootstrap", bootstrap)
    groups = metrics.by_reasoning | metrics.by_type
    lines += [_row(name, group, _span(group.intervals)) for name, group in groups.items()]
    if intervals is None:
        return "\n".join([*lines, "no 95% intervals: they need at least two videos"])
    lines.append(f"95% intervals: {intervals.method}, {intervals.videos} videos")
    if bootstrap is not None:
        few = "; too narrow with few videos" if bootstrap.videos < 20 else ""
        lines.append(f"bootstrap: {bootstrap.method}, {bootstrap.resamples:,} resamples{few}")
    return "\n".join(lines)


def format_folds(crossval: CrossValidation | None) -> str:
    """Formats the folds of a cross-validation as a table, with their mean and spread; empty if there are none."""
    if crossval is None or not crossval.folds:
        return ""
    lines = [f"{'fold':<{_WIDTH}}{_HEAD[_WIDTH:]}   95% of acc"]
    for fold in crossval.folds:
        name = f"{fold.fold}  ({len(fold.videos)} videos)"
        lines.append(_row(name, fold.metrics, _span(fold.metrics.intervals)))
    for name, values in (("mean of the folds", crossval.mean), ("standard deviation of the folds", crossval.spread)):
        lines.append(f"{name:<{_WIDTH + 7}}" + "".join(f"{points(values[metric]):>7}" for metric in METRICS))
    return "\n".join(lines)


def format_baselines(baselines: Iterable[Baseline]) -> str:
    """Formats the baselines as a table, with the model's difference in accuracy; empty if there is none."""
    lines, notes = [], dict[str, None]()
    for row in baselines:
        if row.note:
            notes[row.note] = None
        if row.metrics is None:
            continue
        gain = ""
        if row.difference is not None:
            gain = points(row.difference.difference, signed=True)
            if row.difference.low is not None and row.difference.high is not None:
                low, high = (points(end, signed=True) for end in (row.difference.low, row.difference.high))
                gain += f" ({low} to {high})"
        lines.append(_row(row.title, row.metrics, gain))
    head = (
        [f"{'baselines':<{_WIDTH}}{_HEAD[_WIDTH:]}   model minus baseline, acc, mean over videos (95%)"]
        if lines
        else []
    )
    return "\n".join([*head, *lines, *(f"baselines: {note}" for note in notes)])


def format_published(report: EvaluationReport) -> str:
    """Formats the published results that may be set beside the report's; empty if none may be."""
    if why_not_comparable(report) is not None:
        return ""
    lines = [f"{'published on these questions':<{_WIDTH}}{_HEAD[_WIDTH:]}"]
    for result in load_published():
        if result.comparable and result.figures:
            cells = (f"{result.figures[name]:>7.1f}" if name in result.figures else f"{'':>7}" for name in METRICS)
            lines.append(f"{result.title:<{_WIDTH}}{'':>7}{''.join(cells)}")
    lines.append(_row("this model", report.metrics.overall))
    printed = find_published("SSG-VQA-Net")
    lines += ["", f"{printed.title + ', by group':<{_WIDTH}}{'printed':>9}{'our mAP':>9}{'our mAF1':>9}"]
    groups = report.metrics.by_type | report.metrics.by_reasoning
    for name, figure in printed.groups.items():
        if name in groups:
            ours = (f"{points(getattr(groups[name], metric)):>9}" for metric in ("mAP", "mAF1"))
            lines.append(f"{name:<{_WIDTH}}{figure:>9.1f}{''.join(ours)}")
    lines += [f"{printed.title}: {printed.definition}"]
    shown = [result for result in load_published() if result.comparable]
    return "\n".join([*lines, *(f"{result.title}: {caveat}" for result in shown for caveat in result.caveats)])


def _pretraining(report: EvaluationReport) -> list[str]:
    """A line about what the model has seen before, unless a verdict says it."""
    found = [f for f in report.pretraining or () if f.verdict in ("clean", "unknown")]
    return [f"Pretraining: {summarise_findings(found)}"] if found else []


def _row(name: str, metrics: Metrics, after: str = "") -> str:
    cells = "".join(f"{points(getattr(metrics, metric)):>7}" for metric in METRICS)
    return f"{name:<{_WIDTH}}{metrics.n:>7}{cells}   {after}".rstrip()


def _ends(name: str, intervals: Intervals) -> list[str]:
    """The two rows of the intervals' ends."""
    return [
        f"{f'  {name} {label}':<{_WIDTH + 7}}"
        + "".join(f"{points(intervals.ends[metric][end]):>7}" for metric in METRICS)
        for end, label in enumerate(("low", "high"))
    ]


def _span(ends: Ends | None) -> str:
    return "" if ends is None else f"{points(ends['acc'][0])} to {points(ends['acc'][1])}"
