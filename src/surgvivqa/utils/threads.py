"""Work in a thread, for what releases Python's lock, such as copies of large tensors."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

ItemT = TypeVar("ItemT")
ResultT = TypeVar("ResultT")


def map_in_thread(function: Callable[[ItemT], ResultT], items: Iterable[ItemT], ahead: int) -> Iterator[ResultT]:
    """Yields ``function(item)`` of each item in order, computed in one thread up to ``ahead`` items before its use.

    An error of the function is raised where its result would be yielded.
    """
    with ThreadPoolExecutor(1) as thread:
        waiting: deque[Future[ResultT]] = deque()
        try:
            for item in items:
                waiting.append(thread.submit(function, item))
                if len(waiting) > ahead:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()
