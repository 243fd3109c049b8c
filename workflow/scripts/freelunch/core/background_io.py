"""Reading ahead and writing behind: threads read and write while the caller computes."""

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import TypeVar

Item = TypeVar("Item")
Read = TypeVar("Read")


def read_ahead(items: Iterable[Item], read: Callable[[Item], Read]) -> Iterator[tuple[Item, Read]]:
    """Yield each item with what `read` returns for it.

    While the caller works on one item, a thread reads the next, so that two results are in memory.
    The thread begins with an item when the caller has finished the item before the last. An error
    of `read` is raised where its item would be yielded.
    """
    thread = ThreadPoolExecutor(1, "read-ahead")
    try:
        begun = (thread.submit(lambda each: (each, read(each)), item) for item in items)
        coming = next(begun, None)
        while coming is not None:
            result = coming.result()
            coming = next(begun, None)
            yield result
            # The caller asks for the next item: this one must not stay in memory while it waits.
            del result
    finally:
        # A caller that stopped early may leave this to the garbage collector, which runs anywhere,
        # such as in a thread that starts, under a lock that joining this thread would wait for.
        thread.shutdown(wait=False)


@contextmanager
def write_behind() -> Iterator[Callable[..., None]]:
    """Give a function that has a thread make a call, such as the writing of a result.

    It waits for the call before, so that one call at a time is made, and the caller is at most one
    result ahead. An error of a call is raised by the next call, or at the end of the `with` block.
    When the block ends, all calls have been made.
    """
    before: Future[None] | None = None
    with ThreadPoolExecutor(1, "write-behind") as thread:

        def call(write: Callable[..., None], *arguments: object) -> None:
            nonlocal before
            if before is not None:
                before.result()
            before = thread.submit(write, *arguments)

        yield call
        if before is not None:
            before.result()
