"""The order in which questions are seen, and the rows that a step is fed."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch.utils.data import DataLoader, Dataset

from surgvivqa.data.inputs import FrameInputs, FrameReader
from surgvivqa.data.packing import Packed, PromptCoder, pack_training
from surgvivqa.data.ssgqa import Frame
from surgvivqa.data.text_inputs import TextInputs, TextReader
from surgvivqa.data.workers import deaf

Group = tuple[int, list[int]]  # a frame's index and some of its questions
MicroBatch = list[Group]


def micro_batches(
    counts: Sequence[int], batch_size: int, questions_per_frame: int, seed: int, epoch: int
) -> list[MicroBatch]:
    """All questions of an epoch, once each, in micro-batches of exactly ``batch_size`` (the last may be smaller).

    Args:
        counts: questions of each frame.
        batch_size: questions in a micro-batch.
        questions_per_frame: most questions of one frame that stay together.
        seed, epoch: the order is a function of these two alone.
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
class Batch:
    """One micro-batch: its frames (clips, cached video tokens or cached text states) and its rows, one a frame."""

    inputs: FrameInputs | TextInputs
    packed: Packed


class TrainingRows(Dataset[Batch]):
    """Micro-batches by index, frames decoded and prompts packed where they are asked for (a worker process)."""

    def __init__(
        self,
        frames: Sequence[Frame],
        reader: FrameReader | TextReader,
        coder: PromptCoder,
        mask: str,
        plan: Sequence[MicroBatch],
    ) -> None:
        self.frames, self.reader, self.coder, self.mask, self.plan = frames, reader, coder, mask, plan

    def __len__(self) -> int:
        return len(self.plan)

    def __getitem__(self, index: int) -> Batch:
        picked, prompts, answers = [], [], []
        for frame_index, chosen in self.plan[index]:
            frame = self.frames[frame_index]
            questions = [frame.questions[q] for q in chosen]
            picked.append((frame, chosen))
            prompts.append([self.coder.prompt_ids(q.question) for q in questions])
            answers.append([self.coder.label_ids[q.label] for q in questions])
        return Batch(self.reader.read_rows(picked), pack_training(prompts, answers, self.mask))

    def describe(self, index: int, question: int) -> str:
        """Names question ``question`` of micro-batch ``index`` for an error."""
        asked = [self.frames[f].questions[q] for f, chosen in self.plan[index] for q in chosen][question]
        return f"{asked.video}/{asked.frame}.txt:{asked.line}: {asked.question!r}"


def training_loader(rows: TrainingRows, order: Sequence[int], workers: int) -> DataLoader[Any]:
    """The micro-batches of ``order``, made by ``workers`` processes (0: this one), the same for any number of them."""
    return DataLoader(
        rows,
        batch_size=None,
        sampler=list(order),
        num_workers=workers,
        worker_init_fn=deaf,
        prefetch_factor=4 if workers else None,
    )
