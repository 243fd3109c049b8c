"""The budget at which retraining reaches reconstruction, on made-up records that must give each
verdict.
"""

import math

import pytest

from freelunch.audit.evidence import Evidence
from freelunch.audit.measures import MEASURES
from freelunch.audit.measures.measure import Absent, Measurement
from freelunch.audit.verdicts import FAILS, HOLDS, UNDECIDED, UNTESTED, kind
from measures_for_tests import BASE, BLOCK, ENTRIES, NOWHERE, audited
from records_for_tests import make_records, make_study

TOKENS = {"unit": "tokens", "methods": ["full"], "apart": 20}


@pytest.mark.parametrize(
    ("half", "one", "twenty", "expected", "text"),
    [
        (70, 55, 41, HOLDS, "more than 20"),
        (70, 55, 39.5, HOLDS, ""),
        (70, 55, 30, FAILS, ""),
        (55, 38, 30, FAILS, ""),
        (39, 38, 30, FAILS, "at most 0.5"),
        (70, 42, 39.4, UNDECIDED, ""),
        # It was made worse by more.
        (70, 45, 55, UNDECIDED, ""),
    ],
)
def test_budget_ratio(half: float, one: float, twenty: float, expected: str, text: str) -> None:
    values = BASE | {"wanda full_half": half, "wanda full": one, "wanda full_20": twenty}
    part = audited("budget_ratio", {"above": 10}, values, TOKENS)
    assert kind(part["verdict"]) == expected, part
    assert text in part["findings"][0]["text"]


def test_the_best_way_of_retraining_counts() -> None:
    """A weak one beside it helps nobody's claim, nor does distillation, which learns no text."""
    values = BASE | {"wanda full_half": 39, "wanda full": 38, "wanda full_20": 30}
    weak = {"wanda norms_half": 80, "wanda norms_20": 70, "wanda distilled": 70}
    both = {**TOKENS, "methods": ["full", "norms"]}
    assert kind(audited("budget_ratio", {"above": 10}, values, both)["verdict"]) == UNTESTED
    for more in (weak, weak | {"wanda norms_20": 90}):
        part = audited("budget_ratio", {"above": 10}, values | more, both)
        assert kind(part["verdict"]) == FAILS
        (finding,) = part["findings"]
        assert finding["value"] == pytest.approx(0.5)
    assert "full, norms, 0.5 times the reconstruction's budget: recon_block" in finding["subject"]


def test_a_way_that_reaches_it_beyond_the_budgets_of_another_is_a_bound() -> None:
    """Full retraining was run with three times, and only norms reach it, with more: full retraining
    might have, with less. If it was run there, it did.
    """
    settings = TOKENS | {"methods": ["full", "norms"], "apart": 40}
    values = BASE | {"wanda full_half": 55, "wanda full": 50, "wanda full_3": 43}
    values |= {"wanda norms_half": 58, "wanda norms_20": 38}
    part = audited("budget_ratio", {"above": 10}, values, settings)
    (finding,) = part["findings"]
    assert finding["verdict"] == UNDECIDED and finding["value"] > 10
    assert finding["text"].startswith("more than 3 times, at most ")
    whole = audited("budget_ratio", {"above": 10}, values | {"wanda full_20": 30}, settings)
    assert kind(whole["verdict"]) == FAILS and whole["findings"][0]["value"] < 10
    # What is at most so much can still be too little.
    part = audited("budget_ratio", {"above": 50}, values, settings)
    assert kind(part["verdict"]) == FAILS


def test_budgets_are_those_of_one_rate_each() -> None:
    """A second rate with as much text is no budget, nor is one that was chosen on the test text."""
    values = BASE | {"wanda full_half": 55, "wanda full": 41, "wanda full_3": 39}
    (found,) = audited("budget_ratio", {"above": 2}, values, TOKENS)["findings"]
    more = values | {"wanda full_fast": 200, "wanda recon_fast": 80, "wanda recon_on_test": 37}
    (same,) = audited("budget_ratio", {"above": 2}, more, TOKENS)["findings"]
    numbers = ("value", "low", "high", "verdict")
    assert [same[key] for key in numbers] == [found[key] for key in numbers]
    # Any way of retraining may reach it: the better of two rates does, whichever comes first.
    for one, other in (("full", "full_fast"), ("full_fast", "full")):
        better = values | {f"wanda {one}": 200, f"wanda {other}": 38}
        (finding,) = audited("budget_ratio", {"above": 2}, better, TOKENS)["findings"]
        assert finding["value"] < 1 and kind(finding["verdict"]) == FAILS
    # If there is nothing else, it counts, and the reason says so.
    only = {key: value for key, value in BASE.items() if key != "wanda recon_block"}
    only |= {"wanda recon_on_test": 40, "wanda on_test_half": 55, "wanda on_test_20": 30}
    names = ["none", "recon_on_test", "on_test_half", "on_test_20"]
    settings = TOKENS | {"apart": 40}
    part = audited("budget_ratio", {"above": 2}, only, settings, adaptations=names)
    (finding,) = part["findings"]
    assert 0.5 < finding["value"] < 20
    assert "recon_on_test were chosen on the evaluation text" in finding["reason"]


def test_a_budget_that_diverged_was_not_run() -> None:
    """It takes nothing from what smaller ones reach, and shows nothing about larger ones."""
    values = BASE | {"wanda full_half": 39, "wanda full": 38, "wanda full_3": None}
    (finding,) = audited("budget_ratio", {"above": 10}, values, TOKENS)["findings"]
    assert kind(finding["verdict"]) == FAILS and finding["text"].startswith("at most 0.5")
    values |= {"wanda full_half": 55, "wanda full": 50}
    (finding,) = audited("budget_ratio", {"above": 10}, values, TOKENS)["findings"]
    assert finding["verdict"] == UNDECIDED and finding["text"].startswith("more than 1 times")
    values |= {"wanda full_half": None, "wanda full": None}
    (finding,) = audited("budget_ratio", {"above": 10}, values, TOKENS)["findings"]
    assert finding["verdict"] == UNTESTED and finding["reason"] == "retraining that diverged: full"


def test_a_way_that_was_run_with_more_alone_proves_nothing() -> None:
    part = audited("budget_ratio", {"above": 10}, BASE | {"wanda full_20": 55}, TOKENS)
    assert kind(part["verdict"]) == UNDECIDED
    assert "a budget that was not run may still suffice" in part["reason"]


def test_budgets_that_end_too_early_prove_nothing() -> None:
    values = BASE | {"wanda full_half": 70, "wanda full": 55}
    part = audited("budget_ratio", {"above": 10}, values, TOKENS)
    assert kind(part["verdict"]) == UNDECIDED
    assert part["findings"][0]["value"] == "infinity"


def test_what_happens_between_budgets_far_apart_nobody_knows() -> None:
    """Learning text by heart is worse than learning little of it: the curve may be a U."""
    settings = TOKENS | {"apart": 4}
    values = BASE | {"wanda full_half": 70, "wanda full": 55, "wanda full_20": 39.5}
    part = audited("budget_ratio", {"above": 10}, values, settings)
    assert kind(part["verdict"]) == UNDECIDED
    assert part["findings"][0]["text"].startswith("more than 1 times")
    values |= {"wanda full_3": 35.0}
    part = audited("budget_ratio", {"above": 10}, values, settings)
    assert kind(part["verdict"]) == FAILS
    assert not any("full_20" in cell for cell in part["findings"][0]["cells"])


def test_budgets_come_in_the_order_of_their_unit() -> None:
    """More tokens, in more epochs, may be fewer data."""
    values = BASE | {"wanda full_half": 38, "wanda full": 45, "wanda full_20": 55}
    data = {"recon_block": 8000, "full_half": 16000, "full": 8000, "full_20": 4000}
    settings = TOKENS | {"unit": "distinct_tokens"}
    part = audited("budget_ratio", {"above": 10}, values, settings, data=data)
    (finding,) = part["findings"]
    assert finding["value"] == pytest.approx(2 ** (math.log(45 / 40) / math.log(45 / 38)))
    assert kind(part["verdict"]) == FAILS


def test_seeds_that_disagree_about_infinity() -> None:
    """One reaches it with half of the budget, the other with none."""
    values = {"dense none": 20.0}
    for seed, level in ((0, 40.0), (1, 80.0)):
        cell = "tiny/wanda-u50/{}/seed{}".format
        values |= {cell("none", seed): 90.0, cell("recon_block", seed): level}
        values |= {cell("full_half", seed): 70, cell("full", seed): 66, cell("full_20", seed): 60}
    names = ["none", "recon_block", "full_half", "full", "full_20"]
    part = audited("budget_ratio", {"above": 10}, values, TOKENS, seeds=[0, 1], adaptations=names)
    (finding,) = part["findings"]
    assert finding["of_seeds"] == ["infinity", 0.5]
    assert finding["text_of_seeds"] == ["more than 20 times", "at most 0.5 times"]
    assert kind(part["verdict"]) == UNDECIDED


def test_a_large_budget_with_fewer_seeds_takes_none_from_the_others() -> None:
    """It counts beside a reconstruction with as few seeds."""
    small = {"full_half": 70.0, "full": 55.0}
    values = {"none": 60.0, "recon_block": 50.0, "recon_3": 40.0, **small, "full_20": 39.0}
    entries = {**ENTRIES, "recon_block": BLOCK}
    entries["recon_3"] = {**BLOCK, "budget": {"times": 3, "of": "recon_block"}}
    names = [*values]
    study = make_study(entries, criteria=["wanda"], adaptations=names, seeds=[0, 1, 2])
    records = make_records(
        study,
        {str(cell): 20.0 if cell.is_dense else values[cell.adaptation] for cell in study.cells},
    )
    for cell in [*records]:
        if cell.adaptation in ("recon_3", "full_20") and cell.seed != 1:
            del records[cell]
    evidence = Evidence(study, records, NOWHERE)
    settings = {**TOKENS, "apart": 40, "metric": "perplexity"}
    beside = {it.about: it for it in MEASURES["budget_ratio"].ask(evidence, settings)}
    measured = {
        name: ({cell.adaptation for cell in it.cells}, {cell.seed for cell in it.cells})
        for name, it in beside.items()
    }
    assert measured == {
        "recon_block": ({*small, "recon_block"}, {0, 1, 2}),
        "recon_3": ({*small, "full_20", "recon_3"}, {1}),
    }
    # Without a common seed, nothing is compared with the one, and the other stays.
    for cell in [*records]:
        if (cell.adaptation in small and cell.seed == 1) or cell.adaptation == "full_20":
            del records[cell]
    evidence = Evidence(study, records, NOWHERE)
    block, three = MEASURES["budget_ratio"].ask(evidence, settings)
    assert isinstance(block, Measurement) and {cell.seed for cell in block.cells} == {0, 2}
    assert isinstance(three, Absent) and three.reason == "no seed was run with all of recon_3, full"


def test_a_metric_that_was_not_measured_is_missed_once() -> None:
    """Not once more for each budget of the reconstruction."""
    names = ["none", "recon_block", "recon_3", "full"]
    entries = {"recon_3": {**BLOCK, "budget": {"times": 3, "of": "recon_block"}}}
    study = make_study(
        {**ENTRIES, "recon_block": BLOCK, **entries}, criteria=["wanda"], adaptations=names
    )
    evidence = Evidence(study, make_records(study, {}), NOWHERE)
    settings = {**TOKENS, "metric": "held_out_perplexity"}
    (found,) = MEASURES["budget_ratio"].ask(evidence, settings)
    assert isinstance(found, Absent) and "no held_out_perplexity" in found.reason


def test_a_smallest_budget_as_large_as_the_reconstructions_is_small_enough() -> None:
    values = BASE | {"wanda full": 55, "wanda full_20": 45}
    settings = {"unit": "tokens", "methods": ["full"], "apart": 20}
    assert kind(audited("budget_ratio", {"above": 10}, values, settings)["verdict"]) == HOLDS
