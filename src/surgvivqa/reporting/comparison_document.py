"""The comparison of runs in words and tables."""

from collections.abc import Sequence

from surgvivqa.evaluation.bootstrap import METHOD
from surgvivqa.evaluation.metrics import METRICS
from surgvivqa.evaluation.paired import LEVEL, MOST_EXACT_VIDEOS, POWER, PairedDifference
from surgvivqa.reporting.comparison import Comparison, GroupComparison, GroupKind
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
HOW_TO_READ = (
    "Figures are in %, differences in percentage points, a run minus the reference. The unit of every interval and "
    "test is the video, because questions of one video share a patient, a camera and neighbouring frames.",
    f"The difference over videos is the mean of the videos' differences, with its {100 * LEVEL:.0f}% interval by "
    "Student's t; the difference over questions is that of the two figures above it.",
    "p (t) is of the t-test, which takes the videos' differences as normal. p (flip) is of the exact sign-flip test, "
    "which assumes only that without a difference each video's could as well have the other sign. p values are not "
    "marked with stars: 5% is no border between true and false.",
)


def build_document(comparison: Comparison) -> Document:
    """The whole comparison: a summary in words, and the tables."""
    sections = [
        Section("In short", [Points(summarise(comparison)), *([Points(comparison.notes)] if comparison.notes else [])]),
        Section("Metrics", [metrics_table(comparison)]),
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
            f"{percent(reference.acc)}%, on the same {metrics.n:,} questions about {_videos(accuracy.videos)}: "
            f"{describe_difference(accuracy)}"
        )
        sentences.append(describe_power(accuracy))
    return sentences


def describe_difference(found: PairedDifference) -> str:
    """A difference of the accuracy with its interval and p values, in a sentence."""
    size = f"{points(found.difference)} points on average over the videos"
    if found.low is None or found.high is None:
        return f"{size}. One video shows no spread between videos, so there is no interval and no test."
    interval = f"{100 * LEVEL:.0f}% interval {between(found.low, found.high, signed=True)}"
    tests = f"p = {p_value(found.p_t)} (t-test)" if found.p_t is not None else "no t-test, as all videos differ alike"
    tests += f", {p_value(found.p_sign_flip)} (sign flips)"
    tests = tests.replace("p = <", "p < ")
    if found.low > 0:
        verdict = "The interval lies above 0."
    elif found.high < 0:
        verdict = "The interval lies below 0."
    else:
        verdict = "The interval includes 0: these videos do not show which is better."
    better = f"better in {found.improved} of {found.videos} videos, worse in {found.worsened}"
    return f"{size} ({interval}; {tests}), {better}. {verdict}"


def describe_power(found: PairedDifference) -> str:
    """What so many videos can show, in a sentence."""
    if found.videos < 2:
        return "At least two videos are needed to say how large a difference could be detected."
    exact = found.videos <= MOST_EXACT_VIDEOS
    least = f"With {found.videos} videos the {'exact ' if exact else ''}sign-flip test cannot give a p below"
    least += f" {_least_p(found.least_p)}"
    if found.detectable is None:
        return f"{least}; the videos differ alike, so a detectable difference cannot be computed."
    return (
        f"{least}; with this spread between videos (standard deviation {percent(found.sd)} points) the t-test "
        f"detects a true difference of {percent(found.detectable)} points in {100 * POWER:.0f}% of cases."
    )


def metrics_table(comparison: Comparison) -> Table:
    """The five metrics of each run, with intervals in a second line."""
    rows, rules = [], []
    for run, metrics, intervals in zip(comparison.runs, comparison.metrics, comparison.intervals, strict=True):
        rules.append(len(rows))
        rows.append((run.name, f"{metrics.n:,}", *(percent(getattr(metrics, name)) for name in METRICS)))
        if intervals is not None:
            rows.append((f"  {100 * LEVEL:.0f}% interval", "", *(between(*intervals.ends[name]) for name in METRICS)))
    first = comparison.intervals[0]
    note = f"Intervals: {METHOD}, {_videos(first.videos)}." if first else "No intervals: they need at least two videos."
    return Table(
        "metrics",
        "Metrics of each run, in %.",
        ("run", "questions", *METRICS),
        rows,
        rules=rules[1:] if first else (),
        note=f"{note} Macro averages run over the labels that occur in the truth.",
    )


def differences_table(comparison: Comparison) -> Table:
    """The paired differences of the five metrics."""
    rows, rules = [], []
    for run, found in zip(comparison.runs[1:], comparison.differences, strict=True):
        rules.append(len(rows))
        rows += [(run.name, name, *_difference_cells(found[name])) for name in METRICS]
    head = (
        *("run", "metric", "over questions", "over videos", "95% interval", "better", "worse"),
        *("p (t)", "p (flip)", "detectable"),
    )
    videos = comparison.differences[0]["acc"].videos
    least = comparison.differences[0]["acc"].least_p
    return Table(
        "differences",
        f"Paired differences to {comparison.reference.name}, in percentage points.",
        head,
        rows,
        names=2,
        rules=rules,
        note=f"{_videos(videos).capitalize()}; the least p (flip) that they allow is {_least_p(least)}. better, worse: "
        f"number of videos. detectable: the true difference that the t-test finds in {100 * POWER:.0f}% of cases.",
    )


def groups_table(comparison: Comparison, kinds: Sequence[GroupKind]) -> Table:
    """The accuracy of each group of questions, with paired differences and their intervals."""
    single = len(comparison.runs) == 2
    head = ["questions about" if "video" in kinds else "questions", "n", *(run.name for run in comparison.runs)]
    for run in comparison.runs[1:]:
        head += ["difference" if single else f"{run.name} -"] + (["95% interval"] if "video" not in kinds else [])
    rows: list[tuple[str, ...]] = []
    rules = []
    for kind in kinds:
        rules.append(len(rows))
        for group in comparison.groups[kind]:
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
        rows, rules = [], []
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


def _videos(count: int) -> str:
    return f"{count} video{'s' if count != 1 else ''}"


def _least_p(value: float) -> str:
    return f"{value:.4f}".rstrip("0").rstrip(".") if value >= 0.001 else f"{value:.0e}"


def _plain(value: object) -> str:
    return {True: "yes", False: "no"}.get(value, str(value)) if isinstance(value, bool) else str(value)
