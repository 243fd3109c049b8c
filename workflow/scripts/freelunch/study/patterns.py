"""Patterns: how many weights are pruned, and within which sets they are chosen."""

import math
import re
from dataclasses import dataclass

# Sets within which scores of weights are compared.
SCOPES = ("row", "matrix")
_PERCENT = re.compile(r"(?P<kind>[us])(?P<percent>[0-9]{2})")
_OF = re.compile(r"(?P<zeros>[0-9]{1,3})of(?P<group>[0-9]{1,3})")
_FORMS = (
    "u01 ... u99 (percent, unstructured), NofM (N zeros in each M consecutive inputs, such as "
    "2of4), s01 ... s99 (percent of heads and channels)"
)


@dataclass(frozen=True)
class Pattern:
    """The share of weights that become zero, and how the zeros are arranged.

    Attributes:
        name: Its name in a cell. `u50` is 50 %, without structure; `2of4` is 2 zeros in each 4
            consecutive inputs of a row; `s20` is 20 % of the attention heads and MLP channels.
        sparsity: Share of zeros, in (0, 1).
        group: M of an NofM pattern; None for the others.
        structured: Whether whole units are pruned.
    """

    name: str
    sparsity: float
    group: int | None = None
    structured: bool = False

    @classmethod
    def parse(cls, name: str) -> "Pattern":
        """Return the pattern of this name; raises ValueError if there is none."""
        if match := _PERCENT.fullmatch(name):
            if match["percent"] == "00":
                raise ValueError(
                    f"{name} prunes nothing: the dense cell is always part of the study"
                )
            return cls(name, int(match["percent"]) / 100, structured=match["kind"] == "s")
        if match := _OF.fullmatch(name):
            zeros, group = int(match["zeros"]), int(match["group"])
            if name != f"{zeros}of{group}" or not 0 < zeros < group:
                raise ValueError(f"{name!r}: expected NofM with 0 < N < M, such as 2of4")
            return cls(name, zeros / group, group)
        raise ValueError(f"not a pattern: {name!r}; expected {_FORMS}")

    def zeros_in_group(self, size: int) -> int:
        """Return how many of `size` weights (or units) compared with each other become zero."""
        # 0.29 * 100 is 28.999999999999996: round before flooring.
        return math.floor(round(self.sparsity * size, 6))

    def zeros(self, rows: int, columns: int, scope: str) -> int:
        """Return how many weights of a matrix (outputs, inputs) become zero if they are compared
        within a "row" or the "matrix"; ValueError if whole units are pruned.
        """
        if self.structured:
            raise ValueError(f"{self.name} counts units, not weights of a matrix")
        if scope == "row":
            return rows * self.zeros_in_group(columns)
        return self.zeros_in_group(rows * columns)

    def divides(self, columns: int) -> bool:
        """Return whether a matrix with this many inputs can have the pattern."""
        return self.group is None or columns % self.group == 0

    def nothing_of(self, size: int, what: str, *alternatives: str) -> str | None:
        """Return what is wrong, and what to do, if the share of a set is less than one member:
        nothing would be pruned although the cell's name says so. None if a member is pruned. The
        message names the members and other settings that would help.
        """
        if self.zeros_in_group(size):
            return None
        least = [f"at least {self.name[0]}{math.ceil(100 / size):02d}"] if size > 1 else []
        expected = ", or ".join([*least, *alternatives]) or "more than one"
        return f"{self.name} of {size} {what} rounds down to none; expected {expected}"
