"""Everything that a report shows of one run."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from surgvivqa.checkpoints.public_settings import part_name
from surgvivqa.data.labels import SSG_QA
from surgvivqa.evaluation.picture_check import picture_verdicts
from surgvivqa.explanation.overlay import read_overlays
from surgvivqa.reporting.charts import Curve
from surgvivqa.reporting.checklist import ChecklistItem, build_checklist
from surgvivqa.reporting.confusion import Confusion, build_confusion
from surgvivqa.reporting.gallery import Gallery, Pictures, choose_predictions, item_of, with_overlay
from surgvivqa.reporting.headline import (
    Figure,
    HeadlineRow,
    figures_of,
    group_verdict,
    headline_notes,
    headline_rows,
    lead,
    picture_rows,
    published_rows,
    stored_verdicts,
)
from surgvivqa.reporting.result_tables import GroupTable, group_tables
from surgvivqa.reporting.results import RunResults, find_image_root
from surgvivqa.reporting.sections import MISSING, Sections, Verdict, build_sections
from surgvivqa.reporting.settings_table import Setting, settings_of
from surgvivqa.reporting.training_curves import training_curves
from surgvivqa.reporting.trust import Point, trust_points

OVERLAY_LEGEND = (
    "A map is yellow where it is greatest and dark blue where it is least, each on its own scale. Boxes are solid "
    "around objects that the question asks about, dashed around others that it names. The section “Where it looks” "
    "says which maps to believe."
)


@dataclass(frozen=True)
class RunView:
    """What the template ``_run.html`` shows of a run.

    Attributes:
        id: prefix of the ids of its sections.
        name: its name.
        n: number of questions.
        byline: the facts below its name.
        lead: the first verdict.
        verdicts: the further sentences.
        figures: the five metrics.
        interval_note: what the intervals are.
        headline: the run beside its baselines.
        headline_notes: what is missing beside it.
        trust: what one needs to know to trust the figures.
        checklist: the reporting checklist, filled from the run.
        tables: results by group.
        confusion: confusion matrix and figures by label.
        gallery: the questions with pictures.
        sections: the sections that not every evaluation has.
        missing: by section, what a page says in its place.
        curves: the training curves.
        facts: rows (name, value) about the data.
        videos: rows (video, questions, frames).
        skipped: rows (reason, number) of lines that were left out.
        skipped_frames: rows (video, frame, why) of frames that were left out.
        evaluation: rows (name, value) about the evaluation.
        settings: the flags of training.
    """

    id: str
    name: str
    n: int
    byline: Sequence[str]
    lead: Verdict
    verdicts: Sequence[Verdict]
    figures: Sequence[Figure]
    interval_note: str
    headline: Sequence[HeadlineRow]
    headline_notes: Sequence[str]
    trust: Sequence[Point]
    checklist: Sequence[ChecklistItem]
    tables: Sequence[GroupTable]
    confusion: Confusion
    gallery: Gallery
    sections: Sections
    missing: Mapping[str, str]
    curves: Sequence[Curve]
    facts: Sequence[tuple[str, str]]
    videos: Sequence[tuple[str, int, int]]
    skipped: Sequence[tuple[str, int]]
    skipped_frames: Sequence[tuple[str, int, str]]
    evaluation: Sequence[tuple[str, str]]
    settings: Sequence[Setting]


def build_run_view(
    results: RunResults, number: int, runs: Sequence[RunResults], image_root: Path | None, pictures: int
) -> RunView:
    """Computes everything that a report shows of a run.

    Args:
        results: the run.
        number: its number on the page, from 1.
        runs: all runs of the page.
        image_root: the folder of the frames; by default the one that the run was trained with.
        pictures: number of questions in the gallery.
    """
    content = results.report.to_json()
    sections = build_sections(content)
    types = group_verdict(content)
    picture = results.report.picture
    first = lead(content)
    # The section about the picture says the same in one sentence.
    repeated = [first.text, *([] if picture is None else picture_verdicts(picture))]
    stored = [verdict for verdict in stored_verdicts(content) if verdict.text not in repeated]
    verdicts = [*stored, *sections.verdicts, *([] if types is None else [types])]
    verdicts.sort(key=lambda verdict: verdict.mark == "plain")  # what says neither good nor bad comes last
    return RunView(
        id=f"run{number}",
        name=results.name,
        n=content["n"],
        byline=byline(results),
        lead=first,
        verdicts=verdicts,
        figures=figures_of(content),
        interval_note=_interval_note(content["intervals"]),
        headline=headline_rows(
            results.name, content, [*picture_rows(content.get("picture")), *published_rows(results.report)]
        ),
        headline_notes=headline_notes(content),
        trust=trust_points(results, content, runs),
        checklist=build_checklist(results),
        tables=group_tables(content),
        confusion=build_confusion(results.predictions, content.get("by_label")),
        gallery=_gallery(results, image_root, pictures),
        sections=sections,
        missing=MISSING,
        curves=training_curves(results.log),
        facts=_data_facts(content),
        videos=_videos(results),
        skipped=sorted(content["skipped"].items()),
        skipped_frames=[(f["video"], f["frame"], f["why"]) for f in content["skipped_frames"][:50]],
        evaluation=_evaluation_facts(content),
        settings=settings_of(results.flags),
    )


def _interval_note(intervals: Mapping[str, Any] | None) -> str:
    if intervals is None:
        return "no intervals, which need at least two videos"
    return f"95% intervals by {intervals['method']}, {intervals['videos']} videos"


def byline(results: RunResults) -> list[str]:
    """The facts below a run's name."""
    report = results.report
    parts = [
        f"{report.split} split",
        f"{report.metrics.overall.n:,} questions",
        f"{len(report.metrics.by_video)} video{'s' if len(report.metrics.by_video) != 1 else ''}",
    ]
    if report.crossval is not None:
        fold = report.crossval.fold
        parts.append(f"fold {fold}" if fold else f"cross-validation of {len(report.crossval.folds)} folds")
    shown = report.to_json().get("frames", "own")
    if shown != "own":
        parts.append(f"asked on {'black frames' if shown == 'black' else 'frames of other videos'}")
    if report.only is not None:
        parts.append(f"only those of {report.only.file}")
    if report.synthetic:
        parts.append("synthetic scenes")
    if report.environment is not None:
        parts.append(report.environment.finished[:10])
    return parts


def _gallery(results: RunResults, image_root: Path | None, count: int) -> Gallery:
    pictures = Pictures(image_root or find_image_root(results))
    items = []
    overlays = read_overlays(results.folder)
    for prediction in choose_predictions(results.predictions, count, preferred=overlays):
        item = item_of(prediction)
        overlay = overlays.get((item.video, item.frame, item.question))
        if overlay is not None:
            item = with_overlay(item, overlay)
        found = pictures.picture(prediction.video, prediction.frame, prediction.image)
        items.append(item if found is None else replace(item, picture=found[0], width=found[1], height=found[2]))
    legend = OVERLAY_LEGEND if any(item.maps for item in items) else ""
    if items:
        note = pictures.note((item.video, item.frame) for item in items)
    else:
        note = "There are no questions." if count else "No question is shown, because --pictures is 0."
    return Gallery(items, legend=legend, note=note)


def _data_facts(content: Mapping[str, Any]) -> list[tuple[str, str]]:
    data_set = "SSG-QA" if content["label_set"]["name"] == SSG_QA.name else content["label_set"]["name"]
    unknown = "not recorded" if data_set == "SSG-QA" else data_set
    source = {True: "drawn by surgvivqa synth", False: data_set, None: unknown}[content["synthetic"]]
    limit, only = content["max_samples"], content.get("only")
    asked = "all" if only is None else f"those that {only['file']} lists (--only; SHA-256 {only['sha256'][:12]})"
    return [
        ("Questions", f"{content['n']:,}, {source}"),
        ("Split", content["split"]),
        ("Videos", str(len(content["by_video"]))),
        ("Asked", asked if limit is None else f"a sample of at most {limit:,} (--max-samples) of {asked}"),
    ]


def _videos(results: RunResults) -> list[tuple[str, int, int]]:
    frames: dict[str, set[int]] = {}
    for prediction in results.predictions:
        frames.setdefault(prediction.video, set()).add(prediction.frame)
    return [(name, m.n, len(frames.get(name, ()))) for name, m in sorted(results.report.metrics.by_video.items())]


def _evaluation_facts(content: Mapping[str, Any]) -> list[tuple[str, str]]:
    facts = [
        ("Checkpoint", part_name(content["checkpoint"]) if content["checkpoint"] else "not recorded"),
        ("Attention mask", content["mask"]),
        ("Prompt", content["prompt_mode"]),
        ("Label score", f"{content['score_norm']} of the tokens' log-probabilities"),
        ("Loss", "not computed" if content["loss"] is None else f"{content['loss']:.3f} nats per question"),
    ]
    environment = content["environment"]
    if environment is None:
        return [*facts, ("Environment", "not recorded; evaluations of this version record it")]
    seconds = environment["seconds"]
    rate = f", {content['n'] / seconds:,.0f} questions per second" if seconds > 0 else ""
    return [
        *facts,
        ("Device", environment["device"]),
        ("Precision", environment["precision"]),
        ("Processes", str(environment["processes"])),
        ("Duration", f"{seconds:,.0f} s{rate}"),
        ("Finished", environment["finished"]),
        ("Versions", ", ".join(f"{name} {version}" for name, version in environment["versions"].items())),
    ]
