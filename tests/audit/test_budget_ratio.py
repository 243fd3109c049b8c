"""The budget at which retraining reaches reconstruction, on made-up records that must give each
verdict.
"""

import math
from typing import Any

import pytest

from freelunch.audit.claim_verdicts import audit_claims
from freelunch.audit.claims import Claim
from freelunch.audit.measures.measure import Absent, Measurement
from freelunch.audit.verdicts import (
    FAILS,
    HOLDS,
    IN_PART,
    UNDECIDED,
    UNTESTED,
    kind,
    of_few_seeds,
)
from measures_for_tests import BASE, asked_of, audited, make_claim, make_evidence

FIRST: dict[str, Any] = {"methods": ["full"], "distilled": False}
TOKENS: dict[str, Any] = {**FIRST, "unit": "tokens", "apart": 20}
BOTH: dict[str, Any] = {**TOKENS, "methods": ["full", "norms"]}


def finding_on(
    settings: dict[str, Any], above: float = 10, **levels: float | None
) -> dict[str, Any]:
    """Return the only finding on retraining to these perplexities."""
    values = BASE | {f"wanda {name}": level for name, level in levels.items()}
    (finding,) = audited("budget_ratio", {"above": above}, values, settings)["findings"]
    return dict(finding)


FULL = {"full_half": 70.0, "full": 55.0}
NEAR = {"full_half": 55.0, "full": 38.0}


@pytest.mark.parametrize(
    ("levels", "settings", "expected", "text"),
    [
        ({**FULL, "full_20": 41}, TOKENS, HOLDS, "more than 20"),
        ({**FULL, "full_20": 39.5}, TOKENS, HOLDS, ""),
        ({**FULL, "full_20": 30}, TOKENS, FAILS, ""),
        ({**NEAR, "full_20": 30}, TOKENS, FAILS, ""),
        ({**NEAR, "full_half": 39, "full_20": 30}, TOKENS, FAILS, "at most 0.5"),
        ({**FULL, "full": 42, "full_20": 39.4}, TOKENS, UNDECIDED, ""),
        # It was made worse by more.
        ({**FULL, "full": 45, "full_20": 55}, TOKENS, UNDECIDED, "not reached"),
        # A smallest budget as large as the reconstruction's is small enough; a larger one is not.
        ({"full": 55, "full_20": 45}, TOKENS, HOLDS, ""),
        ({"full_20": 55}, TOKENS, UNDECIDED, "not reached"),
        # Budgets that end too early prove nothing.
        (FULL, TOKENS, UNDECIDED, "more than 1 times"),
        # What happens between budgets far apart nobody knows: the curve may be a U.
        ({**FULL, "full_20": 39.5}, {**TOKENS, "apart": 4}, UNDECIDED, "more than 1 times"),
        ({**FULL, "full_3": 35, "full_20": 39.5}, {**TOKENS, "apart": 4}, FAILS, ""),
        # A budget that diverged was not run: it takes nothing from what smaller ones reach.
        ({**NEAR, "full_half": 39, "full_3": None}, TOKENS, FAILS, "at most 0.5"),
        ({**NEAR, "full": 50, "full_3": None}, TOKENS, UNDECIDED, "more than 1 times"),
        # A weak way helps nobody's claim, nor does distillation, which learns no text.
        *(
            (
                {**NEAR, "full_half": 39, "full_20": 30, "norms_half": 80, **weak},
                *(BOTH, FAILS, "at most 0.5"),
            )
            for weak in ({"norms_20": 70, "distilled": 70}, {"norms_20": 90})
        ),
        # Any way of retraining may reach it: the better of two rates, whichever comes first.
        ({**NEAR, "full": 200, "full_fast": 38, "full_3": 37}, TOKENS, FAILS, ""),
        ({**NEAR, "full_fast": 200, "full_3": 37}, TOKENS, FAILS, ""),
    ],
)
def test_budget_ratio(
    levels: dict[str, float | None], settings: dict[str, Any], expected: str, text: str
) -> None:
    finding = finding_on(settings, **levels)
    assert kind(finding["verdict"]) == expected, finding
    assert finding["text"].startswith(text)


def test_a_first_way_that_is_missing_or_diverged_is_named_and_others_may_be_missing() -> None:
    finding = finding_on(TOKENS | {"methods": ["norms", "full"]}, full_half=39, full=38)
    assert finding["verdict"] == UNTESTED and "norms was not run" in finding["reason"]
    assert kind(finding_on(BOTH, full_half=39, full=38)["verdict"]) == FAILS
    finding = finding_on(TOKENS, full_half=None, full=None)
    assert finding["verdict"] == UNTESTED and finding["reason"] == "retraining that diverged: full"


def test_a_way_that_reaches_it_beyond_the_budgets_of_another_is_a_bound() -> None:
    """Full retraining was run with three times, and only norms reach it, with more: full retraining
    might have, with less. If it was run there, it did.
    """
    settings = BOTH | {"apart": 40}
    levels = {"full_half": 55, "full": 50, "full_3": 43, "norms_half": 58, "norms_20": 38}
    finding = finding_on(settings, **levels)
    assert finding["verdict"] == UNDECIDED and finding["value"] > 10
    assert finding["text"].startswith("more than 3 times, at most ")
    whole = finding_on(settings, **levels, full_20=30)
    assert kind(whole["verdict"]) == FAILS and whole["value"] < 10
    # What is at most so much can still be too little.
    assert kind(finding_on(settings, above=50, **levels)["verdict"]) == FAILS


def test_what_was_chosen_on_the_evaluation_text_counts_only_without_others() -> None:
    """And the reason says so. Nor is a second rate with as much text a budget."""
    levels = {"full_half": 55, "full": 41, "full_3": 39}
    found = finding_on(TOKENS, 2, **levels)
    same = finding_on(TOKENS, 2, **levels, full_fast=200, recon_fast=80, recon_on_test=37)
    numbers = ("value", "low", "high", "verdict")
    assert [same[key] for key in numbers] == [found[key] for key in numbers]
    only = {"wanda none": 60, "recon_on_test": 40, "on_test_half": 55, "on_test_20": 30}
    (finding,) = audited("budget_ratio", {"above": 2}, only, TOKENS | {"apart": 40})["findings"]
    assert 0.5 < finding["value"] < 20
    assert "recon_on_test were chosen on the evaluation text" in finding["reason"]


def test_without_a_common_seed_nothing_is_compared_with_one_and_the_other_stays() -> None:
    values = {"none": 60.0, "recon_block": 50.0, "block_3": 40.0, "full_half": 70.0, "full": 55.0}
    gone = [f"tiny/wanda-u50/block_3/seed{seed}" for seed in (0, 2)]
    gone += [f"tiny/wanda-u50/{name}/seed1" for name in ("full_half", "full")]
    evidence = make_evidence(values, gone, seeds=[0, 1, 2])
    block, three = asked_of("budget_ratio", {**TOKENS, "apart": 40}, evidence)
    assert isinstance(block, Measurement) and {cell.seed for cell in block.cells} == {0, 2}
    assert isinstance(three, Absent) and three.reason == "no seed was run with all of block_3, full"


def test_a_metric_that_was_not_measured_is_missed_once() -> None:
    """Not once more for each budget of the reconstruction."""
    evidence = make_evidence({"recon_block": 40, "block_3": 39, "full": 38})
    (found,) = asked_of("budget_ratio", TOKENS, evidence, "held_out_perplexity")
    assert isinstance(found, Absent) and "no held_out_perplexity" in found.reason


def test_equal_budgets_are_compared_with_the_best_method_both_ways() -> None:
    """Full retraining alone is beaten by far; norms, on as many tokens, are as good."""

    def lost(other: float) -> float:
        return math.log(40 / other) / math.log(60 / other)

    values = BASE | {"wanda full": 50.0, "wanda full_3": 30.0}
    holds, one = {"within": 0.1}, {**FIRST, "methods": ["full", "norms"]}
    (finding,) = audited("equal_budget_difference", holds, values, one)["findings"]
    assert finding["value"] == pytest.approx(lost(50)) and kind(finding["verdict"]) == FAILS
    values |= {"wanda norms_1": 39.8}
    (finding,) = audited("equal_budget_difference", holds, values, one)["findings"]
    assert finding["value"] == pytest.approx(lost(39.8)) and kind(finding["verdict"]) == HOLDS
    (finding,) = audited("equal_budget_difference", holds, BASE | {"wanda full_3": 30}, one)[
        "findings"
    ]
    assert finding["verdict"] == UNTESTED and "as many tokens" in finding["reason"]


def test_each_kind_of_inputs_is_a_reference_and_the_kinder_is_named() -> None:
    values = BASE | {"wanda full": 35.0, "wanda recon_sparse": 35.1}
    part = {**FIRST, "methods": ["full"]}
    claim = make_claim(
        "equal_budget_difference", metric="perplexity", holds={"within": 0.1}, settings=part
    )
    evidence = make_evidence(values, seeds=[0, 1, 2])
    (found,) = audit_claims(evidence, [Claim.of(claim)])
    assert [finding.about for finding in found.parts[0].findings] == ["recon_block", "recon_sparse"]
    assert found.inputs == {"dense inputs": FAILS, "sequential inputs": HOLDS}
    assert found.verdict == IN_PART and str(found.kinder).startswith("sequential inputs")


def test_distinct_tokens_count_where_both_repeat_their_text() -> None:
    """Reconstruction of a quarter of the text, seen four times, beside retraining that needs all
    of it, seen once.
    """
    distinct = TOKENS | {"unit": "distinct_tokens"}
    once = BASE | {"wanda full": 41.0, "wanda full_3": 39.0}
    (finding,) = audited("budget_ratio", {"above": 2}, once, distinct)["findings"]
    assert finding["verdict"] == UNTESTED and "several times" in finding["reason"]
    values = once | {"wanda block_repeated": 40.0, "wanda full_repeated": 50.0}
    (finding,) = audited("budget_ratio", {"above": 2}, values, distinct)["findings"]
    assert finding["about"] == "block_repeated" and finding["value"] > 2, finding


def test_fewer_seeds_count_where_three_leave_it_undecided() -> None:
    """Three seeds end at the reconstruction's budget; one was run with twenty times as much."""
    values = {"none": 60.0, "recon_block": 40.0, "full_half": 50.0, "full": 45.0, "full_20": 39.0}
    gone = [f"tiny/wanda-u50/full_20/seed{seed}" for seed in (1, 2)]
    evidence = make_evidence(values, gone, seeds=[0, 1, 2])
    claim = make_claim("budget_ratio", metric="perplexity", holds={"above": 1.5}, settings=TOKENS)
    (found,) = audit_claims(evidence, [Claim.of(claim)])
    (finding,) = found.parts[0].findings
    assert (finding.verdict, finding.seeds) == (of_few_seeds(HOLDS), 1)
