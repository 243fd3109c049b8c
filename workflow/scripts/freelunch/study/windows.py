"""Windows: the parts of a model that are adapted together.

`matrix` is each linear layer, `attention_mlp` is each half of a block, a number is that many
consecutive blocks, and `all` is every block. Masks are chosen beforehand and are the same for all
windows.
"""

import math
from collections.abc import Sequence
from typing import Any

from freelunch.core.artifact import Artifact
from freelunch.core.errors import UserError
from freelunch.study.settings import one_of

MATRIX, HALVES, ALL, AUTO = "matrix", "attention_mlp", "all", "auto"
# The only window of a retraining: the whole model.
MODEL = "model"
# Names that a reconstruction's setting `window` may have besides a number of blocks.
WINDOWS = (MATRIX, HALVES, ALL, AUTO)
WindowName = one_of(WINDOWS)
# The method that solves for one matrix at a time.
LEAST_SQUARES = "least_squares"

Window = int | str
# Which hidden states of the dense pass stay on disk: `keep_hidden_states` of a study.
KEEP_ALL, KEEP_NONE, KEEP_EVERY = "all", "none", "every_"


def blocks_in(window: Window, num_blocks: int) -> int:
    """Return how many blocks a window spans, which is 1 for a window within a block; UserError if
    it is larger than the model, ValueError if it is `auto`, which a memory budget decides first.
    """
    if window == ALL:
        return num_blocks
    if window in (MATRIX, HALVES):
        return 1
    if not isinstance(window, int):
        raise ValueError(f"the window is not decided yet: {window!r}")
    if window > num_blocks:
        raise UserError(
            "the window is larger than the model",
            where="window",
            found=f"{window} blocks",
            expected=f"at most {num_blocks}, or all",
        )
    return window


def window_size(window: Window) -> float:
    """Return what sorts windows from small to large: blocks, or less than 0 within a block.

    A window that is not decided yet comes last, with that of all blocks. A number may be text, as
    in a table.
    """
    named = {MATRIX: -2.0, HALVES: -1.0, ALL: math.inf, AUTO: math.inf}
    return named[str(window)] if window in named else float(window)


def split_windows(num_blocks: int, window: Window) -> list[range]:
    """Return the blocks of each window; the last window may have fewer. Windows within a block are
    kept together, since a job adapts at least one block.
    """
    size = blocks_in(window, num_blocks)
    return [range(first, min(first + size, num_blocks)) for first in range(0, num_blocks, size)]


def group_windows(windows: Sequence[range], group: int, groups: int) -> list[range]:
    """Return the consecutive windows that job `group` (from 1) of `groups` adapts."""
    start, stop = ((part * len(windows)) // groups for part in (group - 1, group))
    return list(windows[start:stop])


def adapted_windows(parts: Sequence[Artifact]) -> dict[str, dict[str, Any]]:
    """Return the facts about each window that jobs adapted, by the window's name."""
    entries = (entry.get("windows", {}) for part in parts for entry in part.files.values())
    return {name: facts for windows in entries for name, facts in windows.items()}


def window_order(name: str) -> tuple[int, str]:
    """Return a key that sorts names of windows ("3-4", "3.mlp") by their first block."""
    digits = name[: len(name) - len(name.lstrip("0123456789"))]
    return int(digits or 0), name


def kept_boundaries(keep: str, num_blocks: int) -> frozenset[int]:
    """Return the kept block boundaries: 0 is before the first block, i + 1 after block i.
    `every_k` keeps every k-th boundary and also the last one, the target of the last window.
    """
    if keep == KEEP_NONE:
        return frozenset()
    step = 1 if keep == KEEP_ALL else int(keep.removeprefix(KEEP_EVERY))
    return frozenset({*range(0, num_blocks + 1, step), num_blocks})
