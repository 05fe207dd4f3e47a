"""The report of one or more runs as one HTML page."""

from collections.abc import Sequence
from pathlib import Path

from surgvivqa.reporting.charts import check_charts
from surgvivqa.reporting.checklist import SOURCES
from surgvivqa.reporting.page import Entry, render_page
from surgvivqa.reporting.results import RunResults, name_apart
from surgvivqa.reporting.run_view import RunView, build_run_view
from surgvivqa.reporting.seeds import RecipeRow, recipe_rows

SECTIONS = {
    "trust": "Can one trust it?",
    "results": "Results by group",
    "gallery": "Questions and frames",
    "confusion": "What is confused",
    "labels": "Label by label",
    "picture": "Does it look?",
    "calibration": "Calibration",
    "robustness": "Robustness",
    "contradictions": "Contradictions",
    "wordings": "Wordings",
    "generation": "Generated answers",
    "evidence": "Where it looks",
    "training": "Training",
    "data": "Data",
    "settings": "Settings",
}


def render_report(runs: Sequence[RunResults], image_root: Path | None = None, pictures: int = 120) -> str:
    """Renders the report of one or more runs.

    Args:
        runs: the runs.
        image_root: the folder of the frames; by default the one that each run was trained with.
        pictures: number of questions in the galleries of all runs together.

    Raises:
        InputError: the packages for charts are not installed.
    """
    check_charts()
    runs = name_apart(runs)
    share = -(-pictures // len(runs))
    views = [build_run_view(run, number, runs, image_root, share) for number, run in enumerate(runs, start=1)]
    rows: list[RecipeRow] = recipe_rows(runs) if len(runs) > 1 else []
    return render_page(
        "report.html",
        title=views[0].name if len(views) == 1 else f"{len(views)} runs",
        overline="Evaluation report, surgical visual question answering",
        byline=views[0].byline if len(views) == 1 else [view.name for view in views],
        contents=_contents(views),
        views=views,
        sections=SECTIONS,
        recipes=rows,
        checklist_sources=SOURCES,
    )


def _contents(views: Sequence[RunView]) -> list[Entry]:
    """The sections of one run; of several runs their names, and the sections of each where there are two."""
    entries = [Entry("runs", "Side by side")] if len(views) > 1 else []
    for view in views:
        if len(views) > 1:
            entries.append(Entry(view.id, view.name, of_run=True))
        if len(views) <= 2:
            entries.append(Entry(f"{view.id}-summary", "Summary"))
            entries += [Entry(f"{view.id}-{name}", title) for name, title in SECTIONS.items()]
    return entries
