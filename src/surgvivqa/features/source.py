"""The features that a training step starts from: video tokens or text states, behind a pair of protocols.

A *reader* runs in the worker processes that load windows: it reads the inputs of frames and of selected questions about
them, as tensors on the CPU. A *source* runs in the training process: it computes features from these inputs, on the
model's device.

===================================  =========================  ==============================================
source                               the reader returns         the source returns
===================================  =========================  ==============================================
``VideoTokenSource`` without cache   ``FrameInputs`` (clips)    video tokens ``[F, V, hidden]``
``VideoTokenSource`` with cache      ``FrameInputs``            video tokens ``[F, V, hidden]`` float32
``TextStateSource``                  ``TextInputs``             text states ``[N, hidden]`` float32
===================================  =========================  ==============================================
"""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import Protocol, Self, TypeAlias, TypeVar

from torch import Tensor

from surgvivqa.data.frames import BadFrame
from surgvivqa.data.ssgqa import FrameQuestions
from surgvivqa.utils.errors import FrameError

FrameRequest: TypeAlias = tuple[FrameQuestions, Sequence[int]]
"""A frame and the indices of the selected questions about it."""


class DeviceInputs(Protocol):
    """What a reader returns: inputs whose tensors can be moved to a device."""

    def map_tensors(self, function: Callable[[Tensor], Tensor]) -> Self:
        """The inputs with ``function`` applied to each tensor."""


InputsT = TypeVar("InputsT", bound=DeviceInputs)
InputsT_co = TypeVar("InputsT_co", bound=DeviceInputs, covariant=True)


class FeatureReader(Protocol[InputsT_co]):
    """Reads the inputs of frames; pickled to the worker processes."""

    @property
    def bytes_per_frame(self) -> int:
        """Size of a frame's clip in bytes, for the memory that workers share."""

    def read_requests(self, requests: Sequence[FrameRequest]) -> InputsT_co:
        """Reads the inputs of frames and questions, on the CPU, in the order of ``requests``.

        Raises:
            FrameError: a frame cannot be used; the error names it.
            InputError: a cache file is damaged as a whole.
        """


class FeatureSource(Protocol[InputsT]):
    """Computes features from what its reader read. As a context manager it writes pending cache items on exit."""

    @property
    def reader(self) -> FeatureReader[InputsT]:
        """The reader for the worker processes."""

    def __call__(self, inputs: InputsT) -> Tensor:
        """The features of the inputs, on the model's device (see the table in this file)."""

    def flush(self) -> None:
        """Writes the computed features that are not on disk yet.

        Raises:
            InputError: the cache folder cannot be written, and the source was built with ``must_write``.
        """

    def __enter__(self) -> "FeatureSource[InputsT]": ...

    def __exit__(self, *error: object) -> None: ...


@contextlib.contextmanager
def name_frame_in_errors(frame: FrameQuestions) -> Iterator[None]:
    """Sets the frame of a ``FrameError`` of the body.

    The unusable image may be another image of the frame's clip, so its path does not identify the frame.
    """
    try:
        yield
    except FrameError as error:
        error.frame = (frame.video, frame.frame)
        raise


def read_good_frames(
    reader: FeatureReader[InputsT], requests: Sequence[FrameRequest]
) -> tuple[InputsT | None, list[FrameRequest], tuple[BadFrame, ...]]:
    """Reads the inputs of the frames that can be used.

    Returns:
        The inputs (None if no frame can be used), the requests that they belong to, and the frames that cannot be
        used.

    Raises:
        InputError: an error that does not concern a single frame, such as an unreadable folder.
    """
    remaining, bad = list(requests), list[BadFrame]()
    while remaining:
        try:
            return reader.read_requests(remaining), remaining, tuple(bad)
        except FrameError as error:
            if error.frame is None:
                raise
            bad.append(BadFrame(*error.frame, error.sentence))
            remaining = [(frame, chosen) for frame, chosen in remaining if (frame.video, frame.frame) != error.frame]
    return None, [], tuple(bad)
