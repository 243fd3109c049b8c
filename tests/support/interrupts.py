"""Stop a step in the middle, and see what it left."""

import gc
from collections.abc import Callable
from pathlib import Path

import pytest


class Interrupt(Exception):
    """What a test stops a run with."""


def interrupted(call: Callable[[], object]) -> None:
    """Run until the interrupt, and let go of the lock that the process would have died with."""
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
