"""The baselines of an evaluation: fitted on the questions of the training split, or read from other evaluations."""

import itertools
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

from surgvivqa.data.labels import SSG_QA, LabelSet
from surgvivqa.data.splits import Splits
from surgvivqa.data.ssgqa import FrameQuestions
from surgvivqa.datasets.opening import Dataset
from surgvivqa.evaluation.baseline_rows import Baseline, build_baseline, missing_baselines
from surgvivqa.evaluation.baselines import MAX_FITTED, PER_QUESTION, TITLES, LabelledQuestions, predict_baselines
from surgvivqa.evaluation.paired import question_key
from surgvivqa.evaluation.predictions import Prediction
from surgvivqa.reporting.results import RunResults, read_results
from surgvivqa.utils.errors import InputError


def read_baseline_runs(
    folders: Sequence[Path],
    split: str,
    frames: Iterable[FrameQuestions],
    missing: Iterable[tuple[str, int]],
    label_set: LabelSet = SSG_QA,
) -> list[RunResults]:
    """Reads other evaluations and checks that they are about the questions that are asked.

    Args:
        folders: folders of evaluations, or run folders.
        split: the split that is evaluated.
        frames: the frames with their questions.
        missing: video and number of the frames that cannot be used; an evaluation may or may not have them.
        label_set: the labels of the questions.

    Raises:
        InputError: one of them cannot be read, or is about other questions.
    """
    if not folders:
        return []
    unusable = set(missing)
    asked = Counter(
        question_key(Prediction.of_question(question, question.label))
        for frame in frames
        if (frame.video, frame.frame) not in unusable
        for question in frame.questions
    )
    runs = [read_results(folder, split) for folder in folders]
    for run in runs:
        if run.report.label_set.labels != label_set.labels:
            raise InputError(
                f"--baseline {run.folder} chose from the labels of {run.report.label_set.name}, not of "
                f"{label_set.name}; evaluate it on the same data set."
            )
        found = Counter(question_key(p) for p in run.predictions if (p.video, p.frame) not in unusable)
        lacking, others = asked - found, found - asked
        if lacking or others:
            video, number, text, _ = next(itertools.chain(lacking, others))
            raise InputError(
                f"--baseline {run.folder} is about other questions: it lacks {lacking.total():,} of {asked.total():,}, "
                f"and has {others.total():,} others (first: {video}, frame {number}: {text!r}); "
                f"evaluate it on the same --split and --ssgvqa-root, with the same --max-samples."
            )
    return runs


def compute_baselines(
    predictions: Sequence[Prediction], runs: Sequence[RunResults], dataset: Dataset, split: str
) -> list[Baseline]:
    """Computes the section ``baselines``: those fitted on the training split, then other evaluations.

    Args:
        predictions: of the model.
        runs: other evaluations of the same questions.
        dataset: the data set, whose splits name the training videos.
        split: the split that is evaluated.
    """
    train, note = _read_training_questions(dataset, dataset.splits)
    if train is None:
        rows = missing_baselines(note)
    else:
        if split == "train":
            note = "; ".join(filter(None, [note, "they are fitted on the questions that they are asked"]))
        fitted = predict_baselines(train, predictions)
        titles = TITLES if dataset.is_ssgqa else TITLES | {"majority_by_template": PER_QUESTION}
        rows = [build_baseline(name, titles[name], predictions, fitted[name], note=note or None) for name in titles]
    return rows + [_row_of_run(run, predictions) for run in runs]


def compute_fold_baselines(folds: Sequence[tuple[Sequence[Prediction], Splits]], dataset: Dataset) -> list[Baseline]:
    """The baselines of a cross-validation: fitted for each fold on its own training videos, and then put together.

    Args:
        folds: the predictions and the splits of each fold.
        dataset: the data set.
    """
    fitted: dict[str, list[Prediction]] = {name: [] for name in TITLES}
    notes: dict[str, None] = {}
    for predictions, splits in folds:
        train, note = _read_training_questions(dataset, splits)
        if train is None:
            return missing_baselines(note)
        if note:
            notes[f"fold {splits.fold}: {note}"] = None
        for name, found in predict_baselines(train, predictions).items():
            fitted[name] += found
    everything = [prediction for predictions, _ in folds for prediction in predictions]
    limits = "; ".join(notes) or None
    return [build_baseline(name, TITLES[name], everything, fitted[name], note=limits) for name in TITLES]


def _read_training_questions(dataset: Dataset, splits: Splits) -> tuple[LabelledQuestions | None, str]:
    """The questions of the training videos, and what limits them; None with the reason if there are none."""
    try:
        videos = dataset.existing_videos(splits.train)
        train = LabelledQuestions.of_frames(dataset.questions(videos)[0])
    except InputError:
        return None, "the questions of the training split, on which baselines are fitted, are not there"
    if not len(train.text):
        return None, "the training split, on which baselines are fitted, has no usable question"
    notes = []
    if len(videos) < len(splits.train):
        notes.append(f"they are fitted on {len(videos)} of the {len(splits.train)} training videos, the ones there are")
    if len(train.text) > MAX_FITTED:
        notes.append(
            f"the regression of the question-only one is fitted on {MAX_FITTED:,} of {len(train.text):,} training "
            f"questions, drawn at random"
        )
    return train, "; ".join(notes)


def _row_of_run(run: RunResults, predictions: Sequence[Prediction]) -> Baseline:
    """The row of another evaluation, on the questions that the model answered."""
    wanted = Counter(map(question_key, predictions))
    answers = []
    for answer in run.predictions:
        key = question_key(answer)
        if wanted[key] > 0:
            wanted[key] -= 1
            answers.append(answer)
    is_blank = run.flags.get("blank_video") is True
    title = f"{run.name}, trained on a blank picture" if is_blank else run.name
    sees_frames = run.report.frames != "black"
    return build_baseline(str(run.folder), title, predictions, answers, sees_frames=sees_frames)
