"""Planned memory of retraining is within a fifth of what processes of their own need."""

import sys
from pathlib import Path

import pytest

from freelunch.costs.shapes import Shapes
from retraining_memory import planned_and_measured, write_pruned

Model = tuple[Path, Shapes]

pytestmark = [
    pytest.mark.long,
    pytest.mark.skipif(sys.platform != "linux", reason="reads /proc"),
]


@pytest.fixture(scope="module", params=[("llama", "float32"), ("opt", "bfloat16")], ids="-".join)
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Model:
    folder = tmp_path_factory.mktemp("-".join(request.param))
    return folder, write_pruned(folder, *request.param)


# Methods that train matrices themselves, by factors that multiply them and by branches beside
# them, and one that trains none; `make bench` measures all methods and shapes.
@pytest.mark.parametrize(
    ("method", "streamed"),
    [("full", True), ("masklora", True), ("lora", False)],
)
def test_it_is_what_the_plan_says(model: Model, method: str, streamed: bool) -> None:
    planned, measured = planned_and_measured(*model, {"method": method}, streamed)
    assert 0.8 <= planned / measured <= 1.2, f"planned {planned:,}, measured {measured:,} bytes"
