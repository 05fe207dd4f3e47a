"""The account of frames that cannot be used, and what a command makes of them: ``--on-bad-frame``."""

import logging
import math
from collections.abc import Iterable, Sequence
from typing import Any

from accelerate.utils import gather_object

from surgvivqa.data.frames import BadFrame
from surgvivqa.utils.errors import InputError

log = logging.getLogger("surgvivqa")


class BadFrames:
    """The frames of a run that could not be used, the same ones in every process once they are ``share``\\ d.

    Args:
        policy: ``error`` allows none; ``skip`` leaves their questions out and allows a part of the run's frames.
        most: that part (``--max-bad-frames``).
        total: how many frames the run has.
        known: those that an earlier part of the run skipped. Under ``skip`` they count; under ``error`` one that is met
            again is an error.
    """

    def __init__(self, policy: str, most: float, total: int, known: Iterable[Sequence[Any]] = ()) -> None:
        self.policy, self.most, self.total = policy, most, total
        self.limit = math.ceil(round(most * total, 6)) if policy == "skip" else 0
        before: dict[tuple[str, int], str] = {(video, frame): why for video, frame, why in known}
        self._why, self._before = (before, {}) if policy == "skip" else ({}, before)

    def __len__(self) -> int:
        return len(self._why)

    def new(self, bad: Iterable[BadFrame]) -> list[BadFrame]:
        """Those that were not known of."""
        return [b for b in bad if (b.video, b.frame) not in self._why]

    def share(self, bad: Iterable[BadFrame]) -> None:
        """Takes what every process has met; all processes must call it."""
        self.take(gather_object(self.new(bad)))

    def take(self, bad: Iterable[BadFrame]) -> None:
        """Takes frames to the account; the log says each once."""
        for video, frame, why in bad:
            if (video, frame) not in self._why:
                self._why[video, frame] = why
                if self.policy == "skip":
                    log.warning(
                        "Skipped the questions of %s frame %d: %s (%d of at most %d)",
                        *(video, frame, why, len(self), self.limit),
                    )

    @property
    def too_many(self) -> bool:
        """Whether the policy does not allow them."""
        return len(self) > self.limit

    def refuse(self, advice: str = "run the same again") -> None:
        """Raises InputError where they are too many; ``advice`` is what to do once they are mended."""
        if not self.too_many:
            return
        last = list(self._why.values())[-1]
        if self.policy == "error":
            raise InputError(f"{last} Mend it and {advice}; --on-bad-frame skip leaves such frames out.")
        raise InputError(
            f"{len(self)} of {self.total} frames cannot be used, more than the {self.limit} that --max-bad-frames "
            f"{self.most:g} allows (the last one: {last}) Mend them and {advice}, or allow more."
        )

    def to_list(self) -> list[BadFrame]:
        """All of the whole run, in the order they were met."""
        return [BadFrame(*name, why) for name, why in (self._before | self._why).items()]
