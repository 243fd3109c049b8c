"""The gap between criteria against the size of the model, from made-up records."""

import math
from pathlib import Path
from typing import Any

import pytest

from freelunch.analysis.criteria_gap import SIZE_COLUMNS, gap_rows, size_rows
from freelunch.reporting.drawing.files import draw_figure
from freelunch.reporting.drawing.style import styled
from freelunch.reporting.figures import sizes
from freelunch.reporting.table import csv_text
from records_for_tests import make_records, make_study

MODELS = {"tiny": 1000, "tiny-2": 4000}


def rows(models: list[str]) -> list[Any]:
    study = make_study(models=models)
    perplexities: dict[str, float | None] = {
        str(cell): (100.0 if cell.criterion == "magnitude" else 50.0)
        for cell in study.cells
        if not cell.is_dense
    }
    records = make_records(study, perplexities)
    for cell, record in records.items():
        record["identity"]["parameters"] = MODELS[cell.model]
    return size_rows(gap_rows(records), records)


def test_gaps_stand_beside_sizes() -> None:
    found = rows(["tiny", "tiny-2"])
    assert [(row["model"], row["parameters"], row["adaptation"]) for row in found] == [
        (model, size, adaptation)
        for model, size in MODELS.items()
        for adaptation in ("none", "recon_block")
    ]
    assert all(row["loss_gap"] == pytest.approx(math.log(2)) for row in found)


def test_figure_has_a_line_for_each_adaptation(tmp_path: Path) -> None:
    data = tmp_path / "sizes.csv"
    data.write_text(csv_text(SIZE_COLUMNS, rows(["tiny", "tiny-2"])))
    outputs = [tmp_path / f"sizes.{suffix}" for suffix in ("png", "svg", "pdf")]
    draw_figure(
        "freelunch.reporting.figures.sizes",
        data,
        {"adaptations": {"recon_block": {"method": "full"}}},
        outputs,
    )
    assert all(path.stat().st_size > 1000 for path in outputs)
    with styled():
        text = [dict.fromkeys(SIZE_COLUMNS), *rows(["tiny", "tiny-2"])][1:]
        figure = sizes.draw(
            [{k: str(v) for k, v in row.items()} for row in text],
            {"recon_block": {"method": "full"}},
        )
    (axes,) = figure.axes
    lines = [list(line.get_xdata()) for line in axes.lines if len(line.get_xdata()) == 2]
    assert lines == [[1000, 4000], [1000, 4000]]


def test_one_model_has_no_line() -> None:
    with styled():
        figure = sizes.draw([{k: str(v) for k, v in row.items()} for row in rows(["tiny"])], {})
    assert not figure.axes and "only one model" in figure.texts[0].get_text()
