"""The order in which the questions of an epoch are seen, and the micro-batches that a step reads."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Generic

import numpy as np
from torch.utils.data import DataLoader, Dataset

from surgvivqa.data.frames import BadFrame
from surgvivqa.data.packing import PackedStream, pack_training
from surgvivqa.data.prompt_tokens import PromptTokenizer
from surgvivqa.data.ssgqa import FrameQuestions
from surgvivqa.features.source import FeatureReader, InputsT, read_good_frames
from surgvivqa.utils.loader_workers import ignore_signals, limit_workers

Group = tuple[int, list[int]]  # the index of a frame and the indices of some of its questions
MicroBatch = list[Group]


def micro_batches(
    counts: Sequence[int], batch_size: int, questions_per_frame: int, seed: int, epoch: int
) -> list[MicroBatch]:
    """Plans an epoch: every question once, in micro-batches of exactly ``batch_size`` (the last may be smaller).

    Args:
        counts: number of questions of each frame.
        batch_size: questions per micro-batch.
        questions_per_frame: the most questions of one frame that stay together.
        seed: with ``epoch``, decides the order.
        epoch: with ``seed``, decides the order.
    """
    rng = np.random.default_rng([seed, epoch])
    groups: list[Group] = []
    for frame, count in enumerate(counts):
        order = rng.permutation(count)
        pieces = max(1, -(-count // questions_per_frame))
        groups += [(frame, [int(q) for q in piece]) for piece in np.array_split(order, pieces) if len(piece)]
    batches: list[MicroBatch] = [[]]
    room = batch_size
    for index in rng.permutation(len(groups)):
        frame, questions = groups[index]
        while questions:
            if room == 0:
                batches.append([])
                room = batch_size
            taken, questions = questions[:room], questions[room:]
            batches[-1].append((frame, taken))
            room -= len(taken)
    return [b for b in batches if b]


@dataclass(frozen=True)
class Batch(Generic[InputsT]):
    """One micro-batch: the inputs of its frames and its packed questions.

    Attributes:
        inputs: what the feature reader gives for the frames; None if no frame can be used.
        packed: the questions of the frames that can be used; a placeholder if ``inputs`` is None.
        asked: number of questions planned.
        bad: the frames that cannot be used.
    """

    inputs: InputsT | None
    packed: PackedStream
    asked: int
    bad: tuple[BadFrame, ...] = ()

    @property
    def lost(self) -> int:
        """Number of planned questions whose frame cannot be used."""
        return self.asked - (self.packed.num_questions if self.inputs is not None else 0)


class TrainingBatches(Dataset[Batch[InputsT]]):
    """The micro-batches of an epoch by index; frames are read and prompts packed on access, in a worker process.

    Args:
        frames: the frames with their questions.
        reader: the reader of a feature source.
        prompt_tokenizer: prompts and labels to token ids.
        mask: the mask mode.
        plan: the micro-batches.
    """

    def __init__(
        self,
        frames: Sequence[FrameQuestions],
        reader: FeatureReader[InputsT],
        prompt_tokenizer: PromptTokenizer,
        mask: str,
        plan: Sequence[MicroBatch],
    ) -> None:
        self.frames, self.reader, self.plan = frames, reader, plan
        self.prompt_tokenizer, self.mask = prompt_tokenizer, mask

    def __len__(self) -> int:
        return len(self.plan)

    def __getitem__(self, index: int) -> Batch[InputsT]:
        requests = [(self.frames[f], chosen) for f, chosen in self.plan[index]]
        asked = sum(len(chosen) for _, chosen in requests)
        inputs, good, bad = read_good_frames(self.reader, requests)
        if inputs is None:
            good = [(requests[0][0], requests[0][1][:1])]
        prompts, answers = [], []
        for frame, chosen in good:
            questions = [frame.questions[q] for q in chosen]
            prompts.append([self.prompt_tokenizer.prompt_ids(q.question) for q in questions])
            answers.append([self.prompt_tokenizer.label_ids[q.label] for q in questions])
        return Batch(inputs, pack_training(prompts, answers, self.mask), asked, bad)

    def describe(self, index: int, question: int, bad: Iterable[BadFrame] = ()) -> str:
        """Names a question for an error message.

        Args:
            index: the micro-batch.
            question: the question's index in ``Batch.packed``.
            bad: ``Batch.bad``, whose questions are not in ``packed``.
        """
        left_out = {(b.video, b.frame) for b in bad}
        frames = [(self.frames[f], chosen) for f, chosen in self.plan[index]]
        packed = [f.questions[q] for f, chosen in frames if (f.video, f.frame) not in left_out for q in chosen]
        found = packed[question]
        return f"{found.video}/{found.frame}.txt:{found.line}: {found.question!r}"


def training_loader(batches: TrainingBatches[Any], order: Sequence[int], workers: int) -> DataLoader[Any]:
    """Loads the micro-batches of ``order`` in ``workers`` processes (0: this one), on which they do not depend."""
    workers = limit_workers(workers)
    return DataLoader(
        batches,
        batch_size=None,
        sampler=list(order),
        num_workers=workers,
        worker_init_fn=ignore_signals,
        prefetch_factor=4 if workers else None,
    )
