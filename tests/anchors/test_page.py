"""The page that compares with llm-compressor, from made-up numbers, and its environment's pins."""

import re

import pytest

from anchors_page import Compared, Spent, in_sweep, page
from freelunch.study.cell import Cell
from freelunch.study.study import Study
from repository import ROOT

INSTALLED = ("llmcompressor", "torch", "transformers")


@pytest.fixture
def study(monkeypatch: pytest.MonkeyPatch) -> Study:
    monkeypatch.chdir(ROOT)
    return Study.load(ROOT / "studies" / "anchors.yaml")


def compared(pruning: str, differ: int, theirs: float) -> Compared:
    cell = Cell.parse(f"smollm2-135m/{pruning}/none/seed0")
    return Compared(
        cell, 1_000_000, differ, (30.5, 30.25), (Spent(theirs, 2 * theirs), Spent(20, 30))
    )


def test_the_page_says_what_was_found(study: Study) -> None:
    cells = [
        compared("wanda-u50", 0, 40.0),
        compared("sparsegpt-2of4", 1234, 80.0),
        compared("sparsegpt_sparse-4of8", 56, 100.0),
    ]
    sweeps = [Spent(70, 90), Spent(60, 100), Spent(50, 110)]
    versions = dict(zip(INSTALLED, ("1.2.3", "2.13.0", "5.17.0"), strict=True))
    text = page(study, cells, sweeps, (48, 256), 1, versions)
    lines = text.splitlines()
    assert (
        "| wanda | `u50` | dense | 100.000 % | 0 | 30.500 | 30.250 | 40.0 | 20.0 | 80.0 | 30.0 |"
        in lines
    )
    assert any("| sparsegpt | `2of4` | dense | 99.877 % | 1,234 |" in line for line in lines)
    assert any("| sparsegpt | `4of8` | sparse | 99.994 % | 56 |" in line for line in lines)
    told = " ".join(lines)
    # The least share in common and the largest difference, by statistics; the median of the sweeps.
    for figure in ("99.87 %", "0.82 %", "99.99 %", "60 s and 100 processor", "2.0 and 2.4 times"):
        assert figure in told
    assert "32 sequences of 256 tokens" in told and "48 windows of 256 tokens" in told
    assert max(len(line) for line in lines if not line.startswith(("|", "- "))) <= 119


def test_the_sweep_is_what_one_dense_pass_serves(study: Study) -> None:
    cells = in_sweep(study)
    assert len(cells) == 16 and {cell.criterion for cell in cells} == {
        *("magnitude", "wanda", "ria", "sparsegpt")
    }


def test_the_environment_is_pinned_except_for_the_build_of_torch() -> None:
    lines = (ROOT / "envs" / "anchors.txt").read_text().splitlines()
    pins = [line for line in lines if not line.startswith("#")]
    assert [pin for pin in pins if not re.fullmatch(r"[\w.-]+==[\w.]+", pin)] == [
        "torch>=2.10,<2.14"
    ]
    assert not any("cu1" in pin or pin.startswith("nvidia-c") for pin in pins)
    assert any(pin.startswith("llmcompressor==") for pin in pins)
