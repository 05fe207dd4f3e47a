"""The unusable frames of a run, and the policy for them: ``--on-bad-frame``, ``--max-bad-frames``."""

import logging
import math
from collections.abc import Iterable, Sequence
from typing import Any

from accelerate.utils import gather_object

from surgvivqa.data.frames import BadFrame
from surgvivqa.utils.errors import InputError

log = logging.getLogger("surgvivqa")


class BadFrames:
    """The unusable frames of a run; the same in every process after ``gather``.

    Args:
        policy: ``error`` allows none; ``skip`` leaves out their questions, up to ``fraction`` of the run's frames.
        fraction: the fraction of frames that ``skip`` allows, between 0 and 1 (``--max-bad-frames``).
        total: number of frames of the run.
        earlier: frames that the run skipped before it was resumed, as (video, frame, reason). Under ``skip`` they
            count; under ``error`` a frame that fails again is an error.

    Attributes:
        limit: the number of frames that the policy allows.
    """

    def __init__(self, policy: str, fraction: float, total: int, earlier: Iterable[Sequence[Any]] = ()) -> None:
        self.policy, self.fraction, self.total = policy, fraction, total
        self.limit = math.ceil(round(fraction * total, 6)) if policy == "skip" else 0
        reasons: dict[tuple[str, int], str] = {(video, frame): reason for video, frame, reason in earlier}
        self._reasons, self._earlier = (reasons, {}) if policy == "skip" else ({}, reasons)

    def __len__(self) -> int:
        return len(self._reasons)

    def filter_new(self, frames: Iterable[BadFrame]) -> list[BadFrame]:
        """The frames that are not recorded yet."""
        return [bad for bad in frames if (bad.video, bad.frame) not in self._reasons]

    def gather(self, frames: Iterable[BadFrame]) -> None:
        """Records the bad frames of all processes in each of them; every process must call it."""
        self.add(gather_object(self.filter_new(frames)))

    def add(self, frames: Iterable[BadFrame]) -> None:
        """Records frames; under ``skip``, logs a warning for each new one."""
        for video, frame, reason in frames:
            if (video, frame) not in self._reasons:
                self._reasons[video, frame] = reason
                if self.policy == "skip":
                    log.warning(
                        "Skipped the questions of %s frame %d: %s (%d of at most %d)",
                        *(video, frame, reason, len(self), self.limit),
                    )

    @property
    def allowance(self) -> int:
        """The number of further bad frames that the policy allows."""
        return max(0, self.limit - len(self))

    @property
    def too_many(self) -> bool:
        """Whether there are more bad frames than the policy allows."""
        return len(self) > self.limit

    def check(self, advice: str = "run the same command again") -> None:
        """Checks that the policy allows the bad frames.

        Args:
            advice: what to do after fixing the frames, for the error message.

        Raises:
            InputError: there are too many bad frames.
        """
        if not self.too_many:
            return
        last = list(self._reasons.values())[-1]
        if self.policy == "error":
            raise InputError(f"{last} Fix it and {advice}; --on-bad-frame skip leaves such frames out.")
        raise InputError(
            f"{len(self)} of {self.total} frames cannot be used, more than the {self.limit} that --max-bad-frames "
            f"{self.fraction:g} allows (the last one: {last}) Fix them and {advice}, or allow more."
        )

    def to_list(self) -> list[BadFrame]:
        """All bad frames of the run, in the order they were found."""
        return [BadFrame(*name, reason) for name, reason in (self._earlier | self._reasons).items()]
