"""Chooses the fastest of several ways to compute the same results, by measuring them on the first pieces of work."""

import logging
import time
from collections.abc import Callable, Mapping
from typing import TypeVar

log = logging.getLogger("surgvivqa")
ROUNDS = 3  # measured calls of each way, the first of which is a warm-up
T = TypeVar("T")


class FastestWay:
    """Runs pieces of work in the fastest of several ways.

    The first pieces are done in turns, each by one way, and timed. The first call of a way is not counted: it starts
    libraries and fills the allocator. The fastest call of each way decides.

    Args:
        wait: returns when the device has done all its work.
        clock: the time in seconds.

    Attributes:
        chosen: the name of the fastest way; None while it is measured.
    """

    def __init__(self, wait: Callable[[], None], clock: Callable[[], float] = time.perf_counter) -> None:
        self.wait, self.clock = wait, clock
        self.chosen: str | None = None
        self._seconds: dict[str, list[float]] = {}  # per unit of work

    def run(self, ways: Mapping[str, Callable[[], T]], amount: int, *, is_fair: bool = True) -> T:
        """Does a piece of work in one of the ways, and returns its result.

        Args:
            ways: by name, functions with the same result; the same names in every call.
            amount: the amount of work in this piece, such as its number of questions.
            is_fair: whether this piece can be compared with the others; otherwise it is not timed.
        """
        if self.chosen is not None:
            return ways[self.chosen]()
        seconds = self._seconds = self._seconds or {name: [] for name in ways}
        name = min(ways, key=lambda name: len(seconds[name]))
        if not is_fair:
            return ways[name]()
        self.wait()
        start = self.clock()
        result = ways[name]()
        self.wait()
        seconds[name].append((self.clock() - start) / amount)
        if all(len(times) == ROUNDS for times in seconds.values()):
            best = {name: min(times[1:]) for name, times in seconds.items()}
            self.chosen = min(best, key=lambda name: best[name])
            figures = ", ".join(f"{name} {1e6 * value:.0f}" for name, value in best.items())
            log.info("Microseconds per question: %s. The rest is done by %s.", figures, self.chosen)
        return result
