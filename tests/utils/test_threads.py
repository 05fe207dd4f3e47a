"""Work in a thread keeps the order, runs ahead, and raises its errors in their places."""

import itertools
import threading

import pytest

from surgvivqa.utils.threads import map_in_thread


def test_results_come_in_order_from_another_thread() -> None:
    found = list(map_in_thread(lambda n: (n * n, threading.get_ident()), range(7), 2))
    assert [square for square, _ in found] == [n * n for n in range(7)]
    assert {thread for _, thread in found}.isdisjoint({threading.get_ident()})


def test_work_runs_ahead_but_not_further() -> None:
    taken: list[int] = []

    def items() -> "itertools.chain[int]":
        return itertools.chain.from_iterable([taken.append(n) or n] for n in range(100))  # type: ignore[func-returns-value]

    results = map_in_thread(lambda n: n, items(), 3)
    assert next(results) == 0
    assert len(taken) == 4
    results.close()  # type: ignore[attr-defined]


def test_an_error_is_raised_in_its_place() -> None:
    results = map_in_thread(lambda n: 1 // n, [1, 0, 1], 2)
    assert next(results) == 1
    with pytest.raises(ZeroDivisionError):
        next(results)
