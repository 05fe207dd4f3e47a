"""Several runs of one recipe with different seeds: their mean and spread."""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import mean, stdev

from surgvivqa.evaluation.metrics import METRICS
from surgvivqa.reporting.results import RunResults
from surgvivqa.reporting.trust import recipe


@dataclass(frozen=True)
class Spread:
    """A metric over the seeds of a recipe, as fractions.

    Attributes:
        mean: the mean of the runs.
        sd: their standard deviation.
        least: the lowest figure.
        most: the highest figure.
    """

    mean: float
    sd: float
    least: float
    most: float


@dataclass(frozen=True)
class RecipeRow:
    """The runs of one recipe.

    Attributes:
        names: the names of the runs.
        seeds: their seeds.
        metrics: each metric over the runs.
    """

    names: Sequence[str]
    seeds: Sequence[str]
    metrics: dict[str, Spread]


def recipe_rows(runs: Sequence[RunResults]) -> list[RecipeRow]:
    """The recipes that more than one seed was trained with, evaluated on the same split and number of questions."""
    groups: dict[object, list[RunResults]] = {}
    for run in runs:
        if run.flags:
            report = run.report
            groups.setdefault((recipe(run), report.split, report.metrics.overall.n), []).append(run)
    rows = []
    for group in groups.values():
        seeds = [str(run.flags.get("seed")) for run in group]
        if len(set(seeds)) > 1:
            values = {name: [getattr(run.report.metrics.overall, name) for run in group] for name in METRICS}
            spreads = {name: Spread(mean(v), stdev(v), min(v), max(v)) for name, v in values.items()}
            rows.append(RecipeRow([run.name for run in group], seeds, spreads))
    return rows
