"""Windows: what of a model is adapted together.

`matrix` is each linear layer, `attention_mlp` the two halves of each block, a number so many
consecutive blocks, `all` the whole stack. Masks are chosen before and are the same for all.
"""

from collections.abc import Sequence
from typing import Any

from freelunch.core.artifact import Artifact
from freelunch.core.errors import UserError

MATRIX, HALVES, ALL, AUTO = "matrix", "attention_mlp", "all", "auto"
# The one window of a retraining: everything, on text.
MODEL = "model"
# What `method: least_squares` solves for is a matrix.
LEAST_SQUARES = "least_squares"

Window = int | str


def blocks_in(window: Window, num_blocks: int) -> int:
    """Return how many blocks a window holds or lies in.

    Raises:
        UserError: It is larger than the model.
        ValueError: It is `auto`, which a memory budget has to decide first.
    """
    if window == ALL:
        return num_blocks
    if window in (MATRIX, HALVES):
        return 1
    if not isinstance(window, int):
        raise ValueError(f"no window yet: {window!r}")
    if window > num_blocks:
        raise UserError(
            "the window is larger than the model",
            where="window",
            found=f"{window} blocks",
            expected=f"at most {num_blocks}, or all",
        )
    return window


def split_windows(num_blocks: int, window: Window) -> list[range]:
    """Return the blocks of each window; the last may be shorter.

    Windows smaller than a block share theirs: a block is the least that a job adapts.

    Raises:
        UserError: A window is larger than the model.
    """
    size = blocks_in(window, num_blocks)
    return [range(first, min(first + size, num_blocks)) for first in range(0, num_blocks, size)]


def group_windows(windows: Sequence[range], group: int, groups: int) -> list[range]:
    """Return the consecutive windows that job `group` (from 1) of `groups` adapts."""
    start, stop = ((part * len(windows)) // groups for part in (group - 1, group))
    return list(windows[start:stop])


def adapted_windows(parts: Sequence[Artifact]) -> dict[str, dict[str, Any]]:
    """Return what is noted of each window that jobs adapted, by its name."""
    entries = (entry.get("windows", {}) for part in parts for entry in part.files.values())
    return {name: facts for windows in entries for name, facts in windows.items()}


def window_order(name: str) -> tuple[int, str]:
    """Return what sorts names of windows ("3-4", "3.mlp") by their first block."""
    digits = name[: len(name) - len(name.lstrip("0123456789"))]
    return int(digits or 0), name
