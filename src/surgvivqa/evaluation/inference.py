"""Predicts the answers to questions about frames, for validation and evaluation.

``predict_frames`` encodes some frames at a time and scores the labels of their questions with
``model.scoring.score_labels``.
"""

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from rich.progress import track
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from surgvivqa.data.frames import BadFrame
from surgvivqa.data.index import question_counts
from surgvivqa.data.labels import LABELS
from surgvivqa.data.ssgqa import FrameQuestions, Question
from surgvivqa.evaluation.predictions import Prediction
from surgvivqa.features.frame_reader import FrameInputs, FrameReader
from surgvivqa.features.source import read_good_frames
from surgvivqa.features.video_tokens import VideoTokenSource
from surgvivqa.model.attention import CrossAttentionCache
from surgvivqa.model.bundle import ModelBundle
from surgvivqa.model.label_trie import LabelTrie
from surgvivqa.model.scoring import find_best_labels, normalise_scores, score_labels
from surgvivqa.utils.errors import FrameError, RunError
from surgvivqa.utils.loader_workers import ignore_signals, limit_workers, start_workers

# Keys and values for cross-attention of all frames of a pass are in memory, 116 MB per frame at full size.
MAX_FRAMES_PER_PASS = 32


class _FrameGroups(Dataset[Any]):
    """Groups of frames that are scored together.

    An item is the usable frames of a group, their inputs (None if no frame is usable), and the bad frames.
    """

    def __init__(self, frames: Sequence[FrameQuestions], groups: Sequence[range], reader: FrameReader) -> None:
        self.frames, self.groups, self.reader = frames, groups, reader

    def __len__(self) -> int:
        return len(self.groups)

    def __getitem__(self, index: int) -> tuple[list[FrameQuestions], FrameInputs | None, tuple[BadFrame, ...]]:
        inputs, good, bad = read_good_frames(self.reader, [(self.frames[i], ()) for i in self.groups[index]])
        return [frame for frame, _ in good], inputs, bad


def group_frames(counts: Iterable[int], max_questions: int) -> list[range]:
    """Groups consecutive frames with up to ``max_questions`` questions; a frame with more forms a separate group.

    A group has at most ``MAX_FRAMES_PER_PASS`` frames.

    Args:
        counts: number of questions of each frame.
        max_questions: maximum number of questions in a group of several frames.

    Returns:
        The indices of each group's frames.
    """
    groups, num_questions = [range(0)], 0
    for index, count in enumerate(counts):
        if groups[-1] and (num_questions + count > max_questions or len(groups[-1]) == MAX_FRAMES_PER_PASS):
            groups.append(range(index, index))
            num_questions = 0
        groups[-1] = range(groups[-1].start, index + 1)
        num_questions += count
    return [group for group in groups if group]


@dataclass(frozen=True)
class InferenceOptions:
    """How predictions are made.

    Attributes:
        score_norm: ``sum`` or ``mean`` of a label's token log-probabilities; ranks the labels and gives the
            probabilities.
        batch_size: maximum number of questions in one pass. Frames share a pass until it is full; a frame with more
            questions is encoded once for its several passes.
        workers: processes that decode frames.
        keep_scores: keep the scores of all labels in the predictions.
        answer_only: skip the scores of labels that cannot win; predictions then have no probabilities and no loss.
            Only for ``sum``, and for masks under which labels share a prompt.
        progress: show a progress bar on a terminal.
    """

    score_norm: str = "sum"
    batch_size: int = 40
    workers: int = 0
    keep_scores: bool = False
    answer_only: bool = False
    progress: bool = False


@torch.inference_mode()
def predict_frames(
    bundle: ModelBundle,
    frames: Sequence[FrameQuestions],
    video_source: VideoTokenSource,
    options: InferenceOptions,
    *,
    bad: list[BadFrame] | None = None,
    max_bad_frames: int = 0,
    stopped: Callable[[], object] = lambda: None,
) -> list[Prediction]:
    """Predicts the label of every question.

    Args:
        bundle: the model in eval mode, with its tokenizer and settings.
        frames: frames with their questions.
        video_source: encodes the frames or reads their cached video tokens.
        options: how predictions are made.
        bad: receives the bad frames, whose questions are left out. If it is None, a bad frame is an error.
        max_bad_frames: with more bad frames than this, the remaining frames are left out too.
        stopped: called before each group of frames; if it returns a true value, the remaining frames are left out.

    Returns:
        One prediction per question, in the order of ``frames``.

    Raises:
        FrameError: there is a bad frame, and ``bad`` is None.
        RunError: a score is not finite.
    """
    scorer = _Scorer(bundle, options)
    groups = _FrameGroups(frames, group_frames(question_counts(frames), options.batch_size), video_source.reader)
    workers = limit_workers(options.workers) if len(groups) > 1 else 0
    loader = start_workers(DataLoader(groups, batch_size=None, num_workers=workers, worker_init_fn=ignore_signals))
    predictions: list[Prediction] = []
    for usable, inputs, bad_frames in track(
        loader, "eval", len(groups), disable=not options.progress or not os.isatty(2)
    ):
        if stopped():
            break
        if bad_frames and bad is None:
            raise FrameError(bad_frames[0].why)
        if bad is not None:
            bad += bad_frames
            if len(bad) > max_bad_frames:
                break
        if inputs is None:
            continue
        passes = list(_split_into_passes(usable, options.batch_size))
        video = CrossAttentionCache(video_source(inputs), reuse=options.answer_only or len(passes) > 1)
        for questions_by_frame in passes:
            predictions += scorer.predict(questions_by_frame, video)
        del video  # frees the memory before the next frames are encoded
    return predictions


class _Scorer:
    """Scores the labels of questions and turns the scores into predictions."""

    def __init__(self, bundle: ModelBundle, options: InferenceOptions) -> None:
        self.model, self.mask, self.options = bundle.model, bundle.settings.mask, options
        self.prompt_tokenizer = bundle.prompt_tokenizer()
        self.trie = LabelTrie(self.prompt_tokenizer.label_ids)

    def predict(self, questions_by_frame: Sequence[Sequence[Question]], video: CrossAttentionCache) -> list[Prediction]:
        """Predicts the answers to the questions of some frames.

        Args:
            questions_by_frame: the questions of each frame.
            video: the video tokens of these frames.
        """
        ids = [[self.prompt_tokenizer.prompt_ids(q.question) for q in frame] for frame in questions_by_frame]
        questions = [q for frame in questions_by_frame for q in frame]
        if self.options.answer_only:
            labels, sums, _ = find_best_labels(self.model, ids, video, self.trie, self.mask)
            _check_finite(questions, sums)
            return [Prediction.of_question(q, label) for q, label in zip(questions, labels.tolist(), strict=True)]
        scores = score_labels(self.model, ids, video, self.trie, self.mask).float().cpu()
        _check_finite(questions, scores.sum(dim=1))
        rankings, probabilities = normalise_scores(scores, self.trie, self.options.score_norm)
        return [
            self._build_prediction(*values) for values in zip(questions, scores, rankings, probabilities, strict=True)
        ]

    def _build_prediction(self, question: Question, scores: Tensor, ranking: Tensor, probability: Tensor) -> Prediction:
        best = ranking.sort(descending=True, stable=True).indices[:5].tolist()  # the first label wins a tie
        top5 = [(LABELS[label], float(probability[label])) for label in best]
        return Prediction.of_question(
            question,
            best[0],
            probability=top5[0][1],
            loss=-float(scores[question.label]),
            top5=top5,
            scores=scores.tolist() if self.options.keep_scores else None,
        )


def _check_finite(questions: Sequence[Question], values: Tensor) -> None:
    """Raises RunError if a question's value is not finite; ``values`` is ``[Q]`` float."""
    if not values.isfinite().all():
        question = questions[int((~values.isfinite()).int().argmax())]
        line = f"{question.video}/{question.frame}.txt:{question.line}"
        raise RunError(
            f"The scores of {line} ({question.question!r}) are not finite, so these weights cannot be used; they were "
            f"not saved as the best. In training, lower --lr."
        )


def _split_into_passes(frames: Sequence[FrameQuestions], max_questions: int) -> Iterator[list[Sequence[Question]]]:
    """Yields the questions of each pass over a group of frames, by frame."""
    if len(frames) > 1:
        yield [frame.questions for frame in frames]
        return
    for start in range(0, len(frames[0].questions), max_questions):
        yield [frames[0].questions[start : start + max_questions]]
