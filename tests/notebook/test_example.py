"""The example of the guide runs, cell by cell, as in a notebook that starts in its folder."""

import json
from typing import Any

import pytest

from repository import ROOT

EXAMPLE = ROOT / "docs" / "guide" / "notebook.ipynb"


def test_every_cell_of_the_example_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(EXAMPLE.parent)
    cells = [cell for cell in json.loads(EXAMPLE.read_text())["cells"] if "outputs" in cell]
    names: dict[str, Any] = {}
    for cell in cells:
        assert not cell["outputs"], "clear all outputs: nothing keeps them up to date"
        exec(compile("".join(cell["source"]), cell["id"], "exec"), names)
    zeros = {name: names["sparsity"](model) for name, model in names["models"].items()}
    assert zeros.pop("dense") < 0.01 and set(zeros.values()) == {0.5}
    found = {name: each["perplexity"] for name, each in names["measured"].items()}
    assert found["retrained"] < found["pruned"] < 600, "a random model of 512 tokens"
