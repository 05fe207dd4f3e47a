"""Copies what a loader yields to a GPU while the steps before it run."""

from collections.abc import Callable, Iterable, Iterator
from typing import Protocol, Self, TypeVar

import torch
from torch import Tensor


class Movable(Protocol):
    """An item whose tensors can be moved."""

    def map_tensors(self, function: Callable[[Tensor], Tensor]) -> Self:
        """The item with ``function`` applied to each tensor."""


ItemT = TypeVar("ItemT", bound=Movable)


def feed_device(items: Iterable[ItemT], device: torch.device) -> Iterator[ItemT]:
    """Yields the items with their tensors on a device.

    On a GPU an item is copied on a stream of its own, beside the steps that the GPU still has to make when the item is
    asked for; its tensors should be in pinned memory. On a CPU the items are yielded as they are.
    """
    if device.type != "cuda":
        yield from items
        return
    copies = torch.cuda.Stream(device)
    for item in items:
        with torch.cuda.stream(copies):
            moved = item.map_tensors(lambda tensor: tensor.to(device, non_blocking=True))
            done = torch.cuda.Event()
            done.record(copies)
        yield _wait_for(moved, done)


def _wait_for(item: ItemT, done: torch.cuda.Event) -> ItemT:
    """Makes the current stream wait for the copies, and keeps their memory until it has used them."""
    stream = torch.cuda.current_stream()
    stream.wait_event(done)

    def keep(tensor: Tensor) -> Tensor:
        tensor.record_stream(stream)
        return tensor

    item.map_tensors(keep)
    return item
