"""Masked least squares against torch's own solver, row by row, and against training."""

from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from freelunch.adaptation.reconstruction.least_squares import solve_rows
from freelunch.core.artifact import Artifact
from freelunch.model.checkpoint import block_shard
from freelunch.study.windows import MATRIX, split_windows
from tiny_models import BLOCKS, CROSSED, prepare, reconstruct

SEQUENCES = 8


def problem(
    tokens: int, features: int, outputs: int, seed: int = 0
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return inputs, targets, a mask and where to start; some rows keep few, one nothing."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(tokens, features, generator=generator, dtype=torch.float64)
    y = torch.randn(tokens, outputs, generator=generator, dtype=torch.float64)
    share = torch.rand(outputs, 1, generator=generator)
    keep = torch.rand(outputs, features, generator=generator) < share
    keep[0] = False
    start = torch.randn(outputs, features, generator=generator, dtype=torch.float64) * keep
    return x, y, keep, start


@settings(deadline=None, max_examples=30)
@given(st.integers(1, 12), st.integers(1, 6), st.integers(0, 99))
def test_each_row_is_the_solution_of_its_own_problem(
    features: int, outputs: int, seed: int
) -> None:
    x, y, keep, start = problem(40, features, outputs, seed)
    found = solve_rows(x.T @ x, y.T @ x, keep, start, damping=0.0)
    for row in range(outputs):
        kept = keep[row]
        expected = torch.zeros(features, dtype=torch.float64)
        if kept.any():
            expected[kept] = torch.linalg.lstsq(x[:, kept], y[:, row : row + 1]).solution[:, 0]
        torch.testing.assert_close(found[row], expected, rtol=1e-8, atol=1e-9)


def test_what_no_token_excites_stays_as_it_was() -> None:
    """A dead feature, and fewer tokens than kept weights: of all solutions the nearest."""
    x, y, keep, start = problem(3, 10, 4)
    x[:, 2] = 0.0
    keep[1:] = True
    start = torch.where(keep, torch.randn(4, 10, dtype=torch.float64), 0.0)
    found = solve_rows(x.T @ x, y.T @ x, keep, start, damping=1e-9)
    torch.testing.assert_close(found[1:, 2], start[1:, 2], rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(x @ found[1:].T, y[:, 1:], rtol=1e-5, atol=1e-5)
    nearest = (
        start[1:] + torch.linalg.lstsq(x, y[:, 1:] - x @ start[1:].T, driver="gelsd").solution.T
    )
    torch.testing.assert_close(found[1:], nearest, rtol=1e-5, atol=1e-5)
    dead = torch.zeros(10, 10, dtype=torch.float64)
    assert torch.equal(solve_rows(dead, torch.zeros_like(start), keep, start, 1e-8), start)


def losses(adapted: Artifact, blocks: int = BLOCKS) -> dict[str, float]:
    windows = (adapted.files[block_shard(index)]["windows"] for index in range(blocks))
    return {name: facts["loss_after"] for each in windows for name, facts in each.items()}


@pytest.mark.parametrize(
    ("family", "inputs", "targets"),
    [*((family, "dense", "dense") for family in CROSSED), ("llama", "sparse", "local")],
)
def test_no_training_beats_it(tmp_path: Path, family: str, inputs: str, targets: str) -> None:
    """On its own objective: with all sequences checked; and for the first matrix alone where the
    inputs of the others depend on how earlier windows came out. One model has several blocks.
    """
    blocks = BLOCKS if (family, inputs) == ("llama", "dense") else 1
    prepared = prepare(tmp_path, family, sequences=SEQUENCES, num_hidden_layers=blocks)
    mode = {"inputs": inputs, "targets": targets, "windows": split_windows(blocks, MATRIX)}
    exact = losses(
        reconstruct(prepared, tmp_path / "exact", method="least_squares", **mode), blocks
    )
    best: dict[str, float] = {}
    for rate in (0.01, 0.03):
        trained = reconstruct(
            prepared,
            tmp_path / f"trained-{rate}",
            window="matrix",
            train_norms=False,
            learning_rate=rate,
            epochs=40,
            **mode,
        )
        for name, loss in losses(trained, blocks).items():
            best[name] = min(loss, best.get(name, loss))
    first = next(iter(exact))
    compared = best if inputs == "dense" else {first: best[first]}
    for name, loss in compared.items():
        assert exact[name] <= loss * (1 + 1e-5) + 1e-12, name
    assert any(loss < 3 * exact[name] for name, loss in compared.items()), "training came nowhere"


def test_biases_are_solved_for_or_left(tmp_path: Path) -> None:
    prepared = prepare(tmp_path, "opt", sequences=SEQUENCES)
    found = {
        train: losses(
            reconstruct(prepared, tmp_path / f"{train}", method="least_squares", train_biases=train)
        )
        for train in (True, False)
    }
    assert all(found[True][name] <= found[False][name] * (1 + 1e-6) for name in found[True])
    assert any(found[True][name] < 0.99 * found[False][name] for name in found[True])
