"""What `auto` decides in a study: the window of a reconstruction, the residency of a retraining."""

import math
from collections.abc import Iterator
from typing import NamedTuple

from freelunch.core.devices import memory_bytes as memory_of_machine
from freelunch.core.errors import UserError
from freelunch.costs import reconstruction, retraining
from freelunch.costs.shapes import Shapes
from freelunch.costs.work import PROCESS_BYTES
from freelunch.study.adaptations import Reconstruction, Windowed, with_window
from freelunch.study.families import has_halves
from freelunch.study.retraining import Retraining
from freelunch.study.windows import ALL, AUTO, HALVES, MATRIX, Window

STREAMED = "streamed"


class _Limit(NamedTuple):
    """Memory into which a job has to fit.

    Attributes:
        size: How much, in bytes.
        beside: What a job holds beside it: with a device, the process on the host.
        owner: What has it, as a possessive; empty for a budget that the settings give.
    """

    size: float
    beside: int = 0
    owner: str = ""

    def holds(self, memory: int) -> bool:
        """Return whether a job of this peak memory fits."""
        return memory - self.beside <= self.size

    def needs(self, memory: int) -> float:
        """Return what a job of this peak memory needs of it, in GB, rounded up."""
        return math.ceil((memory - self.beside) / 1e6) / 1000


def _limit(memory_gb: float | None, device_bytes: int | None) -> _Limit | None:
    """Return the smaller of a budget in the settings and the memory of a device; None without."""
    limits = []
    if memory_gb is not None:
        limits.append(_Limit(memory_gb * 1e9))
    if device_bytes is not None:
        limits.append(_Limit(device_bytes, PROCESS_BYTES, "the device's "))
    return min(limits, key=lambda limit: limit.size + limit.beside, default=None)


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
    limit = _limit(settings.memory_gb, device_bytes)
    assert limit is not None
    larger = ""
    for window, memory in windows_by_size(shapes, samples, length, settings):
        needs = f"{limit.needs(memory):.3f}"
        if limit.holds(memory):
            of = f"of {limit.owner}{limit.size / 1e9:g} GB"
            return window, f"window {window} needs {needs} {of}{larger}"
        larger = f"; window {window} would need {needs} GB"
    if limit.owner:
        return window, None
    todo = "raise memory_gb, or shorten study.calibration.length or `batch`"
    if settings.train_norms:
        matrix = with_window(settings, MATRIX)
        least = reconstruction.memory_bytes(shapes, samples, length, matrix)
        todo += f"; with `train_norms: false` a window `matrix` needs {limit.needs(least):.3f} GB"
    raise UserError(
        "no window fits into the memory budget",
        where="memory_gb",
        found=f"{settings.memory_gb:g} GB",
        expected=f"at least {needs} GB, which a window `{window}` needs",
        todo=todo,
    )


def windows_by_size(
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
        shapes, samples, length, settings, device_bytes: As `decide_window` takes them.

    Raises:
        UserError: The settings give a memory budget, and the retraining fits into it neither way.
    """
    if settings.residency != AUTO:
        return settings.residency == STREAMED, None
    limit = _limit(settings.memory_gb, device_bytes)
    limit = limit or _Limit(memory_of_machine(), owner="this machine's ")
    size = f"{limit.owner}{limit.size / 1e9:,.1f} GB"
    memory = retraining.memory_bytes(shapes, samples, length, settings)
    needs = f"needs {limit.needs(memory):,.1f}"
    if limit.holds(memory):
        return False, f"the model fits: {needs} of {size}"
    streamed = retraining.memory_bytes(shapes, samples, length, settings, streamed=True)
    if not limit.holds(streamed) and not limit.owner:
        raise UserError(
            "this retraining does not fit into its memory budget, not even block by block",
            where="memory_gb",
            found=f"{settings.memory_gb:g} GB",
            expected=f"at least {limit.needs(streamed):.3f} GB",
            todo="raise memory_gb, or set a smaller `micro_batch` or study.calibration.length",
        )
    why = f"streamed {limit.needs(streamed):,.1f} of {size}"
    return True, f"the model does not fit: {needs} GB, {why}"
