"""Drift of activations in tables and figures, from made-up records."""

import math
from typing import Any

import pytest

from freelunch.analysis.window_effect import BLOCK, DRIFT_COLUMNS, MATRICES, drift_rows, window_rows
from records_for_tests import make_records, make_study

WINDOWS = {
    "recon_matrix": {"method": "reconstruction", "window": "matrix", "train_norms": False},
    "recon_all": {"method": "reconstruction", "window": "all", "train_norms": False},
    "recon_sparse": {"method": "reconstruction", "inputs": "sparse", "train_norms": False},
    "recon_on_test": {
        "method": "reconstruction",
        "learning_rate": [0.1, 0.2],
        "select_on": "evaluation",
        "train_norms": False,
    },
}
BLOCK_WINDOW = {"recon_block": {"method": "reconstruction", "train_norms": False}}
BLOCKS = 3


def facts(value: float | None) -> dict[str, float | None]:
    return {"mean": value, "median": value and value / 2, "max": value and 3 * value}


def drift(scale: float, broken: bool = False) -> dict[str, Any]:
    """Return errors that grow with depth where they accumulate."""
    return {
        kind: [
            {
                "q_proj": facts(scale),
                "up_proj": facts(2 * scale),
                BLOCK: facts(None if broken else scale * (1 + at * (kind == "accumulated"))),
            }
            for at in range(BLOCKS)
        ]
        for kind in ("accumulated", "local")
    }


def rows(**scales: float) -> list[Any]:
    study = make_study({**WINDOWS, **BLOCK_WINDOW}, adaptations=["none", *WINDOWS, "recon_block"])
    records = make_records(study, {})
    for cell, record in records.items():
        if not cell.is_dense:
            scale = scales.get(cell.adaptation, 0.1)
            record["metrics"]["drift"] = {"drift": drift(scale, math.isinf(scale))}
    return drift_rows(records, window_rows(records, study))


def one(found: list[Any], **keys: object) -> Any:
    (row,) = (row for row in found if all(row[key] == value for key, value in keys.items()))
    return row


def test_a_row_for_each_block_kind_and_output() -> None:
    found = rows(recon_all=0.3)
    # What was chosen on the evaluation text, or has sparse inputs, is not compared.
    compared = {row["adaptation"] for row in found if row["compared"]}
    assert compared == {"none", "recon_matrix", "recon_all", "recon_block"}
    assert all(row.keys() == set(DRIFT_COLUMNS) for row in found)
    # Two criteria, six adaptations.
    assert len(found) == 2 * 6 * BLOCKS * 2 * 2
    at = {"criterion": "wanda", "adaptation": "recon_all", "block": 2, "kind": "accumulated"}
    block, matrices = (one(found, **at, output=output) for output in (BLOCK, MATRICES))
    assert block["mean"] == pytest.approx(0.9) and block["max"] == pytest.approx(2.7)
    assert matrices["mean"] == pytest.approx(0.45) and matrices["max"] == pytest.approx(1.8)
    assert matrices["median"] == pytest.approx(0.225)


@pytest.mark.parametrize(
    "others",
    [
        # No amount of text has several windows with equal settings; or one is alone with its own.
        [{"budget": {"tokens": 2048}}, {"budget": {"tokens": 4096}}],
        [{}, {"inputs": "sparse"}],
    ],
    ids=["budgets", "inputs"],
)
def test_without_compared_windows_all_adaptations_are(others: list[dict[str, Any]]) -> None:
    """Otherwise, the figure of a study of budgets or of retraining showed no adapted model."""
    entries = {
        f"recon_{number}": {**BLOCK_WINDOW["recon_block"], **more}
        for number, more in enumerate(others)
    }
    entries |= {"full": {"method": "full"}}
    study = make_study(entries, adaptations=["none", *entries])
    records = make_records(study, {})
    for cell, record in records.items():
        if not cell.is_dense:
            record["metrics"]["drift"] = {"drift": drift(0.1)}
    found = drift_rows(records, window_rows(records, study))
    assert {row["adaptation"] for row in found if row["compared"]} == {"none", *entries}
    assert drift_rows(make_records(study, {}), []) == []


def test_what_is_not_finite_stays_visible() -> None:
    found = rows(recon_all=math.inf)
    row = one(found, criterion="wanda", adaptation="recon_all", block=0, kind="local", output=BLOCK)
    assert math.isnan(row["mean"]) and math.isnan(row["max"])
