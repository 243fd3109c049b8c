"""Windows and modes that tests of reconstruction go through."""

from pathlib import Path
from typing import Any

import pytest

from freelunch.core.artifact import Artifact
from freelunch.costs.counted import operations
from freelunch.costs.reconstruction import reconstruct as plan_of_windows
from freelunch.costs.shapes import Shapes
from freelunch.model import hidden_states
from freelunch.model.hidden_states import DenseStates
from freelunch.model.mask_store import count_pruned
from freelunch.study.retraining import read_adaptation
from freelunch.study.steps import RECONSTRUCT_WINDOW
from freelunch.study.windows import adapted_windows, kept_boundaries
from tiny_models import BLOCKS, LENGTH, SEQUENCES, Prepared, reconstruct

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


def assert_dense_passes_are_counted(
    prepared: Prepared, folder: Path, monkeypatch: pytest.MonkeyPatch, keep: str, **given: Any
) -> None:
    """Adapt windows with only some of the dense hidden states on disk. The plan must count the
    blocks that are passed to make the others, and a record the dense pass if any are needed.
    """
    kept, passed = kept_boundaries(keep, BLOCKS), []

    class Counted(DenseStates):
        def __init__(self, *arguments: Any) -> None:
            super().__init__(*arguments)
            self._paths = {at: path for at, path in self._paths.items() if at in kept}

        def __del__(self) -> None:
            passed.append(self.passed)

    monkeypatch.setattr(hidden_states, "DenseStates", Counted)
    reconstruct(prepared, folder / "adapted", **given)
    settings = read_adaptation({"method": "reconstruction", **given})
    shapes = Shapes.of(prepared.model.config.to_dict(), "float32")
    one = shapes.forward_flops(SEQUENCES * LENGTH, LENGTH, 1)
    flops = [
        plan_of_windows(shapes, SEQUENCES, LENGTH, settings, keep=each).flops
        for each in ("all", keep)
    ]
    assert passed == [(flops[1] - flops[0]) / one]
    counts = {
        "adaptation": settings.as_json(),
        "window": settings.window,
        "sequences": SEQUENCES,
        "length": LENGTH,
        "blocks": BLOCKS,
        "pruned_weights": count_pruned(prepared.masks),
    }
    if keep == "none":
        counted = operations(RECONSTRUCT_WINDOW, shapes, counts)
        assert ("dense_flops" in counted) == (passed != [0])
