"""The fastest way is measured on the first pieces of work, each done once; later pieces are done by it alone."""

from collections.abc import Callable

import pytest

from surgvivqa.evaluation.fastest_way import ROUNDS, FastestWay
from tests.conftest import CapturedLog


class FakeClock:
    """A clock that advances only when work is done."""

    def __init__(self) -> None:
        self.now = 0.0
        self.calls: list[str] = []

    def __call__(self) -> float:
        return self.now

    def work(self, name: str, seconds: float) -> Callable[[], str]:
        """A way that takes some seconds."""

        def call() -> str:
            self.now += seconds
            self.calls.append(name)
            return name

        return call


@pytest.mark.parametrize("search, all_labels", [(1.0, 2.0), (2.0, 1.0)])
def test_the_faster_way_is_kept(search: float, all_labels: float) -> None:
    clock, waits = FakeClock(), list[float]()
    way = FastestWay(lambda: waits.append(clock.now), clock)
    for _ in range(20):
        way.run({"search": clock.work("search", search), "all": clock.work("all", all_labels)}, 40)
    faster = "search" if search < all_labels else "all"
    assert way.chosen == faster
    assert clock.calls == ["search", "all"] * ROUNDS + [faster] * (20 - 2 * ROUNDS)
    assert len(waits) == 2 * 2 * ROUNDS  # the device is awaited while it is measured, not later


def test_the_first_call_of_a_way_is_not_counted() -> None:
    clock = FakeClock()
    way = FastestWay(lambda: None, clock)
    for n in range(2 * ROUNDS):
        way.run({"search": clock.work("search", 1.0), "all": clock.work("all", 100.0 if n < 2 else 0.5)}, 40)
    assert way.chosen == "all"


def test_times_are_compared_per_question() -> None:
    clock = FakeClock()
    way = FastestWay(lambda: None, clock)
    for n in range(2 * ROUNDS):
        amount = 10 if n % 2 == 0 else 1000
        way.run({"search": clock.work("search", 0.2 * amount), "all": clock.work("all", 0.1 * amount)}, amount)
    assert way.chosen == "all"


def test_unfair_pieces_are_done_but_not_timed() -> None:
    clock = FakeClock()
    way = FastestWay(lambda: None, clock)
    for n in range(4 * ROUNDS):
        seconds = 1.0 if n % 2 == 0 else 0.0  # of a way that looks fast because a cache is filled
        way.run(
            {"search": clock.work("search", seconds), "all": clock.work("all", seconds / 2)}, 40, is_fair=n % 2 == 0
        )
    assert len(clock.calls) == 4 * ROUNDS
    assert way.chosen == "all"


def test_the_choice_is_logged_with_its_figures(captured_log: CapturedLog) -> None:
    clock = FakeClock()
    way = FastestWay(lambda: None, clock)
    for _ in range(2 * ROUNDS):
        way.run({"search": clock.work("search", 0.004), "all": clock.work("all", 0.002)}, 40)
    assert "Microseconds per question: search 100, all 50. The rest is done by all." in captured_log.lines
