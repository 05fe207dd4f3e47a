"""Compares runs on the same questions: metrics side by side, paired differences to a reference, and where they differ.

Everything is computed from ``predictions.jsonl``, so that runs evaluated by different versions are measured alike.
"""

import dataclasses
import itertools
from collections import Counter, defaultdict
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from surgvivqa.config import TrainConfig, flags_of
from surgvivqa.data.labels import LabelSet
from surgvivqa.data.splits import base_video
from surgvivqa.evaluation.metrics import TYPE_GROUPS, Metrics, compute_grouped_metrics, compute_metrics
from surgvivqa.evaluation.paired import (
    PairedDifference,
    QuestionKey,
    compare_accuracy,
    compare_metrics,
    match_predictions,
    question_key,
)
from surgvivqa.evaluation.predictions import Prediction
from surgvivqa.evaluation.published import PublishedResult, load_published, why_not_comparable
from surgvivqa.reporting.results import RunResults, name_apart
from surgvivqa.utils.errors import InputError

GroupKind = Literal["reasoning", "type", "video", "label"]
OTHER_LINES = "no template"
_EXAMPLES = 2  # questions that a refusal quotes of each run
# Flags that may differ between two runs of one recipe.
_NOT_THE_RECIPE = frozenset({"seed", "num_processes"})


@dataclass(frozen=True)
class Changes:
    """How the answers of a run differ from those of the reference, in questions.

    Attributes:
        both_right: both answer correctly.
        wrong_to_right: only the run does.
        right_to_wrong: only the reference does.
        same_mistake: both give the same wrong answer.
        other_mistake: both are wrong, with different answers.
    """

    both_right: int
    wrong_to_right: int
    right_to_wrong: int
    same_mistake: int
    other_mistake: int

    @property
    def questions(self) -> int:
        """All questions."""
        return sum(dataclasses.astuple(self))

    @property
    def changed(self) -> int:
        """Questions that get another answer."""
        return self.wrong_to_right + self.right_to_wrong + self.other_mistake

    @classmethod
    def of_pairs(cls, pairs: Sequence[tuple[Prediction, Prediction]]) -> "Changes":
        """Counts pairs of a run's prediction and the reference's for the same question."""
        counts = Counter((new.correct, old.correct, new.prediction == old.prediction) for new, old in pairs)
        return cls(
            both_right=counts[True, True, True],
            wrong_to_right=counts[True, False, False],
            right_to_wrong=counts[False, True, False],
            same_mistake=counts[False, False, True],
            other_mistake=counts[False, False, False],
        )


@dataclass(frozen=True)
class GroupComparison:
    """One group of questions.

    Attributes:
        kind: what the questions have in common.
        name: the reasoning, question type, video or true label; ``OTHER_LINES`` for lines without a template.
        metrics: the metrics of each run, the reference first.
        differences: paired differences of the accuracy, of each run but the reference.
        changes: changed answers, of each run but the reference.
    """

    kind: GroupKind
    name: str
    metrics: Sequence[Metrics]
    differences: Sequence[PairedDifference]
    changes: Sequence[Changes]


@dataclass(frozen=True)
class Comparison:
    """Runs on the same questions.

    Attributes:
        runs: the runs, the reference first.
        metrics: the metrics of each run on all questions, with their 95% intervals.
        differences: for each run but the reference, the paired differences by metric.
        changes: for each run but the reference, its changed answers.
        groups: the groups of questions, by kind.
        settings: the flags that differ between the training runs, with the value of each run.
        published: published results that may be set beside all of the runs; empty where one of them may not.
        notes: what a reader must know to judge the comparison, in sentences.
    """

    runs: Sequence[RunResults]
    metrics: Sequence[Metrics]
    differences: Sequence[Mapping[str, PairedDifference]]
    changes: Sequence[Changes]
    groups: Mapping[GroupKind, Sequence[GroupComparison]]
    settings: Mapping[str, Sequence[Any]]
    published: Sequence[PublishedResult]
    notes: Sequence[str]

    @property
    def reference(self) -> RunResults:
        """The run that the others are compared with."""
        return self.runs[0]

    @property
    def videos(self) -> int:
        """Number of videos; copies of a video count once."""
        return len(self.groups["video"])


def compare_runs(runs: Sequence[RunResults]) -> Comparison:
    """Compares runs with the first of them.

    Raises:
        InputError: there are fewer than two runs, or two of them do not have the same questions.
    """
    if len(runs) < 2:
        raise InputError(f"A comparison needs at least two runs, but {len(runs)} are given.")
    runs = name_apart(runs)
    for run in runs[1:]:
        check_same_questions(runs[0], run)
    reference, others = runs[0].predictions, [run.predictions for run in runs[1:]]
    settings = find_setting_differences(runs)
    return Comparison(
        runs=runs,
        metrics=[compute_grouped_metrics(run.predictions).overall for run in runs],
        differences=[compare_metrics(predictions, reference) for predictions in others],
        changes=[Changes.of_pairs(match_predictions(predictions, reference)) for predictions in others],
        groups=_compare_groups(runs),
        settings=settings,
        published=find_comparable_results(runs),
        notes=_write_notes(runs, settings),
    )


def check_same_questions(reference: RunResults, run: RunResults) -> None:
    """Checks that two runs answer the same questions with the same true answers.

    Raises:
        InputError: they do not. The sentence has the counts, examples, and the videos that only one has.
    """
    label_set, other = reference.report.label_set, run.report.label_set
    if label_set.labels != other.labels:
        raise InputError(
            f"{run.name} chose from the {len(other)} labels of {other.name}, but {reference.name} from the "
            f"{len(label_set)} of {label_set.name}; compare runs on one data set."
        )
    first = Counter(question_key(p) for p in reference.predictions)
    second = Counter(question_key(p) for p in run.predictions)
    if first == second and first:
        return
    if not first or not second:
        raise InputError(f"{(run if first else reference).folder} has no predictions, so it cannot be compared.")
    only_first, only_second = first - second, second - first
    shared = (first & second).total()
    relabelled = {_without_label(key) for key in only_first} & {_without_label(key) for key in only_second}
    facts = [f"{shared:,} questions are in both"]
    for name, only, others in ((reference.name, only_first, second), (run.name, only_second, first)):
        if only:
            facts.append(f"{only.total():,} only in {name} ({_examples(only, label_set)})")
            if missing := sorted({key[0] for key in only} - {key[0] for key in others}):
                facts.append(f"{_list(missing)} only in {name}")
    if relabelled:
        facts.append(f"{len(relabelled):,} questions have another true answer")
    raise InputError(
        f"{run.name} and {reference.name} do not answer the same questions: {'; '.join(facts)}. Evaluate both with the "
        f"same questions and the same --split, --only and --max-samples."
    )


def _without_label(key: QuestionKey) -> tuple[str, int, str]:
    return key[:3]


def _examples(keys: Counter[QuestionKey], label_set: LabelSet) -> str:
    """The first questions, such as ``VID02 frame 3: "Are there any tools?" True``."""
    quoted = [
        f'{video} frame {frame}: "{question}" {label_set.labels[label]}'
        for video, frame, question, label in itertools.islice(keys, _EXAMPLES)
    ]
    return ", ".join(quoted) + (", ..." if len(keys) > _EXAMPLES else "")


def _list(names: Sequence[str], most: int = 6) -> str:
    return ", ".join(names[:most]) + (f" and {len(names) - most} more videos" if len(names) > most else "")


def _metrics_of(predictions: Sequence[Prediction]) -> Metrics:
    return compute_metrics([p.answer for p in predictions], [p.prediction for p in predictions])


# The names of the groups that a question belongs to, by kind; a type has two where the authors group several types.
_KEYS: dict[GroupKind, Callable[[Prediction], Sequence[str]]] = {
    "reasoning": lambda p: [p.reasoning or OTHER_LINES],
    "type": lambda p: list(dict.fromkeys([TYPE_GROUPS.get(p.type, p.type), p.type])) if p.type else [OTHER_LINES],
    "video": lambda p: [base_video(p.video)],
    "label": lambda p: [p.answer_label],
}


def _compare_groups(runs: Sequence[RunResults]) -> dict[GroupKind, list[GroupComparison]]:
    return {kind: _compare_groups_of_kind(runs, kind) for kind in _KEYS}


def _compare_groups_of_kind(runs: Sequence[RunResults], kind: GroupKind) -> list[GroupComparison]:
    by_run = [_split_by(run.predictions, kind) for run in runs]
    groups = []
    for name in _in_order(by_run[0], kind, runs[0].report.label_set):
        reference, others = by_run[0][name], [split[name] for split in by_run[1:]]
        groups.append(
            GroupComparison(
                kind=kind,
                name=name,
                metrics=[_metrics_of(split[name]) for split in by_run],
                differences=[compare_accuracy(predictions, reference) for predictions in others],
                changes=[Changes.of_pairs(match_predictions(predictions, reference)) for predictions in others],
            )
        )
    return groups


def _split_by(predictions: Sequence[Prediction], kind: GroupKind) -> dict[str, list[Prediction]]:
    groups: dict[str, list[Prediction]] = defaultdict(list)
    for prediction in predictions:
        for name in _KEYS[kind](prediction):
            groups[name].append(prediction)
    # A type that is alone in its group of types has the same questions under another name.
    for kind_of_question, group in TYPE_GROUPS.items():
        if kind == "type" and len(groups.get(kind_of_question, ())) == len(groups.get(group, ())) > 0:
            del groups[kind_of_question]
    return dict(groups)


def _in_order(groups: Mapping[str, object], kind: GroupKind, label_set: LabelSet) -> list[str]:
    """The groups' names in the order of tables: the data set's, with other lines last."""
    if kind == "label":
        return sorted(groups, key=label_set.labels.index)
    order = {
        "reasoning": ("zero_hop", "one_hop", "single_and"),
        "type": ("existence", "counting", "object", "attribute", "query_color", "query_type", "query_location"),
        "video": (),
    }[kind]
    ranks = {name: rank for rank, name in enumerate(order)}
    return sorted(groups, key=lambda name: (name == OTHER_LINES, ranks.get(name, len(ranks)), name))


def find_comparable_results(runs: Sequence[RunResults]) -> list[PublishedResult]:
    """The published results that may be set beside the runs; none where a run is not on all official questions."""
    if any(why_not_comparable(run.report) for run in runs):
        return []
    return [result for result in load_published() if result.comparable]


def find_setting_differences(runs: Sequence[RunResults]) -> dict[str, list[Any]]:
    """The training flags whose values differ between runs, with the value of each run; None where it is not known.

    Local paths, and flags that change no result (``on_resume="free"``), are left out. Where the flags of a run are not
    known at all, nothing can be said, and the result is empty.
    """
    if not all(run.flags for run in runs):
        return {}
    values = {
        name: [run.flags.get(name) for run in runs]
        for name, properties in flags_of(TrainConfig).items()
        if not properties.is_path and properties.on_resume != "free"
    }
    return {name: row for name, row in values.items() if any(value != row[0] for value in row)}


def _write_notes(runs: Sequence[RunResults], settings: Mapping[str, Sequence[Any]]) -> list[str]:
    reports = [run.report for run in runs]
    notes = []
    if any(report.synthetic for report in reports):
        notes.append("The questions are about drawn scenes; the figures say nothing about real surgery.")
    if len({report.split for report in reports}) > 1:
        notes.append(f"The runs name different splits: {_by_run(runs, [r.split for r in reports])}.")
    elif reports[0].split != "test":
        what = "which checkpoints were picked by" if reports[0].split == "val" else "which was trained on"
        notes.append(f"These are questions of the {reports[0].split} split, {what}: test figures are usually lower.")
    if lists := dict.fromkeys(report.only.file for report in reports if report.only is not None):
        notes.append(f"Only the questions that {' and '.join(lists)} lists were asked (--only).")
    if any(report.max_samples is not None for report in reports):
        notes.append("Not all questions of the split were scored (--max-samples).")
    if skipped := max(len(report.skipped_frames) for report in reports):
        notes.append(f"Questions about {skipped} frames that cannot be used were left out.")
    for name in ("score_norm", "mask", "prompt_mode"):
        if len({getattr(report, name) for report in reports}) > 1:
            values = _by_run(runs, [getattr(report, name) for report in reports])
            notes.append(f"The runs were scored with different --{name.replace('_', '-')}: {values}.")
    precisions = [r.environment.precision if r.environment else "not recorded" for r in reports]
    if len(set(precisions)) > 1:
        notes.append(f"The runs were computed in different precisions: {_by_run(runs, precisions)}.")
    notes += _write_seed_notes(runs, settings)
    if not any(report.synthetic for report in reports) and (
        reason := next(filter(None, map(why_not_comparable, reports)), "")
    ):
        notes.append(f"No published result is set beside these runs: {reason}.")
    if len(runs) > 2:
        notes.append("The p values are of one comparison each; they are not adjusted for the number of comparisons.")
    return notes


def _write_seed_notes(runs: Sequence[RunResults], settings: Mapping[str, Sequence[Any]]) -> list[str]:
    """Says which runs have the same recipe with another seed, and which cannot be told apart."""
    if not all(run.flags for run in runs):
        unknown = [run.name for run in runs if not run.flags]
        return [f"The training flags of {' and '.join(unknown)} are not known, so recipes cannot be compared."]
    recipes: dict[Hashable, list[int]] = defaultdict(list)
    for index in range(len(runs)):
        recipe = tuple((name, str(row[index])) for name, row in settings.items() if name not in _NOT_THE_RECIPE)
        recipes[recipe].append(index)
    notes = []
    for members in recipes.values():
        names = " and ".join(runs[i].name for i in members)
        seeds = [runs[i].flags.get("seed") for i in members]
        if len(members) > 1 and len(set(seeds)) == len(seeds):
            listed = ", ".join(str(seed) for seed in seeds)
            notes.append(
                f"{names} are the same recipe with the seeds {listed}: their difference is what chance alone makes, "
                f"and a gain of another recipe should be larger."
            )
        elif len(members) > 1:
            notes.append(f"{names} were trained with the same flags and seed.")
    if len(recipes) > 1 and all(len(members) == 1 for members in recipes.values()):
        notes.append(
            "Each recipe was trained with one seed. The intervals show the spread between videos, not between seeds."
        )
    return notes


def _by_run(runs: Sequence[RunResults], values: Sequence[object]) -> str:
    return ", ".join(f"{run.name} {value}" for run, value in zip(runs, values, strict=True))
