"""The gap between criteria against the size of the model, from made-up records."""

import math

import pytest

from figure_words import drawn
from freelunch.analysis.criteria_gap import gap_rows, size_rows
from freelunch.reporting.figures import gap_by_size
from records_for_tests import make_records, make_study

MODELS = {"tiny": 1000, "tiny-2": 4000}


def test_gaps_stand_beside_sizes_with_a_line_for_each_adaptation() -> None:
    study = make_study(models=list(MODELS))
    perplexities: dict[str, float | None] = {
        str(cell): (100.0 if cell.criterion == "magnitude" else 50.0)
        for cell in study.cells
        if not cell.is_dense
    }
    records = make_records(study, perplexities)
    for cell, record in records.items():
        record["identity"]["parameters"] = MODELS[cell.model]
    rows = size_rows(gap_rows(records), records)
    assert [(row["model"], row["parameters"], row["adaptation"]) for row in rows] == [
        (model, size, adaptation)
        for model, size in MODELS.items()
        for adaptation in ("none", "recon_block")
    ]
    assert all(row["loss_gap"] == pytest.approx(math.log(2)) for row in rows)
    adaptations = {"recon_block": {"method": "full"}}
    (axes,) = drawn(gap_by_size, rows, adaptations=adaptations).axes
    lines = [list(line.get_xdata()) for line in axes.lines if len(line.get_xdata()) == 2]
    assert lines == [[1000, 4000], [1000, 4000]]
    of_one_model = [row for row in rows if row["model"] == "tiny"]
    assert "only one model" in drawn(gap_by_size, of_one_model, adaptations={}).texts[0].get_text()
