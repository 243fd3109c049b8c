"""What the kept records say, number by number: each was once told too well."""

import math
from pathlib import Path
from typing import Any

import pytest

from claims_for_tests import verdicts_on
from freelunch.audit.claims import load_claims
from freelunch.audit.evidence import Evidence
from freelunch.audit.scope import Regime, Regimes, load_regimes
from freelunch.audit.verdicts import (
    BEARINGS,
    FAILS,
    HOLDS,
    TOO_FEW_SEEDS,
    TOO_SMALL,
    UNDECIDED,
    kind,
    of_few_seeds,
)
from freelunch.records.read import load_records
from freelunch.study.study import Study
from repository import ROOT


def audited(file: str, name: str, regimes: Regimes | None = None) -> dict[str, dict[str, Any]]:
    study, folder = Study.load(Path(file), ROOT), ROOT / "docs" / name / "records"
    evidence = Evidence(study, load_records(study, folder), folder)
    return {claim["id"]: claim for claim in verdicts_on(evidence, load_claims(), regimes)}


@pytest.fixture(scope="module")
def full() -> dict[str, dict[str, Any]]:
    return audited("studies/full.yaml", "full")


@pytest.fixture(scope="module")
def laptop() -> dict[str, dict[str, Any]]:
    return audited("config.yaml", "laptop")


def found(claims: dict[str, dict[str, Any]], claim: str, part: int) -> dict[str, dict[str, Any]]:
    """Return the findings of a part at 50 % sparsity by what tells them apart."""
    findings = claims[claim]["parts"][part]["findings"]
    return {it["about"]: it for it in findings if ", u50" in it["subject"]}


def test_what_one_seed_found_of_windows_is_a_part_of_what_five_seeds_find(
    full: dict[str, Any], laptop: dict[str, Any]
) -> None:
    """With the first seed, half a block misses 6.5 to 19.2 % of one block's gain, and the whole
    model 38.8 to 63.2 %. The other seeds give other numbers, and the intervals of all are wider.
    """
    for part, about in ((0, "half blocks vs. one block"), (1, "whole model vs. one block")):
        one, five = (found(claims, "C2", part)[about] for claims in (laptop, full))
        assert one["seeds"] == 1 and five["seeds"] == 5
        assert five["high"] - five["low"] > 1.2 * (one["high"] - one["low"])
        # Rounding differs between the machines' runs.
        assert five["of_seeds"][0] == pytest.approx(one["value"], abs=1e-3)
        assert five["low"] > 0.1 and full["C2"]["parts"][part]["verdict"] == FAILS
    assert laptop["C2"]["verdict"] == of_few_seeds(FAILS)
    assert full["C2"]["verdict"] == FAILS


def test_of_a_study_at_scale_the_seeds_decide() -> None:
    """As if the paper had calibrated on as little text; C3b and C4 need more than text."""
    claims = audited("studies/full.yaml", "full", dict.fromkeys(load_regimes(), Regime(32, 256)))
    assert claims["C2"]["bearing"] == claims["C2v1"]["bearing"] == BEARINGS[FAILS]
    assert claims["C3"]["parts"][0]["bearing"] == TOO_FEW_SEEDS
    assert claims["C3b"]["bearing"] == claims["C4"]["bearing"] == TOO_SMALL
    assert claims["C1"]["bearing"] == UNDECIDED


def test_intervals_cover_seeds_too(full: dict[str, Any], laptop: dict[str, Any]) -> None:
    """Wanda's recovered share: from documents of one seed 18.3 to 22.7 %."""

    def recovered(claims: dict[str, Any]) -> dict[str, Any]:
        findings = claims["C1"]["parts"][0]["findings"]
        return next(it for it in findings if "wanda, u50" in it["subject"])

    one, three = recovered(laptop), recovered(full)
    assert (one["low"], one["high"]) == pytest.approx((0.183, 0.227), abs=1e-3)
    assert three["low"] < one["low"] and three["high"] > one["high"]
    assert kind(three["verdict"]) == HOLDS and math.isfinite(three["low"])
