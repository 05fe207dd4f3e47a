"""The order of an epoch's questions, the micro-batches of the training steps, and the windows that load them."""

import dataclasses
import itertools
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from surgvivqa.data.frames import BadFrame
from surgvivqa.data.packing import PackedStream, PromptTree, bucket_shape, build_answer_chain, pack_stream
from surgvivqa.data.prompt_tokens import PromptTokenizer
from surgvivqa.data.ssgqa import FrameQuestions
from surgvivqa.features.source import FeatureReader, FrameRequest, InputsT, read_good_frames
from surgvivqa.features.text_reader import TextInputs
from surgvivqa.utils.loader_workers import ignore_signals, limit_workers

AheadPart = Literal["none", "video", "text"]
Group = tuple[int, list[int]]  # the index of a frame, and the indices of questions about it
MicroBatch = list[Group]


class EpochOrder(NamedTuple):
    """The questions of an epoch in order.

    Attributes:
        micro_batches: the micro-batches, each as frames with the indices of their selected questions.
        block_starts: the micro-batch in which each block of frames begins that are shuffled together.
    """

    micro_batches: list[MicroBatch]
    block_starts: list[int]


def plan_epoch(
    counts: Sequence[int],
    batch_size: int,
    questions_per_frame: int,
    seed: int,
    epoch: int,
    shuffle_frames: int | None = None,
) -> EpochOrder:
    """Plans an epoch: every question once, in micro-batches of ``batch_size`` questions (the last may be smaller).

    Args:
        counts: number of questions of each frame.
        batch_size: questions per micro-batch.
        questions_per_frame: maximum number of questions of a frame that are kept together.
        seed: with ``epoch``, determines the order.
        epoch: with ``seed``, determines the order.
        shuffle_frames: number of frames whose questions are shuffled together, after the frames are; None for all.
    """
    rng = np.random.default_rng([seed, epoch])
    pieces_of: list[list[Group]] = []
    for frame, count in enumerate(counts):
        order = rng.permutation(count)
        number = max(1, -(-count // questions_per_frame))
        pieces_of.append([(frame, [int(q) for q in piece]) for piece in np.array_split(order, number) if len(piece)])
    if shuffle_frames is None:
        blocks = [pieces_of]
    else:
        shuffled = [pieces_of[frame] for frame in rng.permutation(len(pieces_of))]
        blocks = [shuffled[n : n + shuffle_frames] for n in range(0, len(shuffled), shuffle_frames)]
    batches: list[MicroBatch] = [[]]
    starts: list[int] = []
    free = batch_size
    for block in blocks:
        groups = list(itertools.chain.from_iterable(block))
        starts.append(len(batches) - (free > 0))
        for index in rng.permutation(len(groups)):
            frame, questions = groups[index]
            while questions:
                if free == 0:
                    batches.append([])
                    free = batch_size
                taken, questions = questions[:free], questions[free:]
                batches[-1].append((frame, taken))
                free -= len(taken)
    return EpochOrder([batch for batch in batches if batch], starts)


def plan_micro_batches(
    counts: Sequence[int], batch_size: int, questions_per_frame: int, seed: int, epoch: int
) -> list[MicroBatch]:
    """The micro-batches of ``plan_epoch`` with all questions shuffled together."""
    return plan_epoch(counts, batch_size, questions_per_frame, seed, epoch).micro_batches


def make_windows(num_batches: int, starts: Iterable[int], longest: int) -> list[range]:
    """Cuts micro-batches into windows.

    Args:
        num_batches: number of micro-batches.
        starts: micro-batches in which a window begins.
        longest: maximum number of micro-batches in a window.
    """
    edges = sorted({0, num_batches, *(start for start in starts if start < num_batches)})
    return [
        range(start, min(start + longest, end))
        for first, end in itertools.pairwise(edges)
        for start in range(first, end, longest)
    ]


@dataclass(frozen=True)
class Batch:
    """One micro-batch.

    Attributes:
        packed: the questions of the frames that can be used; None if no frame can be used.
        frames: ``[F]`` int64, for each frame of ``packed`` its index in the window.
        tokens: ``[N]`` int64, for each token of ``packed`` its index among the window's text states; None if they are
            not computed ahead.
        num_planned: number of questions in the plan.
        bad: the frames that cannot be used.
    """

    packed: PackedStream | None
    frames: Tensor
    tokens: Tensor | None
    num_planned: int
    bad: tuple[BadFrame, ...] = ()

    @property
    def num_unusable(self) -> int:
        """Number of planned questions whose frame cannot be used."""
        return self.num_planned - (self.packed.num_questions if self.packed is not None else 0)

    def map_tensors(self, function: Callable[[Tensor], Tensor]) -> "Batch":
        """The micro-batch with ``function`` applied to each tensor, and to the two buffers of the stream."""
        return dataclasses.replace(
            self,
            packed=None if self.packed is None else self.packed.map_buffers(function),
            frames=function(self.frames),
            tokens=None if self.tokens is None else function(self.tokens),
        )


@dataclass(frozen=True)
class Window(Generic[InputsT]):
    """Consecutive micro-batches that are loaded together, and whose frozen encoders run together.

    Attributes:
        inputs: what the feature reader returns for the frames of the window, each once; None if no frame can be used.
        text: the questions of the window, frame by frame, in streams for the text encoder; empty if its outputs are not
            computed ahead, or are cached.
        batches: the micro-batches.
    """

    inputs: InputsT | None
    text: tuple[PackedStream, ...]
    batches: tuple[Batch, ...]

    def map_tensors(self, function: Callable[[Tensor], Tensor]) -> "Window[InputsT]":
        """The window with ``function`` applied to each tensor."""
        return Window(
            None if self.inputs is None else self.inputs.map_tensors(function),
            tuple(stream.map_buffers(function) for stream in self.text),
            tuple(batch.map_tensors(function) for batch in self.batches),
        )

    def pin_memory(self) -> "Window[InputsT]":
        """The window in pinned memory, from which a copy to a GPU is asynchronous; ``DataLoader`` calls it."""
        return self.map_tensors(lambda tensor: tensor.pin_memory())


@dataclass(frozen=True)
class Ahead:
    """What the frozen encoders compute ahead of the steps.

    Attributes:
        part: ``none``; ``video``: video tokens, because the text encoder trains; or ``text``: text states too.
        frames_per_pass: number of frames that are encoded in one pass.
        buckets: pad the decoder's streams to the sizes of a bucket, so that an epoch has few different ones.
    """

    part: AheadPart = "none"
    frames_per_pass: int = 1
    buckets: bool = False


class TrainingWindows(Dataset[Window[InputsT]]):
    """The windows of an epoch; a worker process reads the frames and packs the questions on access.

    Windows are at fixed places of the plan, so they do not depend on the step that a run starts from.

    Args:
        frames: the frames with their questions.
        reader: the reader of a feature source.
        prompt_tokenizer: converts prompts and labels to token ids.
        mask: the mask mode.
        plan: the micro-batches (``plan_epoch``).
        ahead: what is computed ahead.
        windows: the micro-batches of each window (``make_windows``); one each by default.
    """

    def __init__(
        self,
        frames: Sequence[FrameQuestions],
        reader: FeatureReader[InputsT],
        prompt_tokenizer: PromptTokenizer,
        mask: str,
        plan: Sequence[MicroBatch],
        ahead: Ahead = Ahead(),
        windows: Sequence[range] | None = None,
    ) -> None:
        self.frames, self.reader, self.plan, self.ahead = frames, reader, plan, ahead
        self.windows = make_windows(len(plan), (), 1) if windows is None else windows
        self.prompt_tokenizer, self.mask = prompt_tokenizer, mask

    def __len__(self) -> int:
        return len(self.windows)

    def __getitem__(self, index: int) -> Window[InputsT]:
        plan = [self.plan[n] for n in self.windows[index]]
        chosen: dict[int, dict[int, None]] = {}  # the questions of each frame, in the order of the plan
        for frame, questions in itertools.chain.from_iterable(plan):
            chosen.setdefault(frame, {}).update(dict.fromkeys(questions))
        requests: list[FrameRequest] = [(self.frames[frame], list(questions)) for frame, questions in chosen.items()]
        inputs, _, bad = read_good_frames(self.reader, requests)
        bad_by_frame = {(b.video, b.frame): b for b in bad}
        packing = _WindowPacking(self, [(f, q) for f, q in requests if (f.video, f.frame) not in bad_by_frame])
        batches = tuple(packing.pack_batch([(self.frames[f], q) for f, q in batch], bad_by_frame) for batch in plan)
        text = packing.pack_text() if self.ahead.part == "text" and not isinstance(inputs, TextInputs) else ()
        return Window(inputs, text, batches)

    def describe_question(self, index: int, question: int, bad: Iterable[BadFrame] = ()) -> str:
        """Describes a question for an error message: its file, line and text.

        Args:
            index: the index of the micro-batch.
            question: the question's index in ``Batch.packed``.
            bad: ``Batch.bad``, whose questions are not in ``Batch.packed``.
        """
        unusable = {(frame.video, frame.frame) for frame in bad}
        requests = [(self.frames[frame], chosen) for frame, chosen in self.plan[index]]
        usable = [(frame, chosen) for frame, chosen in requests if (frame.video, frame.frame) not in unusable]
        packed = [frame.questions[q] for frame, chosen in usable for q in chosen]
        culprit = packed[question]
        return f"{culprit.video}/{culprit.frame}.txt:{culprit.line}: {culprit.question!r}"


class _WindowPacking:
    """Packs the questions of a window: into the text encoder's streams, and into those of the micro-batches."""

    def __init__(self, windows: TrainingWindows[Any], requests: Sequence[FrameRequest]) -> None:
        self.mask, self.ahead = windows.mask, windows.ahead
        tokenizer = windows.prompt_tokenizer
        self.trees: list[list[PromptTree]] = []
        self.places: dict[tuple[str, int, int], tuple[PromptTree, int]] = {}  # each question's tree and first token
        self.rows = {(frame.video, frame.frame): row for row, (frame, _) in enumerate(requests)}
        start = 0
        for frame, chosen in requests:
            self.trees.append([])
            prompts = tokenizer.batch_prompt_ids([frame.questions[q].question for q in chosen])
            for q, prompt in zip(chosen, prompts, strict=True):
                answer = tokenizer.target_ids(frame.questions[q])
                tree = build_answer_chain(prompt, answer, len(self.trees[-1]), self.mask)
                self.trees[-1].append(tree)
                self.places[frame.video, frame.frame, q] = tree, start
                start += len(tree.prompt) + len(tree.tokens)

    def pack_text(self) -> tuple[PackedStream, ...]:
        """The text encoder's streams, each of the questions about ``frames_per_pass`` frames."""
        size = self.ahead.frames_per_pass
        passes = (self.trees[n : n + size] for n in range(0, len(self.trees), size))
        return tuple(pack_stream(trees, self.mask, max(map(len, trees))) for trees in passes)

    def pack_batch(self, requests: Sequence[FrameRequest], bad_by_frame: Mapping[tuple[str, int], BadFrame]) -> Batch:
        """Packs a micro-batch of some of the window's questions."""
        keys = [(frame.video, frame.frame) for frame, _ in requests]
        bad = tuple(bad_by_frame[key] for key in dict.fromkeys(keys) if key in bad_by_frame)
        num_planned = sum(len(chosen) for _, chosen in requests)
        usable = [
            (key, [self.places[*key, q] for q in chosen])
            for key, (_, chosen) in zip(keys, requests, strict=True)
            if key not in bad_by_frame
        ]
        frames = torch.tensor([self.rows[key] for key, _ in usable], dtype=torch.long)
        if not usable:
            return Batch(None, frames, None, num_planned, bad)
        numbers = itertools.count()
        trees = [[dataclasses.replace(tree, question=next(numbers)) for tree, _ in places] for _, places in usable]
        count = next(numbers)
        if self.ahead.part != "text":
            return Batch(pack_stream(trees, self.mask, count), frames, None, num_planned, bad)
        flat = list(itertools.chain.from_iterable(trees))
        shape = bucket_shape(flat, count) if self.ahead.buckets else None
        packed = pack_stream(trees, self.mask, count, shape=shape)
        tokens = np.zeros(len(packed.input_ids), np.int64)  # padding tokens are those of the window's first token
        end = 0
        for tree, start in itertools.chain.from_iterable(places for _, places in usable):
            length = len(tree.prompt) + len(tree.tokens)
            tokens[end : end + length] = np.arange(start, start + length)
            end += length
        return Batch(packed, frames, torch.from_numpy(tokens), num_planned, bad)


def build_training_loader(
    windows: TrainingWindows[Any], order: Sequence[int], workers: int | None, *, pin_memory: bool = False
) -> DataLoader[Any]:
    """Builds a loader of windows; their content does not depend on the number of workers.

    Args:
        windows: the windows.
        order: indices of the windows, in the order of loading.
        workers: number of worker processes; 0 loads in this process, None is ``cores.default_workers``.
        pin_memory: whether the windows are in pinned memory, from which they are copied to a GPU.
    """
    frames = max((len({f for n in window for f, _ in windows.plan[n]}) for window in windows.windows), default=0)
    workers = limit_workers(workers, frames * windows.reader.bytes_per_frame)
    return DataLoader(
        windows,
        batch_size=None,
        sampler=list(order),
        num_workers=workers,
        worker_init_fn=ignore_signals,
        prefetch_factor=(4 if len(windows) == len(windows.plan) else 2) if workers else None,
        pin_memory=pin_memory,
    )
