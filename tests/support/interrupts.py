"""Interrupt a step in the middle and inspect what it left."""

import gc
from collections.abc import Callable
from pathlib import Path

import pytest


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


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def stamps(folder: Path) -> dict[str, tuple[int, int]]:
    files = sorted(folder.glob("*.safetensors"))
    return {path.name: (path.stat().st_ino, path.stat().st_mtime_ns) for path in files}
