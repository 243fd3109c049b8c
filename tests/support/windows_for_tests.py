"""Windows and modes that tests of reconstruction go through."""

from typing import Any

from freelunch.core.artifact import Artifact
from freelunch.study.windows import adapted_windows

# (inputs, targets), as study.md section 2 names them.
MODES = {"a": ("dense", "dense"), "b": ("sparse", "local"), "c": ("sparse", "dense")}
SMALL: dict[str, dict[str, Any]] = {
    "matrix": {"window": "matrix", "train_norms": False},
    "exact": {"method": "least_squares"},
    "halves": {"window": "attention_mlp"},
}
# Families whose attention and MLP run side by side, unless a setting says otherwise.
PARALLEL = ("gpt_neox", "falcon")
WINDOWS = {**SMALL, "block": {"window": 1}, "two": {"window": 2}, "all": {"window": "all"}}


def facts_of(adapted: Artifact) -> dict[str, dict[str, Any]]:
    """Return what came of each window, by name."""
    return adapted_windows([adapted])
