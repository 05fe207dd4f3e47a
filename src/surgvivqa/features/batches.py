"""The order in which questions are seen, and the rows that a step is fed."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from surgvivqa.data.frames import BadFrame
from surgvivqa.data.packing import PackedStream, pack_training
from surgvivqa.data.prompt_tokens import PromptTokenizer
from surgvivqa.data.ssgqa import FrameQuestions
from surgvivqa.features.frame_reader import FrameInputs, FrameReader, read_usable
from surgvivqa.features.text_reader import TextInputs, TextReader
from surgvivqa.utils.loader_workers import ignore_signals

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
    """One micro-batch: its frames (clips, cached video tokens or cached text states) and its rows, one a frame.

    ``asked`` is how many questions were planned, ``bad`` the frames that could not be used: theirs are left out of
    ``packed``. Where none of the frames could be, ``inputs`` is None and ``packed`` a stand-in that must not count.
    """

    inputs: FrameInputs | TextInputs | None
    packed: PackedStream
    asked: int
    bad: tuple[BadFrame, ...] = ()

    @property
    def lost(self) -> int:
        """How many of the planned questions cannot be asked."""
        return self.asked - (self.packed.num_questions if self.inputs is not None else 0)


class FeatureSource(Protocol):
    """What a training step is fed from: clips, cached video tokens or cached text states.

    As a context manager it writes what is not in the cache yet on exit.
    """

    @property
    def reader(self) -> FrameReader | TextReader:
        """Reads the inputs of frames, in the processes that load batches."""

    def model_inputs(self, inputs: Any) -> dict[str, Tensor]:
        """The arguments of the model's ``forward`` for what ``reader`` read, on the model's device."""

    def __enter__(self) -> Any: ...

    def __exit__(self, *error: object) -> None: ...


class TrainingBatches(Dataset[Batch]):
    """Micro-batches by index, frames decoded and prompts packed where they are asked for (a worker process)."""

    def __init__(
        self,
        frames: Sequence[FrameQuestions],
        reader: FrameReader | TextReader,
        prompt_tokenizer: PromptTokenizer,
        mask: str,
        plan: Sequence[MicroBatch],
    ) -> None:
        self.frames, self.reader, self.prompt_tokenizer, self.mask, self.plan = (
            frames,
            reader,
            prompt_tokenizer,
            mask,
            plan,
        )

    def __len__(self) -> int:
        return len(self.plan)

    def __getitem__(self, index: int) -> Batch:
        picked = [(self.frames[f], chosen) for f, chosen in self.plan[index]]
        asked = sum(len(chosen) for _, chosen in picked)
        inputs, good, bad = read_usable(self.reader, picked)
        if inputs is None:
            good = [(picked[0][0], picked[0][1][:1])]
        prompts, answers = [], []
        for frame, chosen in good:
            questions = [frame.questions[q] for q in chosen]
            prompts.append([self.prompt_tokenizer.prompt_ids(q.question) for q in questions])
            answers.append([self.prompt_tokenizer.label_ids[q.label] for q in questions])
        return Batch(inputs, pack_training(prompts, answers, self.mask), asked, bad)

    def describe(self, index: int, question: int, bad: Iterable[BadFrame] = ()) -> str:
        """Names question ``question`` of micro-batch ``index``, those of bad frames left out, for an error."""
        out = {(b.video, b.frame) for b in bad}
        frames = [(self.frames[f], chosen) for f, chosen in self.plan[index]]
        asked = [f.questions[q] for f, chosen in frames if (f.video, f.frame) not in out for q in chosen][question]
        return f"{asked.video}/{asked.frame}.txt:{asked.line}: {asked.question!r}"


def training_loader(rows: TrainingBatches, order: Sequence[int], workers: int) -> DataLoader[Any]:
    """The micro-batches of ``order``, made by ``workers`` processes (0: this one), the same for any number of them."""
    return DataLoader(
        rows,
        batch_size=None,
        sampler=list(order),
        num_workers=workers,
        worker_init_fn=ignore_signals,
        prefetch_factor=4 if workers else None,
    )
