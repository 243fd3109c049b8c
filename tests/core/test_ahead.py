"""Threads that read ahead and write behind: order, bounds, errors, and an early end."""

import threading
import time
import weakref
from collections.abc import Callable

import pytest

from freelunch.core.ahead import read_ahead, write_behind
from interrupts import Interrupt

WAIT_S = 10.0


class Thing:
    """Something large that was read."""


def counted(alive: "weakref.WeakSet[Thing]") -> Thing:
    """Return a thing that is among `alive` as long as it is in memory."""
    thing = Thing()
    alive.add(thing)
    return thing


def threads() -> list[str]:
    names = [thread.name for thread in threading.enumerate()]
    return [name for name in names if name.startswith(("read-ahead", "write-behind"))]


def until(happened: Callable[[], bool]) -> None:
    """Wait for another thread."""
    end = time.monotonic() + WAIT_S
    while not happened():
        assert time.monotonic() < end, "the other thread did nothing"
        time.sleep(0.001)


# --- Reading ahead


def test_items_come_in_order_each_with_what_was_read_for_it() -> None:
    assert list(read_ahead(range(5), str)) == [(number, str(number)) for number in range(5)]
    assert list(read_ahead([], str)) == []
    assert threads() == []


def test_the_next_item_is_read_while_the_caller_works_and_no_other() -> None:
    read: list[int] = []
    for item, _ in read_ahead(range(4), read.append):
        until(lambda item=item: len(read) == min(item + 2, 4))
        time.sleep(0.01)
        assert read == list(range(min(item + 2, 4)))


def test_two_results_are_in_memory_at_a_time() -> None:
    alive: weakref.WeakSet[Thing] = weakref.WeakSet()
    most: list[int] = []

    def read(number: int) -> Thing:
        found = counted(alive)
        most.append(len(alive))
        return found

    for number, found in read_ahead(range(20), read):
        until(lambda number=number: len(most) == min(number + 2, 20))
        # A loop's variable would hold it until the next is there.
        del found
    assert most == [1] + 19 * [2]


def test_an_error_of_a_read_comes_in_its_items_place() -> None:
    def read(number: int) -> int:
        if number == 2:
            raise OSError("the disk is gone")
        return number

    reading = read_ahead(range(4), read)
    assert [next(reading), next(reading)] == [(0, 0), (1, 1)]
    with pytest.raises(OSError, match="the disk is gone"):
        next(reading)
    assert threads() == []


@pytest.mark.parametrize("stop", [Interrupt, KeyboardInterrupt])
def test_an_early_end_leaves_no_thread(stop: type[BaseException]) -> None:
    def work() -> None:
        for number, _ in read_ahead(range(10**9), lambda number: number):
            if number == 3:
                raise stop

    with pytest.raises(stop):
        work()
    until(lambda: threads() == [])


# --- Writing behind


def test_calls_are_made_in_order_and_all_are_when_the_block_ends() -> None:
    written: list[int] = []

    def write(number: int) -> None:
        time.sleep(0.001)
        written.append(number)

    with write_behind() as call:
        for number in range(20):
            call(write, number)
            # One is being written at most.
            assert len(written) >= number
    assert written == list(range(20))
    assert threads() == []


def test_the_caller_goes_on_while_a_result_is_written() -> None:
    may_write = threading.Event()
    with write_behind() as call:
        call(may_write.wait, WAIT_S)
        may_write.set()


@pytest.mark.parametrize(
    ("calls", "own", "raised"),
    [(1, None, OSError), (3, None, OSError), (1, Interrupt, Interrupt)],
)
def test_an_error_of_a_call_is_raised_after_the_callers_own(
    calls: int, own: type[BaseException] | None, raised: type[BaseException]
) -> None:
    def fail(number: int) -> None:
        raise OSError(f"no space left for {number}")

    made = []

    def work() -> None:
        with write_behind() as call:
            for number in range(calls):
                call(fail, number)
                made.append(number)
            if own is not None:
                raise own

    with pytest.raises(raised, match=None if own else "no space left for 0"):
        work()
    assert made == [0]
    assert threads() == []


def test_what_was_written_is_not_kept() -> None:
    alive: weakref.WeakSet[Thing] = weakref.WeakSet()
    with write_behind() as call:
        call(lambda thing: None, counted(alive))
        until(lambda: len(alive) == 0)
