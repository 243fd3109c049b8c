"""Patterns: how many weights go, and among which they are chosen."""

import math
import re
from dataclasses import dataclass

# Within what the scores of weights are compared, and those of whole units.
SCOPES = ("row", "matrix")
UNIT_SCOPES = ("block", "model")
_PERCENT = re.compile(r"(?P<kind>[us])(?P<percent>[0-9]{2})")
_OF = re.compile(r"(?P<zeros>[0-9]{1,3})of(?P<group>[0-9]{1,3})")
FORMS = (
    "u01 ... u99 (percent, unstructured), NofM (N zeros in each M consecutive inputs, such as "
    "2of4), s01 ... s99 (percent of heads and channels)"
)


@dataclass(frozen=True)
class Pattern:
    """Which share of the weights becomes zero, and how they lie.

    Attributes:
        name: As in a cell. `u50` is 50 %, without structure; `2of4` is 2 zeros in each 4
            consecutive inputs of a row; `s20` is 20 % of the attention heads and MLP channels.
        sparsity: Share of zeros, in (0, 1).
        group: M of an NofM pattern; None for the others.
        structured: Whether whole units go.
    """

    name: str
    sparsity: float
    group: int | None = None
    structured: bool = False

    @classmethod
    def parse(cls, name: str) -> "Pattern":
        """Return the pattern a name stands for; ValueError if it stands for none."""
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
        raise ValueError(f"not a pattern: {name!r}; expected {FORMS}")

    @property
    def in_words(self) -> str:
        """Return what becomes zero."""
        if self.group is not None:
            zeros = self.zeros_in_group(self.group)
            return f"{zeros} of each {self.group} consecutive weights of a row become zero"
        share = f"{100 * self.sparsity:.0f} %"
        if self.structured:
            return f"{share} of the attention heads and MLP channels become zero"
        return f"{share} of the weights become zero, wherever they lie"

    def zeros_in_group(self, size: int) -> int:
        """Return how many of `size` weights (or units) that are compared become zero."""
        # 0.29 * 100 is 28.999999999999996: round before flooring.
        return math.floor(round(self.sparsity * size, 6))

    def zeros(self, rows: int, columns: int, scope: str) -> int:
        """Return how many weights of a matrix become zero; not known beforehand for structured.

        Args:
            rows: Outputs.
            columns: Inputs.
            scope: Within what weights are compared: "row" or "matrix".
        """
        if self.structured:
            raise ValueError(f"{self.name} counts units, not weights of a matrix")
        if scope == "row":
            return rows * self.zeros_in_group(columns)
        return self.zeros_in_group(rows * columns)

    def nothing_of(self, size: int, what: str, *alternatives: str) -> str | None:
        """Return what is wrong, and what to do, if this share of a set is less than one of it.

        Nothing would go, and what is said to be pruned would not be.

        Args:
            size: Of the set.
            what: What it holds, for the message.
            alternatives: What would help as well.

        Returns:
            None if something goes.
        """
        if self.zeros_in_group(size):
            return None
        least = [f"at least {self.name[0]}{math.ceil(100 / size):02d}"] if size > 1 else []
        expected = ", or ".join([*least, *alternatives]) or "more than one"
        return f"{self.name} of {size} {what} is none; expected {expected}"

    def divides(self, columns: int) -> bool:
        """Tell whether a matrix of so many inputs can have this pattern."""
        return self.group is None or columns % self.group == 0
