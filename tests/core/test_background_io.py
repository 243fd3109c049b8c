"""Threads that read ahead and write behind: order, bounds, errors, and an early end."""

import threading
import time
import weakref
from collections.abc import Callable

import pytest

from freelunch.core.background_io import read_ahead, write_behind
from interrupts import Interrupt

WAIT_S = 10.0


class Thing:
    """Something large that was read; it is in `alive` as long as it is in memory."""

    def __init__(self, alive: "weakref.WeakSet[Thing]") -> None:
        alive.add(self)


def threads() -> list[str]:
    names = [thread.name for thread in threading.enumerate()]
    return [name for name in names if name.startswith(("read-ahead", "write-behind"))]


def until(happened: Callable[[], bool]) -> None:
    """Wait for another thread."""
    end = time.monotonic() + WAIT_S
    while not happened():
        assert time.monotonic() < end, "the other thread did nothing"
        time.sleep(0.001)


def test_items_come_in_order_the_next_is_read_meanwhile_and_no_other() -> None:
    assert list(read_ahead(range(5), str)) == [(number, str(number)) for number in range(5)]
    assert list(read_ahead([], str)) == []
    read: list[int] = []
    for item, _ in read_ahead(range(4), read.append):
        until(lambda item=item: len(read) == min(item + 2, 4))
        time.sleep(0.01)
        assert read == list(range(min(item + 2, 4)))
    until(lambda: threads() == [])


def test_two_results_are_in_memory_at_a_time() -> None:
    alive: weakref.WeakSet[Thing] = weakref.WeakSet()
    most: list[int] = []

    def read(number: int) -> Thing:
        found = Thing(alive)
        most.append(len(alive))
        return found

    for number, found in read_ahead(range(20), read):
        until(lambda number=number: len(most) == min(number + 2, 20))
        # A loop's variable would hold it until the next is there.
        del found
    assert most == [1] + 19 * [2]


def test_an_error_of_a_read_comes_in_its_items_place() -> None:
    reading = read_ahead([1, 2, 0, 3], lambda number: 1 / number)
    assert [next(reading), next(reading)] == [(1, 1.0), (2, 0.5)]
    with pytest.raises(ZeroDivisionError):
        next(reading)
    until(lambda: threads() == [])


@pytest.mark.parametrize("stop", [Interrupt, KeyboardInterrupt])
def test_an_early_end_leaves_no_thread(stop: type[BaseException]) -> None:
    def work() -> None:
        for number, _ in read_ahead(range(10**9), lambda number: number):
            if number == 3:
                raise stop

    with pytest.raises(stop):
        work()
    until(lambda: threads() == [])


def test_an_abandoned_iteration_waits_for_no_thread() -> None:
    """The garbage collector may end it anywhere, such as in a thread that starts."""
    goes_on = threading.Event()
    items = read_ahead(range(3), lambda number: number == 0 or goes_on.wait())
    assert next(items) == (0, True)
    closer = threading.Thread(target=items.close)
    closer.start()
    closer.join(WAIT_S)
    waited = closer.is_alive()
    goes_on.set()
    assert not waited
    until(lambda: threads() == [])


def test_calls_are_made_in_order_one_at_a_time_and_all_when_the_block_ends() -> None:
    written: list[int] = []
    alive: weakref.WeakSet[Thing] = weakref.WeakSet()
    may_write = threading.Event()

    def write(number: int) -> None:
        time.sleep(0.001)
        written.append(number)

    with write_behind() as call:
        for number in range(20):
            call(write, number)
            assert len(written) >= number
        # The caller goes on meanwhile, and what was written is not kept.
        call(may_write.wait, WAIT_S)
        may_write.set()
        call(lambda thing: None, Thing(alive))
        until(lambda: len(alive) == 0)
    assert written == list(range(20))
    assert threads() == []


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
