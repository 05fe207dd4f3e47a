"""Predicts the answers to questions about frames, for validation and evaluation.

``predict_frames`` encodes some frames at a time and scores the labels of their questions with
``model.scoring.score_labels``. The scores of a pass are read while the device computes the next one, so that it does
not wait for Python.
"""

import dataclasses
import itertools
import logging
import os
from array import array
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from rich.progress import track
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from surgvivqa.data.frames import BadFrame
from surgvivqa.data.index import question_counts
from surgvivqa.data.packing import pack_training
from surgvivqa.data.ssgqa import FrameQuestions, Question
from surgvivqa.evaluation.fastest_way import FastestWay
from surgvivqa.evaluation.pass_size import MAX_FRAMES, ON_CPU, PassMemory, PassSize, choose_pass_size, free_memory
from surgvivqa.evaluation.predictions import Prediction
from surgvivqa.features.cache_file import DTYPES
from surgvivqa.features.frame_reader import FrameInputs, FrameReader
from surgvivqa.features.source import read_good_frames
from surgvivqa.features.video_tokens import VideoTokenSource
from surgvivqa.model.attention import CrossAttentionCache
from surgvivqa.model.bundle import ModelBundle
from surgvivqa.model.generation import generate_answers
from surgvivqa.model.label_trie import LabelTrie
from surgvivqa.model.pooling import token_count
from surgvivqa.model.scoring import find_best_labels, normalise_scores, score_labels
from surgvivqa.utils.errors import FrameError, RunError
from surgvivqa.utils.loader_workers import ignore_signals, limit_workers, start_workers

log = logging.getLogger("surgvivqa")


class _FrameGroups(Dataset[Any]):
    """Groups of frames that are scored together.

    An item is the usable frames of a group, their inputs (None if no frame is usable), and the bad frames.
    """

    def __init__(self, frames: Sequence[FrameQuestions], groups: Sequence[range], reader: FrameReader) -> None:
        self.frames, self.groups, self.reader = frames, groups, reader

    def __len__(self) -> int:
        return len(self.groups)

    def __getitem__(self, index: int) -> tuple[list[FrameQuestions], FrameInputs | None, tuple[BadFrame, ...]]:
        # Without workers this runs under the caller's autocast, which on a CPU cannot join float16 tokens.
        with torch.autocast("cpu", enabled=False):
            inputs, good, bad = read_good_frames(self.reader, [(self.frames[i], ()) for i in self.groups[index]])
        return [frame for frame, _ in good], inputs, bad


def group_frames(counts: Iterable[int], max_questions: int, max_frames: int = MAX_FRAMES) -> list[range]:
    """Groups consecutive frames with up to ``max_questions`` questions; a frame with more forms a separate group.

    Args:
        counts: number of questions of each frame.
        max_questions: maximum number of questions in a group of several frames.
        max_frames: maximum number of frames in a group.

    Returns:
        The indices of each group's frames.
    """
    groups, num_questions = [range(0)], 0
    for index, count in enumerate(counts):
        if groups[-1] and (num_questions + count > max_questions or len(groups[-1]) == max_frames):
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
            questions is encoded once for its several passes. None for 40 on a CPU, and for what the memory allows on a
            GPU.
        workers: processes that decode frames; None for ``cores.default_workers``.
        keep_scores: keep the scores of all labels in the predictions, as arrays of C float32.
        answer_only: skip the scores of labels that cannot win; predictions then have no probabilities and no loss.
            Only for ``sum``, and for masks under which labels share a prompt. On a GPU all labels are scored where that
            is faster.
        progress: show a progress bar on a terminal.
        max_new_tokens: also generate an answer of at most this many tokens to each question; None for none.
        long_losses: the loss of a prediction is that of the question's long answer, and not of its label.
    """

    score_norm: str = "sum"
    batch_size: int | None = None
    workers: int | None = 0
    keep_scores: bool = False
    answer_only: bool = False
    progress: bool = False
    max_new_tokens: int | None = None
    long_losses: bool = False


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
    size = _pass_size(scorer, frames, options)
    groups = group_frames(question_counts(frames), size.questions, size.frames)
    loader = start_workers(_build_loader(_FrameGroups(frames, groups, video_source.reader), scorer, options.workers))
    predictions: list[Prediction] = []
    pending: _PendingPass | None = None
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
        passes = list(_split_into_passes(usable, size.questions))
        tokens = _to_compute_dtype(video_source(inputs))
        video = CrossAttentionCache(tokens, reuse=scorer.reads_video_again or len(passes) > 1)
        for questions_by_frame in passes:
            started = scorer.start(questions_by_frame, video)
            predictions += scorer.finish(pending) if pending else []
            pending = started
        del tokens, video  # frees the memory before the next frames are encoded
    return predictions + (scorer.finish(pending) if pending else [])


def _pass_size(scorer: "_Scorer", frames: Sequence[FrameQuestions], options: InferenceOptions) -> PassSize:
    """The size of a pass: as given, or chosen by the free memory of the GPU."""
    if options.batch_size is not None:
        return PassSize(options.batch_size)
    device = scorer.model.device
    if device.type != "cuda":
        return ON_CPU
    longest, _ = scorer.prompt_tokenizer.longest_prompt(frames)
    value_bytes = 2 if torch.is_autocast_enabled(device.type) else 4
    memory = PassMemory.of_model(
        scorer.model.config, longest + max(len(scorer.trie.tokens), options.max_new_tokens or 0), value_bytes
    )
    size = choose_pass_size(free_memory(device), memory)
    log.info("A pass scores at most %d questions about %d frames.", size.questions, size.frames)
    return size


def _build_loader(groups: _FrameGroups, scorer: "_Scorer", workers: int | None) -> DataLoader[Any]:
    """The loader of groups of frames, with pinned tensors for a GPU."""
    video, reader = scorer.model.config.video_config, groups.reader
    images = 1 if reader.store.clip_mode == "repeat" else video.num_frames
    frame_bytes = 4 * images * video.num_channels * video.image_size**2
    if reader.cache is not None:
        token_bytes = DTYPES[reader.cache.dtype].itemsize
        tokens = token_count(video, scorer.model.config.video_pool)
        frame_bytes = max(frame_bytes, token_bytes * tokens * video.hidden_size)
    batch_bytes = max((len(group) for group in groups.groups), default=0) * frame_bytes
    return DataLoader(
        groups,
        batch_size=None,
        num_workers=limit_workers(workers, batch_bytes) if len(groups) > 1 else 0,
        worker_init_fn=ignore_signals,
        pin_memory=scorer.model.device.type == "cuda",
    )


def _to_compute_dtype(tokens: Tensor) -> Tensor:
    """Video tokens in the dtype to which autocast would cast them in every layer."""
    device_type = tokens.device.type
    return tokens.to(torch.get_autocast_dtype(device_type)) if torch.is_autocast_enabled(device_type) else tokens


class _PendingPass(NamedTuple):
    """A pass that the device may still compute.

    Attributes:
        questions: its Q questions.
        values: the scores ``[Q, C]`` float32; or, for the best label only, the labels ``[Q]`` int64 and values ``[Q]``
            float32 that are finite if the model's outputs are. On the CPU once ``copied`` is reached.
        copied: an event of the device; None if the values are there.
        generated: the generated answers; None if none are.
    """

    questions: list[Question]
    values: tuple[Tensor, ...]
    copied: torch.cuda.Event | None
    generated: list[str] | None = None


class _Scorer:
    """Scores the labels of questions and turns the scores into predictions."""

    def __init__(self, bundle: ModelBundle, options: InferenceOptions) -> None:
        self.model, self.mask, self.options = bundle.model, bundle.settings.mask, options
        self.label_set = bundle.label_set
        self.prompt_tokenizer = bundle.prompt_tokenizer()
        self.trie = LabelTrie(self.prompt_tokenizer.label_ids)
        self.fastest_way = FastestWay(torch.cuda.synchronize) if self.model.device.type == "cuda" else None
        self._prompt_ids: dict[str, list[int]] = {}  # frames share questions

    @property
    def reads_video_again(self) -> bool:
        """Whether several streams of a pass attend to the same video tokens."""
        options = self.options
        return options.answer_only or options.max_new_tokens is not None or options.long_losses

    def start(self, questions_by_frame: Sequence[Sequence[Question]], video: CrossAttentionCache) -> _PendingPass:
        """Starts to score the questions of some frames; on a GPU it does not wait for the scores.

        Args:
            questions_by_frame: the questions of each frame.
            video: the video tokens of these frames.
        """
        prompts = self._tokenize(questions_by_frame)
        questions = [q for frame in questions_by_frame for q in frame]
        values: tuple[Tensor, ...]
        if self.options.answer_only:
            values = self._best_labels(prompts, video, len(questions))
        else:
            values = (score_labels(self.model, prompts, video, self.trie, self.mask).float(),)
            if self.options.long_losses:
                values = (*values, self._long_losses(questions_by_frame, prompts, video))
        generated = self._generate(prompts, video)
        if self.model.device.type != "cuda":
            return _PendingPass(questions, values, None, generated)
        # To pinned memory, since non_blocking; the event is reached when the copies are complete.
        copies = tuple(value.to("cpu", non_blocking=True) for value in values)
        copied = torch.cuda.Event()
        copied.record()
        return _PendingPass(questions, copies, copied, generated)

    def finish(self, started: _PendingPass) -> list[Prediction]:
        """Waits for the scores of a pass, and returns its predictions.

        Raises:
            RunError: a score is not finite.
        """
        if started.copied is not None:
            started.copied.synchronize()
        questions = started.questions
        if self.options.answer_only:
            labels, values = started.values
            _check_finite(questions, values)
            predictions = [
                Prediction.of_question(q, label, label_set=self.label_set)
                for q, label in zip(questions, labels.tolist(), strict=True)
            ]
        else:
            scores, *losses = started.values
            _check_finite(questions, scores.sum(dim=1))
            predictions = self._build_predictions(questions, scores)
            if losses:
                predictions = [
                    dataclasses.replace(p, loss=loss) for p, loss in zip(predictions, losses[0].tolist(), strict=True)
                ]
        if started.generated is None:
            return predictions
        return [
            dataclasses.replace(p, long_answer=q.long_answer, generated=text)
            for p, q, text in zip(predictions, questions, started.generated, strict=True)
        ]

    def _long_losses(
        self,
        questions_by_frame: Sequence[Sequence[Question]],
        prompts: list[list[list[int]]],
        video: CrossAttentionCache,
    ) -> Tensor:
        """The negative log-likelihood ``[Q]`` float32 of each question's long answer."""
        answers = [[self.prompt_tokenizer.long_answer_ids(q) for q in frame] for frame in questions_by_frame]
        packed = pack_training(prompts, answers, self.mask).to(self.model.device)
        return self.model.question_losses(packed, video)

    def _generate(self, prompts: list[list[list[int]]], video: CrossAttentionCache) -> list[str] | None:
        """The generated answers, if any are asked for."""
        if self.options.max_new_tokens is None:
            return None
        ids = generate_answers(
            self.model,
            prompts,
            video,
            self.mask,
            end=self.prompt_tokenizer.end,
            max_new_tokens=self.options.max_new_tokens,
            max_length=self.prompt_tokenizer.max_length,
        )
        return [self.prompt_tokenizer.decode(answer) for answer in ids]

    def _tokenize(self, questions_by_frame: Sequence[Sequence[Question]]) -> list[list[list[int]]]:
        """The token ids of each frame's prompts."""
        texts = dict.fromkeys(q.question for frame in questions_by_frame for q in frame)
        missing = [text for text in texts if text not in self._prompt_ids]
        self._prompt_ids |= zip(missing, self.prompt_tokenizer.batch_prompt_ids(missing), strict=True)
        return [[self._prompt_ids[q.question] for q in frame] for frame in questions_by_frame]

    def _best_labels(
        self, prompts: list[list[list[int]]], video: CrossAttentionCache, num_questions: int
    ) -> tuple[Tensor, Tensor]:
        """The best label of each question, by the faster way on a GPU (see ``_PendingPass.values``)."""
        if self.fastest_way is None:
            return self._search(prompts, video)
        ways = {
            "branch and bound": lambda: self._search(prompts, video),
            "scoring all labels": lambda: self._select_best(prompts, video),
        }
        is_fair = not video.layers  # a later pass over the same frames has their keys and values
        return self.fastest_way.run(ways, num_questions, is_fair=is_fair)

    def _search(self, prompts: list[list[list[int]]], video: CrossAttentionCache) -> tuple[Tensor, Tensor]:
        labels, values, _ = find_best_labels(self.model, prompts, video, self.trie, self.mask)
        return labels, values

    def _select_best(self, prompts: list[list[list[int]]], video: CrossAttentionCache) -> tuple[Tensor, Tensor]:
        scores = score_labels(self.model, prompts, video, self.trie, self.mask)
        order = scores.sort(dim=1, descending=True, stable=True).indices  # the first label wins a tie
        return order[:, 0], scores.sum(dim=1)

    def _build_predictions(self, questions: Sequence[Question], scores: Tensor) -> list[Prediction]:
        """Predictions from the scores ``[Q, C]`` float32 of all labels."""
        names = self.label_set.labels
        rankings, probabilities = normalise_scores(scores, self.trie, self.options.score_norm)
        best = rankings.sort(dim=1, descending=True, stable=True).indices[:, :5]  # the first label wins a tie
        true_labels = torch.tensor([q.label for q in questions]).unsqueeze(1)
        losses = -scores.gather(1, true_labels).squeeze(1)
        exact = rankings.double().softmax(dim=1)  # in float32 a true label's may become 0, and its log infinite
        of_answer = exact.gather(1, true_labels).squeeze(1)
        briers = exact.square().sum(dim=1) - 2 * of_answer + 1
        kept = (
            (array("f", row.tobytes()) for row in scores.numpy())
            if self.options.keep_scores
            else itertools.repeat(None)
        )
        columns = (best, probabilities.gather(1, best), losses, of_answer, briers.clamp(min=0))
        return [
            Prediction.of_question(
                question,
                labels[0],
                probability=values[0],
                loss=loss,
                top5=[(names[label], value) for label, value in zip(labels, values, strict=True)],
                answer_probability=answer_probability,
                brier=brier,
                scores=row,
                label_set=self.label_set,
            )
            for question, labels, values, loss, answer_probability, brier, row in zip(
                questions, *(column.tolist() for column in columns), kept, strict=False
            )
        ]


def _check_finite(questions: Sequence[Question], values: Tensor) -> None:
    """Raises RunError if a question's value is not finite; ``values`` is ``[Q]`` float."""
    if not values.isfinite().all():
        question = questions[int((~values.isfinite()).int().argmax())]
        line = f"{question.video}/{question.frame}.txt:{question.line}"
        raise RunError(
            f"The scores of {line} ({question.question!r}) are not finite, so these weights cannot be used; they were "
            f"not saved as the best. In training, lower --lr. With --fp16, use --bf16."
        )


def _split_into_passes(frames: Sequence[FrameQuestions], max_questions: int) -> Iterator[list[Sequence[Question]]]:
    """Yields the questions of each pass over a group of frames, by frame."""
    if len(frames) > 1:
        yield [frame.questions for frame in frames]
        return
    for start in range(0, len(frames[0].questions), max_questions):
        yield [frames[0].questions[start : start + max_questions]]
