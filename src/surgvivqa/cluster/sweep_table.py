"""The results of a sweep: mean and spread over seeds, the best configuration by the validation split, missing runs."""

import csv
import io
import json
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from surgvivqa.cluster.run_command import words
from surgvivqa.cluster.sweep_plan import SweepPlan, SweepRun
from surgvivqa.evaluation.intervals import student_interval
from surgvivqa.evaluation.metrics import METRICS, Metrics
from surgvivqa.evaluation.report import read_report
from surgvivqa.training.run_folder import FINISHED
from surgvivqa.utils.errors import InputError

_CHOSEN_ON = "val"


@dataclass(frozen=True)
class RunResult:
    """What a run of a sweep has left.

    Attributes:
        run: the run.
        metrics: the metrics by split, as far as the run is evaluated.
        fault: what is missing, in words; None if nothing is.
    """

    run: SweepRun
    metrics: dict[str, Metrics]
    fault: str | None


@dataclass(frozen=True)
class Configuration:
    """The runs of a sweep that differ only in the seed.

    Attributes:
        label: their values, as given on the command line; ``all`` if only the seed varies.
        results: the runs.
    """

    label: str
    results: Sequence[RunResult]

    def values(self, split: str, metric: str) -> list[float]:
        """A metric of the runs that are evaluated on a split, as fractions."""
        return [getattr(r.metrics[split], metric) for r in self.results if split in r.metrics]

    @property
    def is_complete(self) -> bool:
        """Whether nothing is missing."""
        return all(result.fault is None for result in self.results)


def collect_results(plan: SweepPlan, folder: Path) -> list[RunResult]:
    """Reads what the runs of a sweep have left in its folder."""
    return [_read_run(run, folder / run.name, plan.splits) for run in plan.runs]


def group_results(results: Sequence[RunResult]) -> list[Configuration]:
    """The configurations of a sweep, in the order of their first runs."""
    groups: dict[str, list[RunResult]] = {}
    for result in results:
        groups.setdefault(result.run.label, []).append(result)
    return [Configuration(label or "all", members) for label, members in groups.items()]


def choose_best(configurations: Sequence[Configuration], metric: str) -> Configuration | None:
    """The configuration with the highest mean on the validation split, of those of which no run is missing.

    The first of equal ones; None if there is none, or nothing is evaluated on the validation split.
    """
    complete = [c for c in configurations if c.is_complete and c.values(_CHOSEN_ON, metric)]
    return max(complete, key=lambda c: statistics.fmean(c.values(_CHOSEN_ON, metric)), default=None)


def format_markdown(plan: SweepPlan, folder: Path, results: Sequence[RunResult]) -> str:
    """The table of a sweep as Markdown: a row for each configuration, the choice, and the missing runs."""
    configurations = group_results(results)
    best = choose_best(configurations, plan.metric)
    missing = [result for result in results if result.fault is not None]
    lines = [f"# Sweep {folder}", ""]
    lines += [_describe_choice(plan, best, configurations), ""]
    header = ["configuration", "runs", *(f"{split} {plan.metric}, %" for split in plan.splits)]
    lines += [_row(header), _row(["---"] * len(header))]
    for configuration in configurations:
        done = sum(result.fault is None for result in configuration.results)
        label = f"**{configuration.label}**" if configuration is best else configuration.label
        cells = [_format_spread(configuration.values(split, plan.metric)) for split in plan.splits]
        lines.append(_row([label, f"{done} of {len(configuration.results)}", *cells]))
    lines += ["", "Mean ± standard deviation over seeds [95% interval of the mean by Student's t over seeds]."]
    lines.append("It shows how far training varies; how far the test videos do is in each run's metrics.json.")
    if len({(split, m.n) for r in results for split, m in r.metrics.items()}) > len(plan.splits):
        lines += ["", "The runs were evaluated on different numbers of questions, so they cannot be compared."]
    if missing:
        lines += ["", f"Missing, {len(missing)} of {len(results)}:", ""]
        for result in missing:
            values = ", ".join(f"{n.replace('_', '-')}={v}" for n, v in result.run.values.items())
            lines.append(f"- task {result.run.task} ({values}): {result.fault}")
        tasks = ",".join(str(result.run.task) for result in missing)
        lines += ["", f"Repeat them: `sbatch --array={tasks} {words(plan.script)}`"]
    return "\n".join(lines) + "\n"


def format_csv(plan: SweepPlan, results: Sequence[RunResult]) -> str:
    """The results of all runs as CSV, a row for each run; figures are fractions, and empty where one is missing."""
    text = io.StringIO()
    names = [(split, metric) for split in plan.splits for metric in ("n", *METRICS)]
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["task", *plan.varied, "run", "missing", *(f"{split}_{metric}" for split, metric in names)])
    for result in results:
        figures = [getattr(result.metrics[s], m) if s in result.metrics else "" for s, m in names]
        values = [result.run.values[name] for name in plan.varied]
        writer.writerow([result.run.task, *values, result.run.name, result.fault or "", *figures])
    return text.getvalue()


def _describe_choice(plan: SweepPlan, best: Configuration | None, configurations: Sequence[Configuration]) -> str:
    if _CHOSEN_ON not in plan.splits:
        return "No configuration is chosen, because the runs are not evaluated on the validation split."
    if best is None:
        return "No configuration is chosen yet, because each lacks a run."
    open_ones = sum(not c.is_complete for c in configurations)
    note = f"; {open_ones} of {len(configurations)} configurations lack runs and were left out" if open_ones else ""
    mean = statistics.fmean(best.values(_CHOSEN_ON, plan.metric))
    if len(configurations) == 1:
        return f"One configuration, {plan.metric} {100 * mean:.1f}% on the validation split."
    return (
        f"Chosen on the validation split: **{best.label}**, with {plan.metric} {100 * mean:.1f}%{note}. The other "
        f"splits had no part in the choice."
    )


def _format_spread(values: Sequence[float]) -> str:
    if not values:
        return "missing"
    mean = f"{100 * statistics.fmean(values):.1f}"
    interval = student_interval(values, 0.0, 1.0)
    if interval is None:
        return mean
    return f"{mean} ± {100 * statistics.stdev(values):.1f} [{100 * interval[0]:.1f}, {100 * interval[1]:.1f}]"


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |"


def _read_run(run: SweepRun, folder: Path, splits: Sequence[str]) -> RunResult:
    metrics: dict[str, Metrics] = {}
    faults = []
    for split in splits:
        path = folder / f"eval-{split}" / "metrics.json"
        try:
            metrics[split] = read_report(path).metrics.overall
        except InputError:
            faults.append(f"{path} cannot be read" if path.exists() else f"not evaluated on {split}")
    fault = _describe_state(folder) or "; ".join(faults)
    return RunResult(run, metrics, fault or None)


def _describe_state(folder: Path) -> str:
    """How far the training of a run is, in words; empty if it is finished."""
    if (folder / FINISHED).is_file():
        return ""
    step = _last_step(folder / "metrics.jsonl")
    if step is not None:
        return f"not finished, last figures at step {step}"
    return "not finished, no figures yet" if folder.is_dir() else "not started"


def _last_step(path: Path) -> int | None:
    try:
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return None
    for line in reversed(lines):
        try:
            return int(json.loads(line)["step"])
        except (ValueError, KeyError, TypeError, RecursionError):  # a line that is being written
            continue
    return None
