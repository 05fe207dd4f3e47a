"""The update of the parameters: one buffer of gradients, and no value that the host waits for.

A step whose loss or gradients are not finite makes no update, and neither do the steps after it. This is decided on the
device, since reading a value on the host would stop a GPU until its queue is empty. The host reads a step's figures
later (``LateFigures``).
"""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.linalg import vector_norm

from surgvivqa.training.schedule import make_optimizer


@dataclass(frozen=True)
class StepFigures:
    """The figures of one step: sums over its micro-batches and over all processes.

    Attributes:
        loss: mean loss per planned question, in nats.
        asked: number of questions planned.
        lost: number of those whose frame cannot be used.
        stopping: number of processes in which a signal or the time limit asks for a stop.
        signalled: number of processes in which a signal does.
        new_bad: number of frames that cannot be used and are not recorded yet.
        grad_norm: norm of the gradients before clipping.
        halted: 1 if no update is made in this step and in later ones.
    """

    loss: float = 0.0
    asked: float = 0.0
    lost: float = 0.0
    stopping: float = 0.0
    signalled: float = 0.0
    new_bad: float = 0.0
    grad_norm: float = 0.0
    halted: float = 0.0


_NUM_SUMMED = len(dataclasses.fields(StepFigures)) - 2  # all but the norm and whether updates are halted


class LateFigures:
    """A step's figures on the device, which are copied to the host when they are ready.

    Args:
        values: the figures on the device, in the order of ``StepFigures``.
    """

    def __init__(self, values: Tensor) -> None:
        self._ready: torch.cuda.Event | None = None
        if values.device.type == "cuda":
            self._host = torch.empty(len(values), pin_memory=True)
            self._host.copy_(values, non_blocking=True)
            self._ready = torch.cuda.Event()
            self._ready.record()
        else:
            self._host = values

    def read(self) -> StepFigures:
        """The figures; waits until the step is done."""
        if self._ready is not None:
            self._ready.synchronize()
        return StepFigures(*self._host.tolist())


class GradientBucket:
    """The gradients of all trained parameters in one buffer, followed by the figures that processes sum.

    One all-reduce per step then exchanges everything.

    Args:
        parameters: the trained parameters, float32 and on one device; their ``grad`` becomes a view of the buffer.

    Raises:
        ValueError: a parameter is not float32.
    """

    def __init__(self, parameters: Sequence[nn.Parameter]) -> None:
        if any(p.dtype != torch.float32 for p in parameters):
            raise ValueError("trained parameters must be float32")
        self.parameters = list(parameters)
        sizes = [p.numel() for p in self.parameters]
        self.buffer = torch.zeros(sum(sizes) + _NUM_SUMMED, device=self.parameters[0].device)
        self.gradients, self.figures = self.buffer.split([sum(sizes), _NUM_SUMMED])
        self.views = [part.view_as(p) for p, part in zip(parameters, self.gradients.split(sizes), strict=True)]
        for parameter, view in zip(self.parameters, self.views, strict=True):
            parameter.grad = view

    def add_gradients(self, loss: Tensor) -> None:
        """Adds the gradients of a loss (a scalar)."""
        found = torch.autograd.grad(loss, self.parameters, allow_unused=True)
        pairs = [(view, gradient) for view, gradient in zip(self.views, found, strict=True) if gradient is not None]
        torch._foreach_add_([view for view, _ in pairs], [gradient for _, gradient in pairs])

    def add_figures(self, figures: StepFigures) -> None:
        """Adds values that the host knows; only those that are sums."""
        values = torch.tensor(dataclasses.astuple(figures)[:_NUM_SUMMED])
        if self.buffer.device.type == "cuda":
            values = values.pin_memory()
        self.figures += values.to(self.buffer.device, non_blocking=True)

    def share_parameters(self) -> None:
        """Gives all processes the parameters of the first one; every process must call it."""
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            for parameter in self.parameters:
                torch.distributed.broadcast(parameter.data, 0)

    def sum_over_processes(self) -> None:
        """Sums gradients and figures over all processes; every process must call it."""
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            torch.distributed.all_reduce(self.buffer)

    def clear(self) -> None:
        """Sets gradients and figures to zero."""
        self.buffer.zero_()


class Updater:
    """Clips the gradients of a bucket and updates the parameters, without a value read by the host.

    Args:
        model: the model; its trained parameters are those with ``requires_grad``.
        lr: peak learning rate.
        weight_decay: applied to matrices only.
        max_grad_norm: gradients are clipped to this norm; 0 disables clipping.
        scaler: fp16's loss scaler, or None.
    """

    def __init__(
        self,
        model: nn.Module,
        lr: float,
        weight_decay: float,
        max_grad_norm: float,
        scaler: torch.amp.GradScaler | None = None,
    ) -> None:
        self.optimizer = make_optimizer(model, lr, weight_decay, fused=True)
        self.bucket = GradientBucket([p for p in model.parameters() if p.requires_grad])
        self.max_grad_norm, self.scaler = max_grad_norm, scaler
        device = self.bucket.buffer.device
        self.is_halted = torch.zeros((), dtype=torch.bool, device=device)
        self.unrecorded = torch.zeros((), device=device)  # bad frames since ``resume``
        if scaler is not None:
            scaler.scale(torch.zeros((), device=device))  # makes its factor, which a step without a loss needs too

    def scale(self, loss: Tensor) -> Tensor:
        """A loss multiplied by fp16's factor."""
        return loss if self.scaler is None else self.scaler.scale(loss)

    @torch.no_grad()
    def step(self, lr: float, max_new_bad: int) -> LateFigures:
        """Sums the bucket over the processes, updates the parameters, and clears the bucket.

        Gradients are those of the mean over the questions that could be asked; no update is made if there are none.
        No update is made any more, until ``resume``, if the loss or a gradient is not finite, or if there are too many
        bad frames. Infinite gradients under fp16 only skip the step, as the scale was too large.

        Args:
            lr: learning rate.
            max_new_bad: number of bad frames in all processes, since ``resume``, with which the run goes on.
        """
        bucket, optimizer = self.bucket, self.optimizer
        bucket.sum_over_processes()
        if self.scaler is not None:
            self.scaler.unscale_(optimizer)  # it also notes infinite gradients, for its next factor
        loss, asked, lost, _, _, new_bad = bucket.figures
        answered = asked - lost
        scale = asked / answered.clamp(min=1)
        norm = vector_norm(bucket.gradients) * scale
        factor = scale
        if self.max_grad_norm:
            factor = scale * (self.max_grad_norm / (norm + 1e-6)).clamp(max=1.0)
        bucket.gradients.mul_(factor)
        is_finite = norm.isfinite()
        self.unrecorded += new_bad
        self.is_halted |= ~loss.isfinite() | (self.unrecorded > max_new_bad)
        if self.scaler is None:
            self.is_halted |= ~is_finite
        is_good = is_finite & (answered > 0) & ~self.is_halted
        # AdamW leaves parameters and moments as they are where this is 1; GradScaler uses the same attribute.
        optimizer.found_inf = (~is_good).float()  # type: ignore[attr-defined]
        for group in optimizer.param_groups:
            group["lr"] = lr
        optimizer.step()
        if self.scaler is not None:
            self.scaler.update()
        figures = LateFigures(torch.cat([bucket.figures, norm.view(1), self.is_halted.view(1)]))
        bucket.clear()
        return figures

    def resume(self) -> None:
        """Allows updates; called once the bad frames of all steps so far are recorded, or are to be found again."""
        self.is_halted.zero_()
        self.unrecorded.zero_()
