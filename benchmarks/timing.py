"""Timing of calls, training steps and modules."""

import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn


def time_call(device: str, work: Callable[[], Any]) -> float:
    """Seconds of one call, until the device has finished what it started."""
    synchronize(device)
    started = time.perf_counter()
    work()
    synchronize(device)
    return time.perf_counter() - started


def synchronize(device: str) -> None:
    """Waits until the device is idle."""
    if device == "cuda":
        torch.cuda.synchronize()


def training_step(model: nn.Module, loss: Callable[[], Tensor], rate: float = 1e-4) -> Callable[[], Any]:
    """A training step of the adapters: gradients of the mean loss, and AdamW."""
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=rate)

    def step() -> None:
        optimizer.zero_grad()
        loss().mean().backward()
        optimizer.step()

    return step


def time_spent_in(module: nn.Module, device: str) -> list[float]:
    """A list to which each forward pass of the module appends its seconds."""
    spent: list[float] = []

    def before(*_: Any) -> None:
        synchronize(device)
        spent.append(-time.perf_counter())

    def after(*_: Any) -> None:
        synchronize(device)
        spent[-1] += time.perf_counter()

    module.register_forward_pre_hook(before)
    module.register_forward_hook(after)
    return spent
