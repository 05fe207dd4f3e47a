"""Counts of questions by split, video, type, reasoning and label, and what the questions alone give away.

Everything is computed from ``FrameQuestions``; the names of types and of reasonings are those of the questions.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from surgvivqa.data.labels import LABELS, SSG_QA, LabelSet
from surgvivqa.data.ssgqa import FrameQuestions, ReadReport
from surgvivqa.evaluation.baselines import TITLES, LabelledQuestions, predict_baselines
from surgvivqa.evaluation.metrics import Metrics, compute_grouped_metrics
from surgvivqa.evaluation.predictions import Prediction

WITHOUT = "(none)"  # the type or reasoning of lines without one


@dataclass
class SplitStats:
    """The counts of a split.

    Attributes:
        split: its name.
        named: number of videos that the split names.
        missing: those that are not there.
        frames: number of frames with a question.
        questions: number of questions.
        distinct: number of different questions.
        by_video: questions of each video.
        by_type: questions of each type.
        by_reasoning: questions of each reasoning.
        by_label: questions of each answer, in label order.
        lines: number of lines of the question files.
        skipped: lines and files that were left out, by reason; ``comma_answer`` are lines with several answers.
        suspect: what is read and looks wrong, by reason.
    """

    split: str
    named: int
    missing: Sequence[str]
    frames: int = 0
    questions: int = 0
    distinct: int = 0
    by_video: Counter[str] = field(default_factory=Counter)
    by_type: Counter[str] = field(default_factory=Counter)
    by_reasoning: Counter[str] = field(default_factory=Counter)
    by_label: dict[str, int] = field(default_factory=dict)
    lines: int = 0
    skipped: Mapping[str, int] = field(default_factory=dict)
    suspect: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Prior:
    """What a baseline that never sees a frame reaches on a split, fitted on the training split.

    Attributes:
        split: the split that is asked.
        name: a key of ``baselines.TITLES``.
        title: what it is.
        metrics: its metrics on all questions.
        by_type: its metrics by type, and by the authors' groups of types.
    """

    split: str
    name: str
    title: str
    metrics: Metrics
    by_type: Mapping[str, Metrics]


@dataclass(frozen=True)
class QuestionStats:
    """The counts of all splits, and the priors.

    Attributes:
        splits: the counts of each split.
        priors: the rows of the asked splits, in their order; empty without training questions.
        note: why there are no priors, or what limits them; None if there is nothing to say.
    """

    splits: Sequence[SplitStats]
    priors: Sequence[Prior]
    note: str | None


def count_questions(
    stats: SplitStats, frames: Iterable[FrameQuestions], report: ReadReport, labels: Sequence[str] = LABELS
) -> Iterator[FrameQuestions]:
    """Passes on the frames of a split and counts them in ``stats``, which is complete when all are passed on.

    Args:
        stats: gets the counts.
        frames: the frames with their questions.
        report: the report on the files.
        labels: the names of the labels.
    """
    texts, by_label = set[str](), Counter[int]()
    for frame in frames:
        stats.frames += 1
        stats.questions += len(frame.questions)
        stats.by_video[frame.video] += len(frame.questions)
        for question in frame.questions:
            texts.add(question.question)
            by_label[question.label] += 1
            stats.by_type[question.type or WITHOUT] += 1
            stats.by_reasoning[question.reasoning or WITHOUT] += 1
        yield frame
    stats.distinct = len(texts)
    stats.by_label = {labels[index]: by_label[index] for index in sorted(by_label)}
    stats.lines, stats.skipped, stats.suspect = report.lines, dict(report.skipped), dict(report.suspect)


def measure_priors(
    train: LabelledQuestions, split: str, frames: Iterable[FrameQuestions], label_set: LabelSet = SSG_QA
) -> list[Prior]:
    """What each baseline of ``baselines.TITLES`` reaches on a split.

    Args:
        train: the questions of the training split, at least one.
        split: the split that is asked.
        frames: its frames with their questions.
        label_set: the labels.

    Returns:
        A row for each baseline; none if the split has no question.
    """
    asked = [
        Prediction.of_question(question, question.label, label_set=label_set)
        for frame in frames
        for question in frame.questions
    ]
    if not asked:
        return []
    rows = []
    for name, predictions in predict_baselines(train, asked).items():
        found = compute_grouped_metrics(predictions)
        rows.append(Prior(split, name, TITLES[name], found.overall, found.by_type))
    return rows
