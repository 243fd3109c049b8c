"""Batches and blocks on their way between files and the device, while the device computes.

A thread reads the next batch or block while the caller works on one, and another thread writes the
results of the one before (`freelunch.core.background_io`). For a GPU, both are read into pinned
memory and copied by streams of their own. This is the only module that knows of streams: all others
ask for what is on the device.

Torch's allocators keep memory that is in flight: pinned memory is used again once the copies from
or to it are done, and memory on the GPU once the streams that are recorded for it are. They also
reuse what was freed, so that no pool is kept here.
"""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any, Protocol, TypeVar

import torch
from torch import Tensor, nn

from freelunch.core.background_io import read_ahead, write_behind
from freelunch.model.tensor_file import HiddenStates, TensorFile

Item = TypeVar("Item")
Loaded = TypeVar("Loaded")
# What travels by a stream of its own: small batches do not wait for a large block.
_BLOCKS, _BATCHES, _RESULTS = "blocks", "batches", "results"


class Target(Protocol):
    """What results are written to."""

    def __setitem__(self, rows: slice, states: Tensor, /) -> None: ...


# Writes states, (rows, ...), to these rows of a target. They must not change afterwards.
Write = Callable[[Target, slice, Tensor], None]


def load_ahead(
    device: torch.device, items: Iterable[Item], load: Callable[[Item], Loaded]
) -> Iterator[tuple[Item, Loaded]]:
    """Yield each item with the block that `load` puts on the device, as `read_ahead` does."""
    return _arriving(device, items, load, _BLOCKS)


def read_tensor(file: TensorFile, name: str, device: torch.device) -> Tensor:
    """Return a tensor of a file, on a device, in memory of its own. A GPU copies it from pinned
    memory, so that a thread that brings a block reads one tensor while another travels.
    """
    shape, dtype = file.entries[name]
    host = torch.empty(shape, dtype=dtype, pin_memory=device.type != "cpu")
    return file.read(name, tensor=host).to(device, non_blocking=True)


def read_batches(
    device: torch.device, rows: Iterable[slice | Tensor], *files: HiddenStates | Tensor
) -> Iterator[list[Tensor]]:
    """Yield these rows of each file, (sequences, length, features), on the device; the next ones
    are read meanwhile. Rows are slices, or indices, (rows,), int64. The caller may write those that
    it has to the same file, but no later ones.
    """

    def read(which: slice | Tensor) -> list[Tensor]:
        return [_read(file, which, device).to(device, non_blocking=True) for file in files]

    for _, loaded in _arriving(device, rows, read, _BATCHES):
        yield loaded
        del loaded


@contextmanager
def writing_behind(device: torch.device) -> Iterator[Write]:
    """Give a function that writes results on the device to a target while the device goes on. As in
    `write_behind`, at most one result is being written, and all are when the block ends.
    """
    with write_behind() as call:

        def write(target: Target, rows: slice, states: Tensor) -> None:
            if device.type == "cpu":
                call(target.__setitem__, rows, states)
                return
            copying = _stream(device, _RESULTS)
            copying.wait_stream(torch.accelerator.current_stream(device))
            with copying:
                host = torch.empty(states.shape, dtype=states.dtype, pin_memory=True)
                host.copy_(states.detach(), non_blocking=True)
            states.record_stream(copying)
            call(_write_copied, target, rows, host, copying.record_event())

        yield write


def _arriving(
    device: torch.device, items: Iterable[Item], read: Callable[[Item], Loaded], what: str
) -> Iterator[tuple[Item, Loaded]]:
    if device.type == "cpu":
        yield from read_ahead(items, read)
        return
    computing, copying = torch.accelerator.current_stream(device), _stream(device, what)
    # Without a wait for the device, the caller would ask for one item after another while the
    # first is still computed, and all would be in memory.
    paced = ((item, computing.record_event()) for item in items)

    def bring(paced: tuple[Item, torch.Event]) -> tuple[Loaded, torch.Event]:
        item, finished = paced
        finished.synchronize()
        # For this thread, which does nothing else. A stream's own `with` holds for one thread only.
        torch.accelerator.set_stream(copying)
        return read(item), copying.record_event()

    for (item, _), (loaded, arrived) in read_ahead(paced, bring):
        computing.wait_event(arrived)
        for tensor in _tensors(loaded):
            tensor.record_stream(computing)
        yield item, loaded
        del loaded


def _read(file: HiddenStates | Tensor, rows: slice | Tensor, device: torch.device) -> Tensor:
    if isinstance(file, Tensor):
        return file[rows]
    return file.read(rows, pinned=device.type != "cpu")


def _write_copied(target: Target, rows: slice, host: Tensor, copied: torch.Event) -> None:
    copied.synchronize()
    target[rows] = host


@cache
def _stream(device: torch.device, what: str) -> torch.Stream:
    """Return a stream; one for all passes, because each stream has memory of its own."""
    return torch.Stream(device)


def _tensors(loaded: Any) -> Iterator[Tensor]:
    match loaded:
        case Tensor():
            yield loaded
        case nn.Module():
            yield from loaded.parameters()
            yield from loaded.buffers()
        case dict():
            yield from _tensors(tuple(loaded.values()))
        case list() | tuple():
            for each in loaded:
                yield from _tensors(each)
        case None:
            pass
        case _:
            raise TypeError(f"no tensors in {type(loaded).__name__}")
