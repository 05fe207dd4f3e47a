"""The printed tables hold the report's figures."""

from surgvivqa.evaluation.baseline_rows import missing_baselines
from surgvivqa.evaluation.format import format_baselines, format_metrics, format_report
from surgvivqa.evaluation.metrics import METRICS
from surgvivqa.evaluation.verdicts import with_verdicts
from tests.helpers.reports import answers, report_of, row

MODEL = answers({"exist": [9, 8, 7, 9, 9], "count": [2, 3, 4, 2, 2]})
OTHER = answers({"exist": [5, 5, 6, 4, 5], "count": [3, 4, 4, 3, 3]})


def test_the_first_line_is_the_most_important_verdict() -> None:
    report = with_verdicts(report_of(OTHER, [row(OTHER, MODEL)]))
    assert format_report(report).splitlines()[0] == report.verdicts[0]
    assert report.verdicts[0].startswith("The model does not beat")


def test_the_t_interval_stands_before_the_bootstraps() -> None:
    report = report_of(MODEL)
    lines = format_metrics(report.metrics, report.intervals, report.bootstrap).splitlines()
    assert report.intervals is not None
    assert lines[2].split() == ["95%", "low", *(f"{100 * report.intervals.ends[name][0]:.1f}" for name in METRICS)]
    assert [line.split()[0] for line in lines[2:6]] == ["95%", "95%", "bootstrap", "bootstrap"]
    assert lines[-2] == "95% intervals: Student's t over videos, jackknife standard error, 5 videos"
    assert lines[-1].endswith("10,000 resamples; too narrow with few videos")


def test_a_group_has_the_interval_of_its_accuracy() -> None:
    report = report_of(MODEL)
    line = next(x for x in format_metrics(report.metrics, report.intervals).splitlines() if x.startswith("count "))
    ends = report.metrics.by_type["count"].intervals
    assert ends is not None
    assert line.endswith(f"   {100 * ends['acc'][0]:.1f} to {100 * ends['acc'][1]:.1f}")


def test_a_baselines_row_has_the_models_difference() -> None:
    found = row(MODEL, OTHER)
    assert found.difference is not None and found.metrics is not None
    line = format_baselines([found]).splitlines()[1]
    assert line.startswith("question only")
    assert f"{100 * found.metrics.acc:.1f}" in line
    assert f"{100 * found.difference.difference:+.1f} (" in line


def test_a_note_of_several_rows_is_printed_once() -> None:
    assert format_baselines(missing_baselines("they are not there")) == "baselines: they are not there"


def test_columns_are_aligned() -> None:
    text = format_report(report_of(MODEL, [row(MODEL, OTHER)]))
    rows = [line for line in text.splitlines() if line.startswith(("all", "  95%", "  boot", "count", "question"))]
    assert len({line[:78].rstrip().rfind(".") for line in rows}) == 1
