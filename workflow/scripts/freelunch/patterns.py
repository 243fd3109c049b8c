"""Patterns: how many weights go, and among which they are chosen."""

import math
import re
from dataclasses import dataclass

SCOPES = ("row", "matrix")
_UNSTRUCTURED = re.compile(r"u(\d\d)")


@dataclass(frozen=True)
class Pattern:
    """Which share of each matrix becomes zero; today without structure.

    Attributes:
        name: As in a cell: `u50` is 50 %, unstructured.
        sparsity: Share of zeros, in (0, 1).
    """

    name: str
    sparsity: float

    @classmethod
    def parse(cls, name: str) -> "Pattern":
        """Return the pattern a name stands for; ValueError if it stands for none."""
        match = _UNSTRUCTURED.fullmatch(name)
        if match is None:
            raise ValueError(f"not a pattern: {name!r} (u01 ... u99: percent of each matrix)")
        if match[1] == "00":
            raise ValueError("u00 prunes nothing: the dense cell is always part of the study")
        return cls(name, int(match[1]) / 100)

    def zeros_in_group(self, size: int) -> int:
        """Return how many of `size` weights that are compared with each other become zero."""
        # 0.29 * 100 is 28.999999999999996: round before flooring.
        return math.floor(round(self.sparsity * size, 6))

    def zeros(self, rows: int, columns: int, scope: str) -> int:
        """Return how many weights of a matrix become zero.

        Args:
            rows: Outputs.
            columns: Inputs.
            scope: Within what weights are compared: "row" or "matrix".
        """
        if scope == "row":
            return rows * self.zeros_in_group(columns)
        return self.zeros_in_group(rows * columns)
