"""The comparison of runs in words and tables."""

from collections.abc import Sequence

from surgvivqa.evaluation.intervals import LEVEL, METHOD
from surgvivqa.evaluation.metrics import METRICS
from surgvivqa.evaluation.paired import DRAWS, MOST_EXACT_VIDEOS, POWER, PairedDifference
from surgvivqa.reporting.comparison import OTHER_LINES, Comparison, GroupComparison, GroupKind
from surgvivqa.reporting.tables import (
    MISSING,
    Document,
    Points,
    Section,
    Table,
    between,
    p_value,
    percent,
    points,
)

TITLE = "Comparison of runs"
_MOST_TYPES, _MOST_LABELS = 6, 12  # rows of the table of disagreements
QUESTION_ONLY = "question_only"  # name of a row of the section baselines
HOW_TO_READ = (
    "Figures are in %, differences in percentage points, a run minus the reference. The unit of every interval and "
    "test is the video, because questions of one video share a patient, a camera and neighbouring frames.",
    f"The difference over videos is the mean of the videos' differences, with its {100 * LEVEL:.0f}% interval by "
    "Student's t; the difference over questions is that of the two figures above it.",
    "p (t) is of the t-test, which takes the videos' differences as normal. p (flip) is of the sign-flip test, "
    "which assumes only that without a difference each video's could as well have the other sign. p values are not "
    "marked with stars, because 5% does not separate true from false.",
)


def build_document(comparison: Comparison) -> Document:
    """The whole comparison: a summary in words, and the tables."""
    published = published_groups_table(comparison)
    sections = [
        Section("In short", [Points(summarise(comparison)), *([Points(comparison.notes)] if comparison.notes else [])]),
        Section("Metrics", [metrics_table(comparison), *([published] if published else [])]),
        Section("Paired differences", [differences_table(comparison), *HOW_TO_READ]),
        Section("By reasoning and type", [groups_table(comparison, ("reasoning", "type"))]),
        Section("By video", [groups_table(comparison, ("video",))]),
        Section("Changed answers", [changes_table(comparison)]),
        Section("Where the answers differ most", disagreement_tables(comparison)),
    ]
    if comparison.settings:
        sections.append(Section("Training flags that differ", [settings_table(comparison)]))
    return Document(TITLE, sections)


def summarise(comparison: Comparison) -> list[str]:
    """What the comparison says about the accuracy, in sentences: one or two for each run but the reference."""
    sentences = []
    reference = comparison.metrics[0]
    for run, metrics, found in zip(comparison.runs[1:], comparison.metrics[1:], comparison.differences, strict=True):
        accuracy = found["acc"]
        sentences.append(
            f"{run.name} answers {percent(metrics.acc)}% correctly and {comparison.reference.name} "
            f"{percent(reference.acc)}%, on the same {metrics.n:,} questions: {describe_difference(accuracy)}"
        )
        sentences.append(describe_tests(accuracy))
    return sentences


def describe_difference(found: PairedDifference) -> str:
    """A difference of the accuracy with its interval, in a sentence or two."""
    size = f"{points(found.difference)} points on average over {_videos(found.videos)}"
    if found.low is None or found.high is None:
        return f"{size}. One video shows no spread between videos, so there is no interval and no test."
    interval = f"{100 * LEVEL:.0f}% interval {between(found.low, found.high, signed=True)}"
    better = f"better in {found.improved} of {found.videos}, worse in {found.worsened}"
    unclear = found.low <= 0 <= found.high
    verdict = " The interval includes 0: these videos do not show which is better." if unclear else ""
    return f"{size} ({interval}), {better}.{verdict}"


def describe_tests(found: PairedDifference) -> str:
    """The p values, and what so many videos can show, in sentences."""
    if found.videos < 2:
        return "At least two videos are needed for a test, and to say how large a difference could be detected."
    exact = "exact " if found.videos <= MOST_EXACT_VIDEOS else ""
    student = "no t-test, as all videos have the same difference" if found.p_t is None else f"t-test {_p(found.p_t)}"
    least = f" (the least that {_videos(found.videos)} allow is {_least_p(found.least_p)})" if exact else ""
    tests = f"{student[:1].upper()}{student[1:]}; {exact}sign-flip test over videos {_p(found.p_sign_flip)}{least}."
    if found.detectable is None:
        return f"{tests} Without a spread between videos a detectable difference cannot be computed."
    return (
        f"{tests} With this spread between videos (standard deviation {percent(found.sd)} points) the t-test detects a "
        f"true difference of {percent(found.detectable)} points in {100 * POWER:.0f}% of cases."
    )


def metrics_table(comparison: Comparison) -> Table:
    """The five metrics of each run with intervals in a second line; the question-only baseline and published rows."""
    rows, rules = list[Sequence[str]](), list[int]()
    named = [(run.name, metrics) for run, metrics in zip(comparison.runs, comparison.metrics, strict=True)]
    for baseline in comparison.reference.report.baselines or ():
        if baseline.name == QUESTION_ONLY and baseline.metrics is not None:
            named.append((f"{baseline.title} (baseline)", baseline.metrics))
    for name, metrics in named:
        rules.append(len(rows))
        rows.append((name, f"{metrics.n:,}", *(percent(getattr(metrics, metric)) for metric in METRICS)))
        if metrics.intervals is not None:
            ends = (between(*metrics.intervals[metric]) for metric in METRICS)
            rows.append((f"  {100 * LEVEL:.0f}% interval", "", *ends))
    if printed := [result for result in comparison.published if result.figures]:
        rules.append(len(rows))
        rows += [(f"{r.title} ({r.year})", "", *(_printed(r.figures.get(name)) for name in METRICS)) for r in printed]
    has_intervals = comparison.metrics[0].intervals is not None
    note = f"Intervals: {METHOD}, {_videos(comparison.videos)}." if has_intervals else "No intervals: one video."
    note += " Macro averages run over the labels that occur in the truth."
    note += "".join(f" {r.title}: {r.source}. {' '.join(r.caveats)}" for r in printed)
    head = ("run", "questions", *METRICS)
    return Table(
        "metrics", "Metrics of each run, in %.", head, rows, rules=rules[1:] if has_intervals else (), note=note
    )


def published_groups_table(comparison: Comparison) -> Table | None:
    """Macro F1 by reasoning and type beside what published results print as F1; None where there is none."""
    printed = [result for result in comparison.published if result.groups]
    groups = [group for kind in ("reasoning", "type") for group in comparison.groups[kind]]
    groups = [group for group in groups if any(group.name in result.groups for result in printed)]
    if not groups:
        return None
    rows = [
        (
            group.name,
            *(percent(metrics.mAF1) for metrics in group.metrics),
            *(_printed(result.groups.get(group.name)) for result in printed),
        )
        for group in groups
    ]
    note = " ".join(f"{r.title}: {r.source}. {r.definition}. {' '.join(r.caveats)}".replace("..", ".") for r in printed)
    head = ("group", *(f"{run.name}, mAF1" for run in comparison.runs), *(f"{r.title} (F1)" for r in printed))
    return Table("published-groups", "Macro F1 by reasoning and type, in %.", head, rows, note=note)


def differences_table(comparison: Comparison) -> Table:
    """The paired differences of the five metrics."""
    rows, rules = list[Sequence[str]](), list[int]()
    for run, found in zip(comparison.runs[1:], comparison.differences, strict=True):
        rules.append(len(rows))
        rows += [(run.name, name, *_difference_cells(found[name])) for name in METRICS]
    head = (
        *("run", "metric", "over questions", "over videos", "95% interval", "better", "worse"),
        *("p (t)", "p (flip)", "detectable"),
    )
    videos = comparison.differences[0]["acc"].videos
    least = f"the least p (flip) that they allow is {_least_p(comparison.differences[0]['acc'].least_p)}"
    if videos > MOST_EXACT_VIDEOS:
        least = f"p (flip) is of {DRAWS:,} random flips"
    return Table(
        "differences",
        f"Paired differences to {comparison.reference.name}, in percentage points.",
        head,
        rows,
        names=2,
        rules=rules,
        note=f"{_videos(videos).capitalize()}; {least}. better, worse: "
        f"number of videos. detectable: the true difference that the t-test finds in {100 * POWER:.0f}% of cases.",
    )


def groups_table(comparison: Comparison, kinds: Sequence[GroupKind]) -> Table:
    """The accuracy of each group of questions, with paired differences and their intervals."""
    single = len(comparison.runs) == 2
    head = ["video" if "video" in kinds else "group", "questions", *(run.name for run in comparison.runs)]
    for run in comparison.runs[1:]:
        head += ["difference" if single else f"{run.name} diff."] + (["95% interval"] if "video" not in kinds else [])
    rows: list[tuple[str, ...]] = []
    rules = []
    for kind in kinds:
        rules.append(len(rows))
        for group in comparison.groups[kind]:
            if kind == "type" and group.name == OTHER_LINES:
                continue  # the same questions as in the groups of reasoning
            cells = [f"{group.metrics[0].n:,}", *(percent(metrics.acc) for metrics in group.metrics)]
            for found in group.differences:
                cells.append(points(found.difference))
                if "video" not in kinds:
                    cells.append(between(found.low, found.high, signed=True))
            rows.append((group.name, *cells))
    if "video" in kinds:
        return Table("videos", "Accuracy by video, in %, and differences in percentage points.", head, rows)
    return Table(
        "groups",
        "Accuracy by reasoning and question type, in %, with paired differences over videos in percentage points.",
        head,
        rows,
        rules=rules,
        note="Each interval is of one group; they are not adjusted for the number of groups.",
    )


def changes_table(comparison: Comparison) -> Table:
    """How many answers change, from the reference to each run."""
    rows = []
    for run, changes in zip(comparison.runs[1:], comparison.changes, strict=True):
        counts = (
            *(changes.both_right, changes.wrong_to_right, changes.right_to_wrong),
            *(changes.same_mistake, changes.other_mistake),
        )
        share = changes.changed / changes.questions
        rows.append((run.name, *(f"{count:,}" for count in counts), f"{percent(share)}%"))
    return Table(
        "changes",
        f"Questions whose answer changes from {comparison.reference.name} to each run.",
        ("run", "both right", "wrong to right", "right to wrong", "same mistake", "other mistake", "changed"),
        rows,
    )


def disagreement_tables(comparison: Comparison) -> list[str | Points | Table]:
    """For each run but the reference, the question types and true labels with the most changed answers."""
    tables: list[str | Points | Table] = []
    for index, run in enumerate(comparison.runs[1:]):
        rows, rules = list[Sequence[str]](), list[int]()
        for kind, most in (("type", _MOST_TYPES), ("label", _MOST_LABELS)):
            rules.append(len(rows))
            for group in most_changed(comparison, index, kind, most):  # type: ignore[arg-type]
                changes, size = group.changes[index], group.metrics[0].n
                counts = (size, changes.changed, changes.wrong_to_right, changes.right_to_wrong)
                accuracy = group.metrics[index + 1].acc - group.metrics[0].acc
                rows.append((kind, group.name, *(f"{count:,}" for count in counts), points(accuracy)))
        tables.append(
            Table(
                f"disagreement-{index + 1}",
                f"Question types and true labels with the most answers that differ between {run.name} and "
                f"{comparison.reference.name}.",
                ("of", "name", "questions", "changed", "wrong to right", "right to wrong", "accuracy"),
                rows,
                names=2,
                rules=rules[:2] if rules[1] < len(rows) else (),
            )
            if rows
            else f"{run.name} and {comparison.reference.name} give the same answers to all questions."
        )
    return tables


def most_changed(comparison: Comparison, index: int, kind: GroupKind, most: int) -> list[GroupComparison]:
    """The groups of a kind with the most answers that differ between a run and the reference, most first.

    Args:
        comparison: the comparison.
        index: the run's place among those that are compared with the reference.
        kind: the kind of groups.
        most: number of groups at most; groups without a changed answer are left out.
    """
    # Groups of several types are left out, since their types are there too.
    groups = [g for g in comparison.groups[kind] if g.changes[index].changed and g.name != "attribute"]
    return sorted(groups, key=lambda group: (-group.changes[index].changed, group.name))[:most]


def settings_table(comparison: Comparison) -> Table:
    """The training flags that differ."""
    rows = [
        (f"--{name.replace('_', '-')}", *(MISSING if value is None else _plain(value) for value in values))
        for name, values in comparison.settings.items()
    ]
    head = ("flag", *(run.name for run in comparison.runs))
    return Table("settings", "Flags of the training runs that differ.", head, rows)


def _difference_cells(found: PairedDifference) -> tuple[str, ...]:
    return (
        points(found.pooled),
        points(found.difference),
        between(found.low, found.high, signed=True),
        str(found.improved),
        str(found.worsened),
        p_value(found.p_t),
        p_value(found.p_sign_flip),
        percent(found.detectable),
    )


def _printed(value: float | None) -> str:
    """A published figure, which is in %."""
    return MISSING if value is None else f"{value:.1f}"


def _videos(count: int) -> str:
    return f"{count} video{'s' if count != 1 else ''}"


def _p(value: float) -> str:
    text = p_value(value)
    return f"p {text[0]} {text[1:]}" if text.startswith("<") else f"p = {text}"


def _least_p(value: float) -> str:
    return f"{value:.4f}".rstrip("0").rstrip(".") if value >= 0.001 else f"{value:.0e}"


def _plain(value: object) -> str:
    return {True: "yes", False: "no"}.get(value, str(value)) if isinstance(value, bool) else str(value)
