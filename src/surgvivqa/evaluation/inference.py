"""Frames with questions to one record a question: the loop under validation and evaluation."""

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import torch
from rich.progress import track
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from surgvivqa.data.frames import BadFrame
from surgvivqa.data.index import question_counts
from surgvivqa.data.labels import LABELS
from surgvivqa.data.ssgqa import FrameQuestions, Question
from surgvivqa.features.frame_reader import FrameInputs, FrameReader
from surgvivqa.features.source import read_good_frames
from surgvivqa.features.video_tokens import VideoTokenSource
from surgvivqa.model.attention import CrossAttentionCache
from surgvivqa.model.bundle import ModelBundle
from surgvivqa.model.label_trie import LabelTrie
from surgvivqa.model.scoring import best_labels, normalise_scores, score_labels
from surgvivqa.utils.errors import FrameError, RunError
from surgvivqa.utils.loader_workers import ignore_signals, start_workers

FRAMES_A_PASS = 32  # whose keys and values for cross-attention are in memory together, 116 MB a frame at full size


class _FrameGroups(Dataset[Any]):
    """Frames that are scored together, by number of the group: those that can be used, their inputs (None where none
    can be), and the others.
    """

    def __init__(self, frames: Sequence[FrameQuestions], groups: Sequence[range], reader: FrameReader) -> None:
        self.frames, self.groups, self.reader = frames, groups, reader

    def __len__(self) -> int:
        return len(self.groups)

    def __getitem__(self, index: int) -> tuple[list[FrameQuestions], FrameInputs | None, tuple[BadFrame, ...]]:
        inputs, good, bad = read_good_frames(self.reader, [(self.frames[i], ()) for i in self.groups[index]])
        return [frame for frame, _ in good], inputs, bad


def frame_groups(counts: Iterable[int], most: int) -> list[range]:
    """Consecutive frames, at most ``FRAMES_A_PASS`` and of at most ``most`` questions; one that has more is alone."""
    groups, held = [range(0)], 0
    for index, count in enumerate(counts):
        if groups[-1] and (held + count > most or len(groups[-1]) == FRAMES_A_PASS):
            groups.append(range(index, index))
            held = 0
        groups[-1] = range(groups[-1].start, index + 1)
        held += count
    return [group for group in groups if group]


@torch.inference_mode()
def predict_frames(
    bundle: ModelBundle,
    frames: Sequence[FrameQuestions],
    tokens: VideoTokenSource,
    *,
    score_norm: str = "sum",
    batch_size: int = 40,
    workers: int = 0,
    keep_scores: bool = False,
    answer_only: bool = False,
    progress: bool = False,
    bad: list[BadFrame] | None = None,
    most_bad: int = 0,
    stopped: Callable[[], object] = lambda: None,
) -> list[dict[str, Any]]:
    """Finds the best of the 51 labels for every question.

    Args:
        bundle: model in eval mode, tokenizer, settings.
        frames: frames with their questions.
        tokens: makes or reads the frames' video tokens.
        score_norm: ``sum`` or ``mean``; ranks the labels and makes ``probability``.
        batch_size: most questions in one pass. Frames share a pass until it is full; one that has more is encoded once
            for its several passes.
        workers: processes that decode frames.
        keep_scores: adds ``scores``, the 51 summed log-probabilities in label order.
        answer_only: leaves out the scores of labels that cannot win; ``probability``, ``top5`` and ``loss`` are then
            None. For ``sum``, and for masks under which labels share a prompt.
        progress: shows a bar on a terminal.
        bad: takes the frames that cannot be used; their questions are left out. None makes such a frame an error.
        most_bad: with more of them than this, the rest is left out too.
        stopped: asked before each pass over frames; once it is true, the rest is left out.

    Returns:
        One record a question, in the order of ``frames``; its ``loss`` is the true label's, in nats.

    Raises:
        FrameError: a frame cannot be used, and ``bad`` is None.
        RunError: a score is not finite.
    """
    prompts, mask = bundle.prompt_tokenizer(), bundle.settings.mask
    trie = LabelTrie(prompts.label_ids)
    groups = _FrameGroups(frames, frame_groups(question_counts(frames), batch_size), tokens.reader)
    workers = workers if len(groups) > 1 else 0
    loader = DataLoader(groups, batch_size=None, num_workers=workers, worker_init_fn=ignore_signals)
    records: list[dict[str, Any]] = []
    for asked, inputs, faults in track(
        start_workers(loader), "eval", len(groups), disable=not progress or not os.isatty(2)
    ):
        if stopped():
            break
        if faults and bad is None:
            raise FrameError(faults[0].why)
        if bad is not None:
            bad += faults
            if len(bad) > most_bad:
                break
        if inputs is None:
            continue
        passes = list(_passes(asked, batch_size))
        video = CrossAttentionCache(tokens(inputs), reuse=answer_only or len(passes) > 1)
        for rows in passes:
            ids = [[prompts.prompt_ids(q.question) for q in row] for row in rows]
            questions = [q for row in rows for q in row]
            if answer_only:
                labels, sums, _ = best_labels(bundle.model, ids, video, trie, mask)
                _refuse_not_finite(questions, sums)
                records += [_record(q, LABELS[c]) for q, c in zip(questions, labels.tolist(), strict=True)]
                continue
            scores = score_labels(bundle.model, ids, video, trie, mask).float().cpu()
            _refuse_not_finite(questions, scores.sum(dim=1))
            figures = normalise_scores(scores, trie, score_norm)
            for question, row, ranking, probability in zip(questions, scores, *figures, strict=True):
                records.append(_scored(question, ranking, probability))
                records[-1]["loss"] = -float(row[question.label])
                if keep_scores:
                    records[-1]["scores"] = row.tolist()
        del video  # before the next frames are encoded
    return records


def _refuse_not_finite(questions: Sequence[Question], figures: Tensor) -> None:
    if not figures.isfinite().all():
        q = questions[int((~figures.isfinite()).int().argmax())]
        raise RunError(
            f"The scores of {q.video}/{q.frame}.txt:{q.line} ({q.question!r}) are not finite: these weights are not "
            f"usable and were not saved as the best. In training, lower --lr."
        )


def _passes(asked: Sequence[FrameQuestions], most: int) -> Iterator[list[Sequence[Question]]]:
    if len(asked) > 1:
        yield [frame.questions for frame in asked]
        return
    for start in range(0, len(asked[0].questions), most):
        yield [asked[0].questions[start : start + most]]


def _scored(question: Question, ranking: Tensor, probability: Tensor) -> dict[str, Any]:
    best = ranking.sort(descending=True, stable=True).indices[:5].tolist()  # of equal ones the first label
    top5 = [[LABELS[c], float(probability[c])] for c in best]
    return _record(question, LABELS[best[0]], top5[0][1], top5)


def _record(
    question: Question, prediction: str, probability: Any = None, top5: list[list[Any]] | None = None
) -> dict[str, Any]:
    return {
        "video": question.video,
        "frame": question.frame,
        "question": question.question,
        "answer": LABELS[question.label],
        "prediction": prediction,
        "probability": probability,
        "loss": None,
        "top5": top5,
        "reasoning": question.reasoning,
        "type": question.type,
    }
