"""The frames of a run that cannot be used, and the policy for them: ``--on-bad-frame``, ``--max-bad-frames``."""

import logging
import math
from collections.abc import Iterable, Sequence
from typing import Any

from accelerate.utils import gather_object

from surgvivqa.data.frames import BadFrame
from surgvivqa.utils.errors import InputError

log = logging.getLogger("surgvivqa")


class BadFrames:
    """The frames of a run that could not be used; the same in every process after ``gather``.

    Args:
        policy: ``error`` allows none; ``skip`` leaves their questions out and allows a fraction of the run's frames.
        fraction: that fraction (``--max-bad-frames``).
        total: number of frames of the run.
        known: frames that an earlier part of the run skipped. Under ``skip`` they count; under ``error`` a frame that
            fails again is an error.
    """

    def __init__(self, policy: str, fraction: float, total: int, known: Iterable[Sequence[Any]] = ()) -> None:
        self.policy, self.fraction, self.total = policy, fraction, total
        self.limit = math.ceil(round(fraction * total, 6)) if policy == "skip" else 0
        earlier: dict[tuple[str, int], str] = {(video, frame): why for video, frame, why in known}
        self._reasons, self._earlier = (earlier, {}) if policy == "skip" else ({}, earlier)

    def __len__(self) -> int:
        return len(self._reasons)

    def unknown(self, frames: Iterable[BadFrame]) -> list[BadFrame]:
        """Those of ``frames`` that are not recorded yet."""
        return [bad for bad in frames if (bad.video, bad.frame) not in self._reasons]

    def gather(self, frames: Iterable[BadFrame]) -> None:
        """Records the bad frames of all processes in each of them; every process must call it."""
        self.add(gather_object(self.unknown(frames)))

    def add(self, frames: Iterable[BadFrame]) -> None:
        """Records frames; under ``skip`` the log reports each once."""
        for video, frame, why in frames:
            if (video, frame) not in self._reasons:
                self._reasons[video, frame] = why
                if self.policy == "skip":
                    log.warning(
                        "Skipped the questions of %s frame %d: %s (%d of at most %d)",
                        *(video, frame, why, len(self), self.limit),
                    )

    @property
    def too_many(self) -> bool:
        """Whether there are more than the policy allows."""
        return len(self) > self.limit

    def check(self, advice: str = "run the same command again") -> None:
        """Raises InputError if there are too many; ``advice`` says what to do once they are fixed."""
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
        return [BadFrame(*name, why) for name, why in (self._earlier | self._reasons).items()]
