"""The order of an epoch's questions, and the micro-batches that a training step reads."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Generic

import numpy as np
from torch.utils.data import DataLoader, Dataset

from surgvivqa.data.frames import BadFrame
from surgvivqa.data.packing import PackedStream, pack_training
from surgvivqa.data.prompt_tokens import PromptTokenizer
from surgvivqa.data.ssgqa import FrameQuestions
from surgvivqa.features.source import FeatureReader, FrameRequest, InputsT, read_good_frames
from surgvivqa.utils.loader_workers import ignore_signals, limit_workers

Group = tuple[int, list[int]]  # the index of a frame, and the indices of questions about it
MicroBatch = list[Group]


def plan_micro_batches(
    counts: Sequence[int], batch_size: int, questions_per_frame: int, seed: int, epoch: int
) -> list[MicroBatch]:
    """Plans an epoch: every question once, in micro-batches of ``batch_size`` questions (the last may be smaller).

    Args:
        counts: number of questions of each frame.
        batch_size: questions per micro-batch.
        questions_per_frame: maximum number of questions of a frame that are kept together.
        seed: with ``epoch``, determines the order.
        epoch: with ``seed``, determines the order.

    Returns:
        The micro-batches, each as frames with the indices of their selected questions.
    """
    rng = np.random.default_rng([seed, epoch])
    groups: list[Group] = []
    for frame, count in enumerate(counts):
        order = rng.permutation(count)
        pieces = max(1, -(-count // questions_per_frame))
        groups += [(frame, [int(q) for q in piece]) for piece in np.array_split(order, pieces) if len(piece)]
    batches: list[MicroBatch] = [[]]
    free = batch_size
    for index in rng.permutation(len(groups)):
        frame, questions = groups[index]
        while questions:
            if free == 0:
                batches.append([])
                free = batch_size
            taken, questions = questions[:free], questions[free:]
            batches[-1].append((frame, taken))
            free -= len(taken)
    return [batch for batch in batches if batch]


@dataclass(frozen=True)
class Batch(Generic[InputsT]):
    """One micro-batch: the inputs of its frames and its packed questions.

    Attributes:
        inputs: what the feature reader returns for the frames; None if no frame can be used.
        packed: the questions of the frames that can be used; a single placeholder question if ``inputs`` is None.
        num_planned: number of questions in the plan.
        bad: the frames that cannot be used.
    """

    inputs: InputsT | None
    packed: PackedStream
    num_planned: int
    bad: tuple[BadFrame, ...] = ()

    @property
    def num_unusable(self) -> int:
        """Number of planned questions whose frame cannot be used."""
        return self.num_planned - (self.packed.num_questions if self.inputs is not None else 0)


class TrainingBatches(Dataset[Batch[InputsT]]):
    """The micro-batches of an epoch; a worker process reads the frames and packs the prompts on access.

    Args:
        frames: the frames with their questions.
        reader: the reader of a feature source.
        prompt_tokenizer: converts prompts and labels to token ids.
        mask: the mask mode.
        plan: the micro-batches (``plan_micro_batches``).
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
        requests = self._requests(index)
        num_planned = sum(len(chosen) for _, chosen in requests)
        inputs, good, bad = read_good_frames(self.reader, requests)
        if inputs is None:
            frame, chosen = requests[0]
            good = [(frame, chosen[:1])]
        prompts, answers = [], []
        for frame, chosen in good:
            questions = [frame.questions[q] for q in chosen]
            prompts.append([self.prompt_tokenizer.prompt_ids(q.question) for q in questions])
            answers.append([self.prompt_tokenizer.label_ids[q.label] for q in questions])
        return Batch(inputs, pack_training(prompts, answers, self.mask), num_planned, bad)

    def _requests(self, index: int) -> list[FrameRequest]:
        """The frames of a micro-batch with the indices of their selected questions."""
        return [(self.frames[frame], chosen) for frame, chosen in self.plan[index]]

    def describe_question(self, index: int, question: int, bad: Iterable[BadFrame] = ()) -> str:
        """Describes a question for an error message: its file, line and text.

        Args:
            index: the index of the micro-batch.
            question: the question's index in ``Batch.packed``.
            bad: ``Batch.bad``, whose questions are not in ``Batch.packed``.
        """
        unusable = {(frame.video, frame.frame) for frame in bad}
        usable = [request for request in self._requests(index) if (request[0].video, request[0].frame) not in unusable]
        packed = [frame.questions[q] for frame, chosen in usable for q in chosen]
        culprit = packed[question]
        return f"{culprit.video}/{culprit.frame}.txt:{culprit.line}: {culprit.question!r}"


def build_training_loader(batches: TrainingBatches[Any], order: Sequence[int], workers: int) -> DataLoader[Any]:
    """Builds a loader of micro-batches; their content does not depend on the number of workers.

    Args:
        batches: the micro-batches.
        order: indices of the micro-batches, in the order of loading.
        workers: number of worker processes; 0 loads in this process.
    """
    workers = limit_workers(workers)
    return DataLoader(
        batches,
        batch_size=None,
        sampler=list(order),
        num_workers=workers,
        worker_init_fn=ignore_signals,
        prefetch_factor=4 if workers else None,
    )
