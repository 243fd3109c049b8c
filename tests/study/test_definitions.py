"""What several places have to agree on, and what is defined once for all of them."""

from math import inf
from typing import get_args

import pytest

from configs import with_adaptations
from freelunch.costs.shapes import DTYPE_BYTES
from freelunch.study.cell import Cell, pruned_model
from freelunch.study.config import KINDS
from freelunch.study.methods import METHODS
from freelunch.study.sources import Dtype
from freelunch.study.study import Study
from freelunch.study.windows import ALL, AUTO, HALVES, MATRIX, WINDOWS, window_size
from repository import ROOT

LIBRARY = ROOT / "workflow" / "scripts" / "freelunch"


def test_every_method_has_a_class_of_settings() -> None:
    assert tuple(KINDS["adaptations"])[2:] == METHODS
    for method in METHODS:
        entry = {"method": "reconstruction", "trains": method}
        Study.check(with_adaptations(own=entry, retrained={"method": method}), "config.yaml")


def test_every_dtype_has_a_size() -> None:
    assert tuple(DTYPE_BYTES) == get_args(Dtype)


def test_windows_from_small_to_large() -> None:
    sizes = [window_size(window) for window in (MATRIX, HALVES, 1, 2, 80, ALL)]
    assert sizes == sorted(sizes) and len(set(sizes)) == len(sizes)
    assert window_size(AUTO) == inf
    assert window_size("12") == 12
    assert set(WINDOWS) == {MATRIX, HALVES, ALL, AUTO}


def test_a_pruned_model_has_one_name() -> None:
    cell = Cell("tiny", "wanda", "u50", "none", 3)
    row = {"model": "tiny", "criterion": "wanda", "pattern": "u50", "perplexity": 3.0}
    assert pruned_model(cell) == pruned_model(row) == "tiny, wanda, u50"


@pytest.mark.parametrize(
    ("text", "files"),
    [
        ('"attention_mlp"', ["study/windows.py"]),
        ('"scalelora"', ["study/methods.py", "study/retraining.py"]),
        ("[a-z0-9]+(?:_[a-z0-9]+)*", ["study/cell.py"]),
        ("gradients vanish", ["study/sources.py"]),
        ("['criterion']}, {row['pattern']}", []),
    ],
)
def test_what_is_written_once(text: str, files: list[str]) -> None:
    """The class of a method has its name as a literal: it cannot be a variable in a type."""
    found = {path for path in LIBRARY.rglob("*.py") if text in path.read_text()}
    assert sorted(str(path.relative_to(LIBRARY)) for path in found) == files
