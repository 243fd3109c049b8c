"""Losses as evidence: which units follow each other, and which dense losses stand beside them."""

from typing import Any

import pytest

from freelunch.analysis.budget_effect import reach_rows
from freelunch.audit.evidence import HELD_OUT_PERPLEXITY, PERPLEXITY, Evidence
from freelunch.audit.verdicts import HOLDS, of_few_seeds
from freelunch.study.cell import DENSE, NONE, Cell
from freelunch.study.study import Study
from measures_for_tests import NOWHERE, audited
from records_for_tests import make_records, make_study


@pytest.mark.parametrize("cut", ["joined", "documents"])
def test_only_windows_of_joined_documents_are_neighbours(cut: str) -> None:
    config = make_study(criteria=["wanda"], adaptations=["none"], seeds=[0, 1]).as_json()
    config["study"]["evaluation"]["perplexity"]["cut"] = cut
    study = Study.check(config, "made-up.yaml")
    records: dict[Cell, Any] = make_records(study, {})
    dense, *cells = records
    for cell in cells:
        of_dense = {"window_losses": [1.0 + cell.seed] * 4}
        records[cell]["metrics"]["drift"] = {
            "window_losses": [3.0 + cell.seed] * 4,
            "dense": of_dense,
        }
    evidence, compared = Evidence(study, records, NOWHERE), {NONE: cells, DENSE: [dense] * 2}
    windows, held_out = (evidence.sample(compared, it) for it in (PERPLEXITY, HELD_OUT_PERPLEXITY))
    assert windows is not None and held_out is not None
    assert (windows.neighbours, windows.nested) == (cut == "joined", False)
    assert (held_out.neighbours, held_out.nested) == (False, True)
    # Each seed has held-out text of its own, on which the dense model was measured, too.
    assert held_out.strata[0].tolist() == [[[3.0] * 4, [4.0] * 4], [[1.0] * 4, [2.0] * 4]]


@pytest.mark.parametrize(("seeds", "few"), [([0], True), ([0, 1], True), ([0, 1, 2], False)])
def test_fewer_than_three_seeds_say_what_holds_on_their_samples(
    seeds: list[int], few: bool
) -> None:
    values = {"dense none": 20.0, "wanda none": 60.0, "wanda recon_block": 30.0}
    part = audited("recovery", {"above": 0}, values, seeds=seeds)
    assert part["verdict"] == (of_few_seeds(HOLDS) if few else HOLDS)


def test_reach_is_wider_where_windows_follow_each_other() -> None:
    entries = {
        name: {"method": "full", "budget": {"times": times, "of": "recon_block"}}
        for name, times in {"full_1": 1, "full_4": 4}.items()
    }
    names = ["none", "recon_block", *entries]
    config = make_study(entries, criteria=["wanda"], adaptations=names).as_json()
    widths = []
    for cut in ("documents", "joined"):
        config["study"]["evaluation"]["perplexity"]["cut"] = cut
        study = Study.check(config, "made-up.yaml")
        levels = {"none": 60.0, "recon_block": 40.0, "full_1": 48.0, "full_4": 36.0}
        values = {str(it): levels[it.adaptation] for it in study.cells if not it.is_dense}
        row, *_ = reach_rows(make_records(study, values), study)
        widths.append(row["reached_at_high"] - row["reached_at_low"])
    assert widths[1] > 1.1 * widths[0]
