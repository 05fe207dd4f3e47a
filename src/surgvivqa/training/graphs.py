"""CUDA graphs of the decoder's forward and backward pass: one launch in place of a thousand kernels.

A step of few questions takes a GPU less time than the host needs to launch its kernels. A graph records them once for
each shape of the stream (``packing.bucket_shape`` keeps these few) and replays them on other values.
"""

import contextlib
import dataclasses
import gc
import logging
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.nn.functional import dropout

from surgvivqa.config import TrainConfig
from surgvivqa.data.packing import PackedStream, StreamShape
from surgvivqa.features.batches import AheadPart
from surgvivqa.training.update import GradientBucket
from surgvivqa.utils.errors import RunError, first_line

log = logging.getLogger("surgvivqa")
_WARM_UP_PASSES = 3  # PyTorch's advice, so that libraries allocate their workspaces before a recording
_MAX_GRAPHS = 64

Work = Callable[[PackedStream, dict[str, Tensor], float | Tensor], Tensor]


class Recorder(Protocol):
    """Records a computation."""

    def __call__(self, work: Callable[[], Tensor]) -> tuple[Callable[[], None], Tensor]:
        """Records ``work``; returns what replays it, and the tensor that a replay writes its result to."""


class CudaRecorder:
    """Records computations as CUDA graphs, which share their memory, as they run one after another."""

    def __init__(self) -> None:
        self._pool: Any = None

    def __call__(self, work: Callable[[], Tensor]) -> tuple[Callable[[], None], Tensor]:
        """Records ``work`` (see ``Recorder``).

        Raises:
            RuntimeError: an operation cannot be recorded; PyTorch can be used on.
            RunError: the same, and PyTorch cannot be used on in this process.
        """
        current, side = torch.cuda.current_stream(), torch.cuda.Stream()
        side.wait_stream(current)
        with torch.cuda.stream(side):
            for _ in range(_WARM_UP_PASSES):
                work()
        current.wait_stream(side)
        torch.cuda.synchronize()
        gc.collect()
        torch.cuda.empty_cache()
        if self._pool is None:
            self._pool = torch.cuda.graph_pool_handle()
        graph = torch.cuda.CUDAGraph()
        # Not torch.cuda.graph, which stays in its stream where a recording fails.
        with torch.cuda.stream(side):
            # Other threads, such as the one that pins memory, may use the GPU meanwhile.
            graph.capture_begin(pool=self._pool, capture_error_mode="thread_local")
            try:
                result = work()
            except RuntimeError as error:
                self._abandon(graph, error)
                raise
            try:
                graph.capture_end()
            except RuntimeError as error:
                self._abandon(None, error)
                raise
        current.wait_stream(side)
        return graph.replay, result

    def _abandon(self, graph: torch.cuda.CUDAGraph | None, cause: RuntimeError) -> None:
        """Ends a recording that failed, which leaves PyTorch's allocator and its random numbers in it.

        Raises:
            RunError: that does not succeed.
        """
        try:
            if graph is not None:
                with contextlib.suppress(RuntimeError):  # it says again that the recording failed
                    graph.capture_end()
            device = torch.cuda.current_device()
            with contextlib.suppress(RuntimeError):  # the recording may have ended there already
                torch._C._cuda_endAllocateToPool(device, self._pool)
            fresh = torch.Generator(f"cuda:{device}")
            torch.cuda.default_generators[device].graphsafe_set_state(fresh.graphsafe_get_state())
            dropout(torch.ones(64, device=f"cuda:{device}"), 0.5)
            torch.cuda.synchronize()
        except (RuntimeError, AttributeError) as error:
            raise RunError(
                f"A step cannot be recorded as a CUDA graph ({first_line(cause)}). The same command with --cuda-graphs "
                f"off resumes from the newest checkpoint, or starts again."
            ) from error


def why_no_graphs(config: TrainConfig, part: AheadPart, device: torch.device) -> str:
    """Why a run's steps cannot be recorded; empty if they can.

    Args:
        config: the flags.
        part: what is computed ahead of the steps.
        device: the model's device.
    """
    if device.type != "cuda":
        return "there is no GPU"
    if part != "text":
        return "an encoder trains"
    if config.gradient_checkpointing:
        return "--gradient-checkpointing recomputes activations"
    return ""


@dataclass
class _Recording:
    """A recorded computation with the tensors that it reads and writes."""

    buffers: list[Tensor]
    states: Tensor
    weight: Tensor
    replay: Callable[[], None]
    losses: Tensor


class DecoderGraphs:
    """Runs ``work`` on padded streams and text states as recorded graphs.

    Every call replays a graph, also the first one of a shape, so that a resumed run computes the same bits.

    Args:
        work: forward and backward of a micro-batch; adds to ``bucket`` and returns the losses ``[Q]``.
        bucket: the gradients, which recording leaves as they are.
        required: an error in recording is an error of the run, and not a reason to go on without graphs.
        record: records the work on one stream.

    Attributes:
        failed: whether recording failed; the caller then runs ``work`` itself.
    """

    def __init__(self, work: Work, bucket: GradientBucket, required: bool, record: Recorder) -> None:
        self.work, self.bucket, self.required, self.record = work, bucket, required, record
        self.failed = False
        self._recordings: OrderedDict[StreamShape, _Recording] = OrderedDict()

    def run(self, packed: PackedStream, states: Tensor, weight: float, seed: Callable[[], None]) -> Tensor | None:
        """Runs one micro-batch.

        Args:
            packed: the padded stream, on the GPU.
            states: its text states ``[N, hidden]``.
            weight: factor on the summed loss.
            seed: seeds PyTorch for the micro-batch's dropout.

        Returns:
            The losses ``[Q]``; None if the work cannot be recorded.

        Raises:
            RunError: it cannot be recorded, and graphs are required.
        """
        if packed.shape not in self._recordings:
            try:
                self._recordings[packed.shape] = self._record(packed, states)
            except RuntimeError as error:
                self._fail(error)
                return None
            if len(self._recordings) > _MAX_GRAPHS:
                self._recordings.popitem(last=False)
        self._recordings.move_to_end(packed.shape)
        recording = self._recordings[packed.shape]
        for held, given in zip(recording.buffers, buffers_of(packed), strict=True):
            held.copy_(given)
        recording.states.copy_(states)
        recording.weight.fill_(weight)
        seed()
        recording.replay()
        return recording.losses[: packed.num_questions].clone()

    def _fail(self, error: RuntimeError) -> None:
        if self.required:
            raise RunError(f"--cuda-graphs on: a step cannot be recorded ({first_line(error)}).") from error
        log.warning("CUDA graphs are off, because a step cannot be recorded (%s).", first_line(error))
        self.failed = True
        self._recordings.clear()

    def _record(self, packed: PackedStream, states: Tensor) -> _Recording:
        """Records the work on streams of this shape."""
        stream, buffers = fixed_stream(packed)
        fixed, weight = states.clone(), torch.zeros((), device=states.device)
        kept = self.bucket.buffer.clone()
        try:
            replay, losses = self.record(lambda: self.work(stream, {"text_states": fixed}, weight))
        finally:
            self.bucket.buffer.copy_(kept)
        log.debug("Recorded the work on %s", packed.shape)
        return _Recording(buffers, fixed, weight, replay, losses)


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
