"""What the trainer keeps about the run and about single steps."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from surgvivqa.data.bad_frames import BadFrames
from surgvivqa.data.frames import BadFrame
from surgvivqa.features.batches import Batch, TrainingWindows
from surgvivqa.training.run_log import LossWindow
from surgvivqa.training.update import LateFigures


@dataclass
class TrainerState:
    """What changes from step to step.

    Attributes:
        step: number of steps made.
        best: best value of ``--best-metric`` so far (of the loss, its negative); None before the first validation.
        window: losses and questions since the last line of the log.
        bad_frames: the frames that could not be used.
        validated: False while a validation that is due is not complete.
    """

    step: int
    best: float | None
    window: LossWindow
    bad_frames: BadFrames
    validated: bool


@dataclass(frozen=True)
class StepBatches:
    """The micro-batches of one step.

    Attributes:
        epoch: the step's epoch, from 0.
        loss_weights: factor on the summed loss of each micro-batch (``schedule.step_plans``).
        loader: the epoch's micro-batches with their indices and the arguments of the model's ``forward``; a step takes
            the next ``len(loss_weights)``.
        windows: describes questions for error messages.
    """

    epoch: int
    loss_weights: Sequence[float]
    loader: Iterator[tuple[int, Batch, dict[str, Tensor]]]
    windows: TrainingWindows[Any]


@dataclass
class StepResult:
    """One step that the device has been given. Its figures are read later, so that the device never waits for the host.

    Attributes:
        step: the step, from 1.
        epoch: its epoch, from 0.
        lr: its learning rate.
        max_new_bad: number of bad frames, besides those that are recorded, with which updates are made.
        windows: describes questions for error messages.
        losses: the index of each micro-batch, its losses ``[Q]`` on the device, and its bad frames.
        bad: the frames of this process that cannot be used.
        late: the step's figures, once they are asked for.
    """

    step: int
    epoch: int
    lr: float
    max_new_bad: int
    windows: TrainingWindows[Any]
    losses: list[tuple[int, Tensor, Sequence[BadFrame]]] = field(default_factory=list)
    bad: list[BadFrame] = field(default_factory=list)
    late: LateFigures | None = None

    def find_culprit(self) -> str:
        """A question of this process whose loss is not finite; empty if there is none."""
        for index, losses, bad in self.losses:
            finite = losses.isfinite()
            if not finite.all():
                return self.windows.describe_question(index, int((~finite).int().argmax()), bad)
        return ""
