"""Names of pruned models, for people."""

from collections.abc import Mapping
from typing import Any

from freelunch.study.cell import Cell


def pruned_model(of: Cell | Mapping[str, Any]) -> str:
    """Return the name of the pruned model of a cell, or of a row of a table of cells."""
    keys = ("model", "criterion", "pattern")
    return ", ".join(getattr(of, key) if isinstance(of, Cell) else of[key] for key in keys)
