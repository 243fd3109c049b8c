"""A cell of the study: one model, pruned and adapted in one way, with one seed."""

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace

DENSE = "dense"
NONE = "none"

NAME = r"[a-z0-9]+(?:[._-][a-z0-9]+)*"
WORD = r"[a-z0-9]+(?:_[a-z0-9]+)*"
# The name of an adaptation or of one of its candidates (`freelunch.study.search`).
ADAPTATION = rf"{WORD}(?:\.lr[0-9.e+-]+\.epochs\d+)?"
_CELL = re.compile(
    rf"(?P<model>{NAME})/(?:{DENSE}|(?P<criterion>{WORD})-(?P<pattern>{WORD}))"
    rf"/(?P<adaptation>{ADAPTATION})/seed(?P<seed>\d+)"
)


@dataclass(frozen=True, order=True)
class Cell:
    """Identify one result of the study by names, which are keys of the config's registries."""

    model: str
    criterion: str
    pattern: str
    adaptation: str
    seed: int

    @classmethod
    def dense(cls, model: str) -> "Cell":
        """Return the cell of the unpruned model."""
        return cls(model, DENSE, NONE, NONE, 0)

    @classmethod
    def parse(cls, identity: str) -> "Cell":
        """Return the cell from its `str(cell)`; raises ValueError if the text is not a cell."""
        match = _CELL.fullmatch(identity)
        if match is None:
            raise ValueError(f"not a cell: {identity!r}")
        return cls(
            match["model"],
            match["criterion"] or DENSE,
            match["pattern"] or NONE,
            match["adaptation"],
            int(match["seed"]),
        )

    @property
    def is_pruned(self) -> bool:
        """Whether something was pruned. An adapted model in which nothing was is a control."""
        return self.criterion != DENSE

    @property
    def is_dense(self) -> bool:
        """Whether it is the dense model itself, neither pruned nor adapted."""
        return not self.is_pruned and self.adaptation == NONE

    @property
    def control(self) -> "Cell":
        """The dense model with the same adaptation and seed."""
        return replace(self, criterion=DENSE, pattern=NONE)

    @property
    def pruning(self) -> str:
        """Return `{criterion}-{pattern}`, or `dense`."""
        return f"{self.criterion}-{self.pattern}" if self.is_pruned else DENSE

    def __str__(self) -> str:
        return f"{self.model}/{self.pruning}/{self.adaptation}/seed{self.seed}"

    @property
    def record_name(self) -> str:
        """Return the name of the cell's record file."""
        return str(self).replace("/", "__") + ".json"


def derive_seed(seed: int, *purpose: object) -> int:
    """Return a 63-bit seed for one purpose, so that no two uses of a seed share a stream."""
    text = "/".join(str(part) for part in (seed, *purpose))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def pruned_model(of: Cell | Mapping[str, object]) -> str:
    """Return the name, for people, of the pruned model of a cell or of a row of a table."""
    keys = ("model", "criterion", "pattern")
    return ", ".join(str(getattr(of, key) if isinstance(of, Cell) else of[key]) for key in keys)
