"""What a reader needs to know before trusting a run's figures, each point marked from the data."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from surgvivqa.config import TrainConfig, flags_of
from surgvivqa.data.dataset_overlaps import summarise_findings
from surgvivqa.data.labels import SSG_QA
from surgvivqa.data.splits import TEST_VIDEOS
from surgvivqa.reporting.page import percent
from surgvivqa.reporting.results import RunResults

Mark = Literal["pass", "warn", "unknown", "plain"]
_LEAST_QUESTIONS = 50_000  # of SSG-QA's test split, as in the model card: a copy with fewer is a part of it
# Two runs of one recipe may differ in these flags: the seed, folders, and what changes no result.
_FREE_FLAGS = {name for name, properties in flags_of(TrainConfig).items() if properties.on_resume == "free"}
_FREE_FLAGS = (_FREE_FLAGS | {"seed", "cache"}) - {"splits_dir"}


@dataclass(frozen=True)
class Point:
    """A point of the checklist.

    Attributes:
        title: what a reader asks.
        mark: ``pass``, ``warn``, or ``unknown`` where the data do not say.
        why: the answer, in a sentence or two.
    """

    title: str
    mark: Mark
    why: str


def trust_points(results: RunResults, content: Mapping[str, Any], runs: Sequence[RunResults] = ()) -> list[Point]:
    """The checklist of one run.

    Args:
        results: the run.
        content: its ``metrics.json``.
        runs: all runs of the page, to see whether the recipe was repeated with other seeds.
    """
    return [
        _split(content),
        _pretraining(results),
        _questions(results),
        _labels(content),
        _mask(content),
        _selection(results),
        _question_only(content),
        _picture(content),
        _intervals(content),
        _seeds(results, runs or [results]),
    ]


def recipe(results: RunResults) -> tuple[tuple[str, str], ...]:
    """The flags that make a run's recipe: all but the seed, folders and what does not change the result."""
    return tuple(sorted((key, str(value)) for key, value in results.flags.items() if key not in _FREE_FLAGS))


def _split(content: Mapping[str, Any]) -> Point:
    title = "Official test split"
    if content["synthetic"]:
        return Point(title, "warn", "The questions are drawn by surgvivqa synth: they say nothing about real surgery.")
    if content["split"] != "test":
        return Point(title, "warn", f"These are questions of the {content['split']} split, not of the test split.")
    if (name := _other_data_set(content)) is not None:
        return Point(title, "unknown", f"Whether the split is the official one of {name} is not recorded.")
    if content.get("crossval"):
        why = "A cross-validation: its videos are tested by models that were not trained on them, but published "
        return Point(title, "warn", f"{why}results are of the five test videos of SSG-VQA-Net's split.")
    if set(content["by_video"]) != TEST_VIDEOS:
        shown = ", ".join(sorted(content["by_video"])[:8])
        return Point(title, "warn", f"The videos ({shown}) are not the five test videos of SSG-VQA-Net's split.")
    if content["synthetic"] is None:
        return Point(
            title,
            "unknown",
            "The five videos are those of SSG-VQA-Net's split; whether the questions are is not recorded.",
        )
    return Point(title, "pass", f"The five test videos of SSG-VQA-Net's split: {', '.join(sorted(TEST_VIDEOS))}.")


def _pretraining(results: RunResults) -> Point:
    title, findings = "Not seen in pretraining", results.report.pretraining
    if results.report.synthetic:
        return Point(title, "pass", "The scenes are drawn, so no pretrained part has seen them.")
    if findings is None:
        return Point(title, "unknown", "Not recorded; surgvivqa eval records it, except on the training split.")
    verdicts = {finding.verdict for finding in findings}
    mark: Mark = "warn" if verdicts & {"seen", "possible"} else "unknown" if "unknown" in verdicts else "pass"
    return Point(title, mark, summarise_findings(findings))


def _questions(results: RunResults) -> Point:
    title, report = "All questions", results.report
    n = report.metrics.overall.n
    if (shown := report.to_json().get("frames", "own")) != "own":
        return Point(title, "warn", f"The questions were asked on {shown} frames, not on their own.")
    if report.only is not None:
        listed = f"{report.only.selected:,} of {report.only.of:,} questions, those that {report.only.file} lists"
        return Point(title, "warn", f"Only a part: {listed} (--only).")
    if report.max_samples is not None:
        return Point(title, "warn", f"A sample: at most {report.max_samples:,} questions were asked (--max-samples).")
    if report.skipped_frames:
        return Point(
            title, "warn", f"Questions about {len(report.skipped_frames)} frames that cannot be used were left out."
        )
    is_ssg_qa = report.synthetic is False and report.label_set.is_ssg_qa
    if is_ssg_qa and report.split == "test" and n < _LEAST_QUESTIONS:
        return Point(title, "warn", f"{n:,} questions are only a part of SSG-QA's test split.")
    return Point(title, "pass", f"All {n:,} usable questions of the split were asked; no frame was left out.")


def _labels(content: Mapping[str, Any]) -> Point:
    title = "Exact labels"
    if content["synthetic"]:
        return Point(title, "pass", "The answers follow from the drawn scenes, so they are exact.")
    if (name := _other_data_set(content)) is not None:
        return Point(title, "unknown", f"How the answers of {name} were made is not recorded.")
    source = "SSG-QA's anatomy labels and boxes come from detectors, not people; a right answer agrees with a detector."
    if content["synthetic"] is None:
        return Point(title, "unknown", f"Whose questions these are is not recorded. {source}")
    return Point(title, "warn", source)


def _other_data_set(content: Mapping[str, Any]) -> str | None:
    """The name of the data set whose labels the model chose from; None for SSG-QA's."""
    name: str = content["label_set"]["name"]
    return None if content["label_set"]["labels"] == list(SSG_QA.labels) else name


def _mask(content: Mapping[str, Any]) -> Point:
    title = "No answer leak"
    if content["mask"] == "bidirectional":
        why = "Scored under --mask bidirectional, where the answer's tokens shape the states that predict it."
        return Point(title, "warn", why)
    return Point(title, "pass", f"Scored under --mask {content['mask']}: no token of a prompt sees its answer.")


def _selection(results: RunResults) -> Point:
    title = "Checkpoint picked without the test videos"
    if not results.log:
        return Point(title, "unknown", "The training run's log is not beside the evaluation.")
    validated = sum(1 for line in results.log if "val_acc" in line or "val_loss" in line)
    if not validated:
        return Point(title, "unknown", "The run did not validate; how its checkpoint was picked is not recorded.")
    picked = results.flags.get("best_metric", "a validation figure")
    if results.flags.get("splits_dir"):
        return Point(
            title,
            "unknown",
            f"Picked by {picked} on validation questions, with splits of the run's own (--splits-dir).",
        )
    return Point(title, "pass", f"Picked by {picked} in {validated} validations on videos that are in no other split.")


def _question_only(content: Mapping[str, Any]) -> Point:
    title = "Better than without the frame"
    rows = [row for row in content.get("baselines") or () if row["metrics"] is not None and not row["sees_frames"]]
    if not rows:
        return Point(title, "unknown", "No baseline without frames is recorded; surgvivqa eval fits them.")
    best = max(rows, key=lambda row: row["metrics"]["acc"])
    text = f"{percent(content['acc'])}% right against {percent(best['metrics']['acc'])}% ({best['title']})"
    difference = best["difference"]
    if content["acc"] <= best["metrics"]["acc"]:
        return Point(title, "warn", f"{text}: not above it.")
    if difference is None or difference["low"] is None:
        return Point(title, "unknown", f"{text}; an interval needs at least two videos.")
    ends = f"95% interval {100 * difference['low']:+.1f} to {100 * difference['high']:+.1f} points"
    interval = f"mean difference over videos {100 * difference['difference']:+.1f}, {ends}"
    if difference["low"] > 0:
        return Point(title, "pass", f"{text}: {interval}.")
    return Point(title, "warn", f"{text}: not shown to be above it ({interval}).")


def _picture(content: Mapping[str, Any]) -> Point:
    title, picture = "The frame is used", content.get("picture")
    if picture is None:
        return Point(title, "unknown", "Not checked; surgvivqa eval checks it, unless --check-samples is 0.")
    gain = picture["overall"]["black"]["gain"]
    if gain["value"] is None:
        return Point(title, "unknown", "The accuracy on black frames is not known.")
    text = f"Accuracy is {100 * gain['value']:.1f} points higher on the own frames than on black ones"
    if gain["low"] is None:
        return Point(title, "unknown", f"{text}; an interval needs at least two videos.")
    interval = f"95% interval {100 * gain['low']:+.1f} to {100 * gain['high']:+.1f}"
    return Point(title, "pass" if gain["low"] > 0 else "warn", f"{text} ({interval}).")


def _intervals(content: Mapping[str, Any]) -> Point:
    title, intervals = "Intervals over videos", content["intervals"]
    if intervals is None:
        return Point(title, "warn", "No intervals: they need at least two videos.")
    method = intervals.get("method", "")
    videos = intervals["videos"]
    if "bootstrap" in method and videos < 20:
        why = f"A {method} with {videos} videos: narrower than 95% asks for. Evaluate again for t-intervals."
        return Point(title, "warn", why)
    few = " Few videos make them wide, and differences of a few points stay undecided." if videos < 10 else ""
    return Point(
        title,
        "pass",
        f"{method[:1].upper()}{method[1:]}, {videos} videos, not questions, as the independent unit.{few}",
    )


def _seeds(results: RunResults, runs: Sequence[RunResults]) -> Point:
    title = "Several seeds"
    if not results.flags:
        return Point(title, "unknown", "The training flags are not beside the evaluation.")
    seeds = {str(run.flags.get("seed")) for run in runs if run.flags and recipe(run) == recipe(results)}
    if len(seeds) > 1:
        return Point(title, "pass", f"{len(seeds)} seeds of this recipe are on this page.")
    return Point(
        title,
        "warn",
        "One training run: how much another seed would change is not known. Report several runs together.",
    )
