"""CUDA graphs of the decoder's forward and backward pass: one launch in place of a thousand kernels.

A step of few questions takes a GPU less time than the host needs to launch its kernels. A graph records them once for
each shape of the stream (``packing.bucket_shape`` keeps these few) and replays them on other values.
"""

import dataclasses
import logging
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from surgvivqa.data.packing import PackedStream, StreamShape
from surgvivqa.training.update import GradientBucket
from surgvivqa.utils.errors import RunError, first_line

log = logging.getLogger("surgvivqa")
_WARM_UP_PASSES = 3  # PyTorch's advice, so that libraries allocate their workspaces before a recording
_MAX_GRAPHS = 64

Work = Callable[[PackedStream, dict[str, Tensor], float | Tensor], Tensor]


@dataclass
class _Recording:
    """A graph with the tensors that it reads and writes."""

    stream: PackedStream
    buffers: list[Tensor]
    states: Tensor
    weight: Tensor
    graph: torch.cuda.CUDAGraph
    losses: Tensor


class DecoderGraphs:
    """Runs ``work`` on padded streams and text states as recorded graphs.

    Every call replays a graph, also the first one of a shape, so that a resumed run computes the same bits.

    Args:
        work: forward and backward of a micro-batch; adds to ``bucket`` and returns the losses ``[Q]``.
        bucket: the gradients, which recording leaves as they are.
        required: an error in recording is an error of the run, and not a reason to go on without graphs.

    Attributes:
        failed: whether recording failed; the caller then runs ``work`` itself.
    """

    def __init__(self, work: Work, bucket: GradientBucket, required: bool) -> None:
        self.work, self.bucket, self.required = work, bucket, required
        self.failed = False
        self._recordings: OrderedDict[StreamShape, _Recording] = OrderedDict()
        self._pool: Any = None

    def run(self, packed: PackedStream, states: Tensor, weight: float, seed: Callable[[], None]) -> Tensor | None:
        """Runs one micro-batch.

        Args:
            packed: the padded stream, on the GPU.
            states: its text states ``[N, hidden]``.
            weight: factor on the summed loss.
            seed: seeds PyTorch for the micro-batch's dropout.

        Returns:
            The losses ``[Q]``; None if this shape cannot be recorded.

        Raises:
            RunError: it cannot be recorded, and graphs are required.
        """
        recording = self._recordings.get(packed.shape)
        if recording is None:
            try:
                recording = self._record(packed, states)
            except RuntimeError as error:
                if self.required:
                    raise RunError(f"--cuda-graphs on: a step cannot be recorded ({first_line(error)}).") from error
                log.warning("CUDA graphs are off, because a step cannot be recorded (%s).", first_line(error))
                self.failed = True
                self._recordings.clear()
                torch.cuda.synchronize()
                return None
            self._recordings[packed.shape] = recording
            if len(self._recordings) > _MAX_GRAPHS:
                self._recordings.popitem(last=False)
        self._recordings.move_to_end(packed.shape)
        for held, given in zip(recording.buffers, buffers_of(packed), strict=True):
            held.copy_(given)
        recording.states.copy_(states)
        recording.weight.fill_(weight)
        seed()
        recording.graph.replay()
        return recording.losses[: packed.num_questions].clone()

    def _record(self, packed: PackedStream, states: Tensor) -> _Recording:
        """Records a graph for streams of this shape."""
        stream, buffers = fixed_stream(packed)
        fixed, weight = states.clone(), torch.zeros((), device=states.device)
        kept = self.bucket.buffer.clone()
        current, side = torch.cuda.current_stream(), torch.cuda.Stream()
        try:
            side.wait_stream(current)
            with torch.cuda.stream(side):
                for _ in range(_WARM_UP_PASSES):
                    self.work(stream, {"text_states": fixed}, weight)
            current.wait_stream(side)
            graph = torch.cuda.CUDAGraph()
            # Other threads, such as the one that pins memory, may use the GPU meanwhile.
            with torch.cuda.graph(graph, pool=self._pool, capture_error_mode="thread_local"):
                losses = self.work(stream, {"text_states": fixed}, weight)
            self._pool = graph.pool()
        finally:
            self.bucket.buffer.copy_(kept)
        log.debug("Recorded a CUDA graph for %s", packed.shape)
        return _Recording(stream, buffers, fixed, weight, graph, losses)


def fixed_stream(packed: PackedStream) -> tuple[PackedStream, list[Tensor]]:
    """A copy of a padded stream to which other streams of the same shape can be copied, and its buffers.

    All question slots but the last, which padding uses, count as questions; those without a target have a loss of 0.
    """
    buffers: list[Tensor] = []

    def copy(buffer: Tensor) -> Tensor:
        buffers.append(buffer.clone())
        return buffers[-1]

    stream = packed.map_buffers(copy)
    return dataclasses.replace(stream, num_questions=packed.question_slots - 1), buffers


def buffers_of(packed: PackedStream) -> list[Tensor]:
    """The two buffers of a stream."""
    found: list[Tensor] = []

    def keep(buffer: Tensor) -> Tensor:
        found.append(buffer)
        return buffer

    packed.map_buffers(keep)
    return found
