"""``metrics.json``: what is written is read back, and anything else is refused."""

import json
from pathlib import Path
from typing import Any

import pytest

from surgvivqa.data.frames import BadFrame
from surgvivqa.evaluation.intervals import Intervals
from surgvivqa.evaluation.metrics import METRICS, GroupedMetrics, LabelMetrics, Metrics
from surgvivqa.evaluation.report import EvaluationReport, read_report
from surgvivqa.utils.errors import InputError


def report() -> EvaluationReport:
    one = Metrics(4, 0.5, 0.25, 0.75, 0.125, 0.625)
    ends = dict.fromkeys(METRICS, (0.25, 0.75))
    whole = Metrics(4, 0.5, 0.25, 0.75, 0.125, 0.625, ends)
    label = LabelMetrics(4, 2, 0.5, 0.25, 0.375, {"recall": (0.125, 0.5)})
    return EvaluationReport(
        metrics=GroupedMetrics(whole, 0.01, {"one_hop": whole}, {"exist": one}, {"VID02": one}, {"hook": label}),
        intervals=Intervals(ends, videos=5),
        bootstrap=Intervals(ends, 5, "percentile bootstrap over videos", 1000, 0),
        verdicts=["It is above the baseline."],
        loss=1.5,
        skipped={"comma": 3},
        skipped_frames=[BadFrame("VID02", 7, "it is missing")],
        checkpoint="runs/a",
        split="test",
        max_samples=None,
        synthetic=False,
        mask="prefix",
        prompt_mode="simple",
        score_norm="sum",
    )


def test_a_written_report_is_read_back() -> None:
    assert EvaluationReport.from_json(json.loads(json.dumps(report().to_json()))) == report()


@pytest.mark.parametrize(
    "change, message",
    [
        ({"acc": None}, "its acc is not a number"),
        ({"mAP": "0.5"}, "its mAP is not a number"),
        ({"n": True}, "its n is not a number"),
        ({"by_type": 5}, "its by_type is not a mapping"),
        ({"by_video": {"VID02": {"n": 1}}}, "its acc is not a number"),
        ({"intervals": {"acc": [0, 1]}}, "mAP"),
        ({"skipped_frames": [{"video": "VID02"}]}, "frame"),
    ],
)
def test_a_value_of_the_wrong_type_is_an_error(change: dict[str, Any], message: str, tmp_path: Path) -> None:
    path = tmp_path / "metrics.json"
    path.write_text(json.dumps(report().to_json() | change))
    with pytest.raises(InputError, match=f"not a metrics.json of eval .*{message}"):
        read_report(path)


@pytest.mark.parametrize("name", ["n", *METRICS, "by_type", "split", "max_samples"])
def test_a_missing_value_is_named(name: str) -> None:
    content = report().to_json()
    del content[name]
    with pytest.raises(ValueError, match=f"it has no {name}"):
        EvaluationReport.from_json(content)
