"""Reading ahead: a thread reads the next item while the caller works on the current one."""

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

Item = TypeVar("Item")
Read = TypeVar("Read")


def read_ahead(items: Iterable[Item], read: Callable[[Item], Read]) -> Iterator[tuple[Item, Read]]:
    """Yield each item with what `read` returns for it; at most two results are in memory.

    An error of `read` is raised where its item would be yielded.
    """
    with ThreadPoolExecutor(1, "read-ahead") as thread:
        waiting: tuple[Item, Future[Read]] | None = None
        for item in items:
            following = item, thread.submit(read, item)
            if waiting is not None:
                yield waiting[0], waiting[1].result()
            waiting = following
        if waiting is not None:
            yield waiting[0], waiting[1].result()
