"""What a record takes from its steps: counts that have to agree, and costs."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from freelunch.core.errors import UserError
from freelunch.records import collect


def made(zeros: int, pruned: int) -> Any:
    """Return what a cell's steps left of a model with one matrix, 2 x 4, pruned by u50."""
    matrix = {"rows": 2, "columns": 4, "zeros": zeros}
    identity = {"matrices": {"a": matrix}, "parameters": 8, "stored_bytes": 32}
    facts = {"settings": {"pattern": "u50", "criterion": {"scope": "row"}}}
    return SimpleNamespace(
        measured={"identity": {**identity, "checkpoint_digest": "0"}},
        masks=SimpleNamespace(facts=facts, files={"block": {"pruned": {"a": pruned}}}),
        windows=[],
        checkpoint=SimpleNamespace(folder=Path("checkpoint")),
    )


@pytest.mark.parametrize(
    ("zeros", "pruned", "what"), [(3, 4, "mask"), (5, 4, "mask"), (3, 3, "pattern")]
)
def test_a_matrix_with_a_wrong_number_of_zeros_is_refused(
    zeros: int, pruned: int, what: str
) -> None:
    assert collect._identity(made(4, 4))["sparsity"] == 0.5
    with pytest.raises(UserError, match=f"wrong number of zeros in a matrix for its {what}"):
        collect._identity(made(zeros, pruned))


def test_jobs_of_a_step_add_up_but_their_peaks_and_the_tokens_that_they_share_do_not(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    jobs = [
        {"wall_s": 1.0, "peak_bytes": 5, "tokens": 8},
        {"wall_s": 2.0, "peak_bytes": 3, "tokens": 8},
    ]
    monkeypatch.setattr(collect, "_runs", lambda made: {"reconstruct_window": jobs, "search": jobs})
    monkeypatch.setattr(collect, "_cost_of", lambda made, run: run)
    cell: Any = SimpleNamespace()
    windows, search = collect._cost(cell).values()
    assert windows == {"jobs": 2, "wall_s": 3.0, "peak_bytes": 5, "tokens": 8}
    assert search == {**windows, "tokens": 16}
