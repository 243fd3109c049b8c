"""Windows that are too large for a model's memory, as `window: auto` tells, and the claims."""

from collections.abc import Mapping, Sequence
from typing import Any

import pytest

from freelunch.reporting.audit.evidence import Evidence
from freelunch.reporting.audit.measures import MEASURES
from freelunch.reporting.audit.measures.measure import Absent
from freelunch.study.study import Study
from measures_for_tests import BLOCK, NOWHERE
from records_for_tests import make_records, make_study

ENTRIES = {
    "recon_block": BLOCK,
    **{f"recon_{it}": {**BLOCK, "window": it} for it in ("matrix", 2, "all")},
    "recon_halves": {**BLOCK, "window": "attention_mlp"},
    "recon_auto": {**BLOCK, "window": "auto", "memory_gb": 72},
}
WINDOWS = [name for name in ENTRIES if name != "recon_auto"]
DIFFERENCE: dict[str, Any] = {"beside": 1, "windows": ["attention_mlp", 2, "all"]}


def asked_of(
    measure: str, settings: Mapping[str, Any], models: Mapping[str, Sequence[str]], auto: int | str
) -> list[tuple[str, str]]:
    """Return what a measure asks, each with the reason if it is absent.

    Args:
        measure: Its name.
        settings: Its settings.
        models: The adaptations of each model.
        auto: The window that `auto` took.
    """
    config = make_study(ENTRIES, criteria=["wanda"]).as_json()
    (grid,) = config["study"]["grids"]
    config["study"]["grids"] = [
        {**grid, "models": [model], "adaptations": ["none", *names]}
        for model, names in models.items()
    ]
    study = Study.check(config, "made-up.yaml")
    records = make_records(study, {})
    for cell, record in records.items():
        if cell.adaptation == "recon_auto":
            record["adaptation"]["window"] = auto
    asked = MEASURES[measure].ask(
        Evidence(study, records, NOWHERE), {**settings, "metric": "perplexity"}
    )
    return [
        (it.subject.partition(",")[0], it.reason if isinstance(it, Absent) else it.about)
        for it in asked
    ]


def test_a_window_that_fits_one_model_need_not_be_there_for_others() -> None:
    others = [f"{name} vs. one block" for name in ("half blocks", "2 blocks")]
    small = {"tiny": WINDOWS}
    large = {"tiny-2": [*WINDOWS[:-2], "recon_halves", "recon_auto"]}
    found = asked_of("window_difference", DIFFERENCE, small | large, 3)
    assert found[:3] == [
        *(("tiny", each) for each in others),
        ("tiny", "whole model vs. one block"),
    ]
    assert found[3:] == [("tiny-2", each) for each in others]
    # Alone, the large model has the comparison of the whole model to answer for.
    (alone,) = asked_of("window_difference", DIFFERENCE, large, 3)
    note = "(window 3 is the largest that fits into 72 GB)"
    assert alone == ("tiny-2", f"windows that were not run: all {note}")


@pytest.mark.parametrize(
    ("names", "auto", "missing"),
    [
        ([*WINDOWS[:-2], "recon_halves"], 3, "all"),  # Nobody said what fits.
        ([*WINDOWS[:-2], "recon_halves", "recon_auto"], "all", None),
        (["recon_block", "recon_halves", "recon_auto"], 3, "2"),
    ],
)
def test_what_fits_has_to_be_there(names: list[str], auto: int | str, missing: str | None) -> None:
    found = dict(
        asked_of("window_difference", DIFFERENCE, {"tiny": WINDOWS, "tiny-2": names}, auto)
    )
    said = f"windows that were not run: {missing}"
    assert found["tiny-2"] == (said if missing else "whole model vs. one block")


@pytest.mark.parametrize("measure", ["matrix_penalty", "halves_missed"])
def test_a_comparison_with_all_windows_leaves_out_models_that_cannot_have_them(
    measure: str,
) -> None:
    settings: dict[str, Any] = {"windows": [1, 2, "all"]}
    if measure == "matrix_penalty":
        settings["exact"] = False
    large = ["recon_matrix", "recon_block", "recon_halves", "recon_2", "recon_auto"]
    both = asked_of(measure, settings, {"tiny": WINDOWS, "tiny-2": large}, 3)
    assert both and {model for model, _ in both} == {"tiny"}
    assert not any(reason.startswith("windows") for _, reason in both)
