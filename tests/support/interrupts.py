"""Interrupt a step in the middle and inspect what it left."""

import gc
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TypeVar

import pytest

from freelunch.core.artifact_writer import FINISHED_JOURNAL
from freelunch.core.progress import Report

T = TypeVar("T")


class Interrupt(Exception):
    """The exception by which a test stops a run."""


def interrupted(call: Callable[[], object]) -> None:
    """Run until the interrupt, then release the lock, which would have died with the process."""
    try:
        call()
    except Interrupt:
        pass
    else:
        pytest.fail("nothing was interrupted")
    gc.collect()


def stop_at(step: int, seen: list[int] | None = None) -> Report:
    """Return a report that interrupts at a step, and notes in `seen` each that it was told of; no
    step is 0.
    """

    def report(done: int, total: int, note: str) -> None:
        if seen is not None:
            seen.append(done)
        if done == step:
            raise Interrupt

    return report


def resumed(run: Callable[[Report], T], *steps: int) -> tuple[T, list[int]]:
    """Interrupt a run at each of these steps, and then let it end.

    Returns:
        What the last run returned, and each step that any of them reported.
    """
    seen: list[int] = []
    for step in steps:
        interrupted(partial(run, stop_at(step, seen)))
    return run(stop_at(0, seen)), seen


def contents(folder: Path) -> dict[str, bytes]:
    """Return what is in each file but the journal, which tells of attempts and times."""
    files = (path for path in folder.iterdir() if path.name != FINISHED_JOURNAL)
    return {path.name: path.read_bytes() for path in files}


def stamps(folder: Path) -> dict[str, tuple[int, int]]:
    files = sorted(folder.glob("*.safetensors"))
    return {path.name: (path.stat().st_ino, path.stat().st_mtime_ns) for path in files}
