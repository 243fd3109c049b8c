"""What fits into memory: what `auto` decides, and what does not fit."""

import math
from collections.abc import Iterator
from typing import NamedTuple

from freelunch.core.devices import memory_bytes as memory_of_machine
from freelunch.core.errors import UserError
from freelunch.costs import reconstruction, retraining
from freelunch.costs.machine import Machine
from freelunch.costs.shapes import Shapes
from freelunch.costs.work import PROCESS_BYTES, Cost
from freelunch.study.adaptations import Reconstruction, Windowed, with_window
from freelunch.study.families import has_halves
from freelunch.study.retraining import Retraining
from freelunch.study.windows import ALL, AUTO, HALVES, MATRIX, Window

STREAMED = "streamed"


class _Room(NamedTuple):
    """Memory into which a job has to fit.

    Attributes:
        size: How much, in bytes.
        beside: What a job holds beside it: with a device, the process on the host.
        name: What has it, as a possessive; empty for a budget that the settings give.
    """

    size: float
    beside: int
    name: str

    def holds(self, memory: int) -> bool:
        """Return whether a job of this peak memory fits."""
        return memory - self.beside <= self.size

    def needs(self, memory: int) -> float:
        """Return what a job of this peak memory needs of it, in GB, rounded up."""
        return math.ceil((memory - self.beside) / 1e6) / 1000


def _room(memory_gb: float | None, device_bytes: int | None) -> _Room | None:
    """Return the smaller of a budget in the settings and the memory of a device; None without."""
    rooms = []
    if memory_gb is not None:
        rooms.append(_Room(memory_gb * 1e9, 0, ""))
    if device_bytes is not None:
        rooms.append(_Room(device_bytes, PROCESS_BYTES, "the device's "))
    return min(rooms, key=lambda room: room.size + room.beside, default=None)


def decide_window(
    shapes: Shapes,
    samples: int,
    length: int,
    settings: Windowed | Retraining,
    device_bytes: int | None = None,
) -> tuple[Window, str | None]:
    """Return the window of an adaptation, and the reason if the settings say `auto`.

    Args:
        shapes: Sizes of the model.
        samples: Number of sequences.
        length: Tokens in a sequence.
        settings: Settings of the adaptation.
        device_bytes: Memory of the device that computes, if there is one. A window has to fit into
            it as well as into the settings' own budget; if none does, the smallest is returned.

    Raises:
        UserError: Even the smallest window does not fit into the settings' own budget.
    """
    if settings.window != AUTO:
        return settings.window, None
    assert isinstance(settings, Reconstruction) and settings.memory_gb is not None  # Checked.
    room = _room(settings.memory_gb, device_bytes)
    assert room is not None
    refused: tuple[Window, int] | None = None
    for window, memory in _largest_first(shapes, samples, length, settings):
        if room.holds(memory):
            why = f"window {window} needs {room.needs(memory):.3f} of {room.name}"
            why += f"{room.size / 1e9:g} GB"
            if refused:
                why += f"; window {refused[0]} would need {room.needs(refused[1]):.3f} GB"
            return window, why
        refused = window, memory
    assert refused is not None
    if room.name:
        return refused[0], None
    todo = "raise memory_gb, or shorten study.calibration.length or `batch`"
    if settings.train_norms:
        whole = with_window(settings, MATRIX)
        matrix = reconstruction.memory_bytes(shapes, samples, length, whole)
        todo += f"; with `train_norms: false` a window `matrix` needs {_advised(matrix)} GB"
    raise UserError(
        "no window fits into the memory budget",
        where="memory_gb",
        found=f"{settings.memory_gb:g} GB",
        expected=f"at least {_advised(refused[1])} GB, which a window `{refused[0]}` needs",
        todo=todo,
    )


def _largest_first(
    shapes: Shapes, samples: int, length: int, settings: Reconstruction
) -> Iterator[tuple[Window, int]]:
    """Yield windows and the memory that each takes, the largest first."""
    windows: list[Window] = [ALL, *range(shapes.blocks - 1, 0, -1)]
    if has_halves(shapes.model_type, shapes.whole):
        windows.append(HALVES)
    if not settings.train_norms:
        windows.append(MATRIX)
    for window in windows:
        decided = with_window(settings, window)
        yield window, reconstruction.memory_bytes(shapes, samples, length, decided)


def decide_residency(
    shapes: Shapes,
    samples: int,
    length: int,
    settings: Retraining,
    device_bytes: int | None = None,
) -> tuple[bool, str | None]:
    """Return whether a retraining is streamed, and the reason if its settings say `auto`.

    Args:
        shapes: Sizes of the model.
        samples: Number of sequences.
        length: Tokens in a sequence.
        settings: Settings of the retraining.
        device_bytes: Memory of the device that computes, if there is one.

    Raises:
        UserError: The settings give a memory budget, and the retraining fits into it neither way.
    """
    if settings.residency != AUTO:
        return settings.residency == STREAMED, None
    given = settings.memory_gb
    room = _room(given, device_bytes) or _Room(memory_of_machine(), 0, "this machine's ")
    has = f"{room.name}{room.size / 1e9:,.1f} GB"
    memory = retraining.memory_bytes(shapes, samples, length, settings)
    if room.holds(memory):
        return False, f"the model fits: needs {room.needs(memory):,.1f} of {has}"
    streamed = retraining.memory_bytes(shapes, samples, length, settings, streamed=True)
    if not room.holds(streamed) and not room.name:
        raise UserError(
            "this retraining does not fit into its memory budget, not even block by block",
            where="memory_gb",
            found=f"{given:g} GB",
            expected=f"at least {_advised(streamed)} GB",
            todo="raise memory_gb, or set a smaller `micro_batch` or study.calibration.length",
        )
    why = f"the model does not fit: needs {room.needs(memory):,.1f} GB, "
    return True, f"{why}streamed {room.needs(streamed):,.1f} of {has}"


def misfit(cost: Cost, machine: Machine) -> str | None:
    """Return in words that a job does not fit into a machine; None if it fits, or if the machine's
    memory is not known.
    """
    memory = cost.memory(machine.device_bytes is not None)
    if machine.device_bytes is not None and memory.device > machine.device_bytes:
        return _misfit(memory.device, "the device", machine.device_bytes)
    if machine.memory_bytes is not None and memory.host > machine.memory_bytes:
        return _misfit(memory.host, "this machine", machine.memory_bytes)
    return None


def way_out(
    shapes: Shapes,
    samples: int,
    length: int,
    settings: Windowed | Retraining,
    streamed: bool,
    machine: Machine,
) -> str:
    """Return in words what fits instead of an adaptation that does not fit into a machine.

    Args:
        shapes: Sizes of the model.
        samples: Number of sequences.
        length: Tokens in a sequence.
        settings: Settings of the adaptation, with its window decided.
        streamed: Whether a retraining is streamed.
        machine: The machine.
    """
    device = machine.device_bytes is not None

    def needs(cost: Cost) -> str:
        memory = cost.memory(device)
        return amount(memory.device if device else memory.host)

    if isinstance(settings, Retraining):
        if streamed:
            least = settings.model_copy(update={"micro_batch": 1})
            change = "`micro_batch: 1`"
            while misfit(
                cost := retraining.retrain(shapes, samples, length, least, streamed=True), machine
            ):
                if (length := length // 2) == 0:
                    return "no length of sequences fits"
                also = "" if settings.micro_batch == 1 else "`micro_batch: 1` with "
                change = f"{also}`study.calibration.length: {length}`"
            return f"{change} needs {needs(cost)}"
        cost = retraining.retrain(shapes, samples, length, settings, streamed=True)
        return f"`residency: {STREAMED}` needs {needs(cost)}"
    if isinstance(settings, Reconstruction):
        for window, memory in _largest_first(shapes, samples, length, settings):
            cost = Cost(memory_bytes=memory)
            if misfit(cost, machine) is None:
                return f"`window: {window}` needs {needs(cost)}"
    return "no window fits"


def _misfit(needs: int, name: str, size: int) -> str:
    return f"does not fit: needs {amount(needs)}, {name} has {amount(size)}"


def amount(size: float) -> str:
    """Return bytes in GB, or in MB below a tenth of a GB; with a fraction below 100."""
    number, unit = (size / 1e9, "GB") if size >= 0.1e9 else (size / 1e6, "MB")
    text = f"{number:,.0f}" if number >= 100 else f"{number:,.1f}".removesuffix(".0")
    return f"{text} {unit}"


def _advised(needs: int) -> str:
    """Return bytes in GB, rounded up so that the advised amount is enough."""
    return f"{math.ceil(needs / 1e6) / 1000:.3f}"
