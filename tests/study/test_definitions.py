"""What several places have to agree on, and what is defined once for all of them."""

from math import inf
from typing import get_args

from configs import with_adaptations
from freelunch.costs.shapes import DTYPE_BYTES
from freelunch.study.config import KINDS
from freelunch.study.methods import METHODS
from freelunch.study.sources import Dtype
from freelunch.study.study import Study
from freelunch.study.windows import ALL, AUTO, HALVES, MATRIX, WINDOWS, window_size


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
