"""The figure of the budgets at which retraining reaches reconstruction, from made-up data."""

import math
from typing import Any

import pytest
from matplotlib.figure import Figure

from figure_words import assert_words_inside
from figure_words import drawn as drawn_by
from freelunch.audit.claim_rows import ratio_rows
from freelunch.audit.claim_verdicts import audit_claims
from freelunch.audit.claims import load_claims
from freelunch.audit.figures import budget_ratios, figures
from freelunch.reporting.results import csv_text
from measures_for_tests import BASE, make_evidence

FIGURE = figures()["budget_ratios"]
CLAIM = "the claim: more than 10"
LEVELS = {
    **{"none": 60.0, "recon_block": 40.0, "block_3": 36.0},
    **{"full": 50.0, "full_3": 38.0, "full_10": 37.0},
    **{"masklora": 55.0, "masklora_3": 50.0, "masklora_10": 45.0},
}


def row(**changes: Any) -> dict[str, str]:
    base = {
        **{"model": "tiny", "criterion": "wanda", "pattern": "u50", "seeds": 1},
        **{"metric": "perplexity", "text": "wiki", "unit": "tokens", "threshold": 10},
        **{"reference_tokens": 1000, "smallest": 0.125, "known_from": 0.25, "largest": 20.0},
        **{"ratio": 2.0, "low": 1.0, "high": 4.0},
    }
    return {key: str(value) for key, value in (base | changes).items()}


def drawn(*rows: dict[str, str]) -> Figure:
    return drawn_by(budget_ratios, rows)


def lines(figure: Figure, marker: str) -> list[tuple[list[float], list[float], Any]]:
    """Return x, y and the filling of all lines of the first panel with a marker."""
    return [
        (list(line.get_xdata()), list(line.get_ydata()), line.get_markerfacecolor())
        for line in figure.axes[0].lines
        if line.get_marker() == marker
    ]


def legend(figure: Figure) -> list[str]:
    return [text.get_text() for text in figure.legends[0].get_texts()]


def test_the_rows_are_the_numbers_of_the_verdict() -> None:
    evidence = make_evidence(LEVELS)
    found = {(it["reference"], it["unit"]): it for it in ratio_rows(evidence)}
    assert len(found) == len(ratio_rows(evidence)) == 4
    assert all({*row} == {*FIGURE.columns} for row in found.values())
    tokens = found["recon_block", "tokens"]
    # `full` reaches it between one and three times the tokens.
    share = math.log(50 / 40) / math.log(50 / 38)
    assert tokens["ratio"] == pytest.approx(3**share)
    assert [tokens[it] for it in ("smallest", "known_from", "largest")] == pytest.approx([1, 1, 10])
    three = found["block_3", "tokens"]
    assert (tokens["reference_tokens"], three["reference_tokens"]) == (8192, 3 * 8192)
    # A larger budget made no way worse, and each was run with less than that of the reference.
    assert three["ratio"] == math.inf and three["largest"] == pytest.approx(10 / 3)
    assert three["ratio_in_words"].startswith("more than 3.33 times")
    claim = next(claim for claim in load_claims() if claim.id == "C1")
    (audited,) = audit_claims(evidence, [claim])
    compared = [
        (found[finding.about, part.settings["unit"]], finding)
        for part in audited.parts
        for finding in part.findings
        if part.measure == "budget_ratio" and finding.value is not None
    ]
    assert len(compared) == len(found)
    for row, finding in compared:
        assert row["ratio_in_words"] == finding.text
        numbers = [float(str(each)) for each in (finding.value, finding.low)]
        assert [row["ratio"], row["low"]] == numbers


def test_what_more_made_worse_is_not_known() -> None:
    (tokens, *_) = ratio_rows(make_evidence(LEVELS | {"full_3": 41.0, "full_10": 43.0}))
    assert (tokens["unit"], tokens["reference"]) == ("tokens", "recon_block")
    assert math.isnan(tokens["ratio"]) and tokens["ratio_in_words"] == "not reached"


def test_a_study_that_does_not_test_the_claim_has_no_figure() -> None:
    without = make_evidence(BASE)
    assert not FIGURE.wanted(without.study) and not ratio_rows(without)
    # The claim asks for both ways of retraining.
    one = make_evidence({name: it for name, it in LEVELS.items() if "masklora" not in name})
    assert FIGURE.wanted(one.study) and not ratio_rows(one)
    # The page leaves out a figure whose data have no rows.
    assert csv_text(FIGURE.columns, ratio_rows(one)).count("\n") == 1
    assert "no reconstruction is compared" in drawn().texts[0].get_text()


def test_numbers_are_joined_in_the_order_of_the_budget_for_each_text() -> None:
    held_out = {"metric": "held_out_perplexity", "text": "c4"}
    figure = drawn(
        row(reference_tokens=3000, ratio=8.0),
        row(),
        row(**held_out, ratio=0.5),
        row(unit="flops", ratio=5.0),
    )
    assert [axes.get_ylabel() for axes in figure.axes] == [
        "retraining's tokens\n/ reconstruction's",
        "retraining's operations\n/ reconstruction's",
    ]
    ((x, y, _),) = lines(figure, "o")
    assert y == [2.0, 8.0] and x == pytest.approx([1000 / 1.05, 3000 / 1.05])
    ((x, y, _),) = lines(figure, "H")
    assert (x, y) == ([1050.0], [0.5])
    assert legend(figure) == ["wiki", "c4, held out", CLAIM]
    assert {"log"} == {axes.get_xscale() for axes in figure.axes} | {
        axes.get_yscale() for axes in figure.axes
    }
    # The threshold, across the panel.
    assert any(list(line.get_ydata()) == [10, 10] for line in figure.axes[0].lines)


@pytest.mark.parametrize(
    ("changes", "down", "up", "entries"),
    [
        ({"ratio": 0.25, "low": 0.25}, True, False, ["or fewer"]),
        ({"ratio": 0.125, "low": 0.125}, True, False, ["or fewer"]),
        ({"low": 0.1}, True, False, ["or fewer"]),
        ({"low": -math.inf}, True, False, ["or fewer"]),
        ({"ratio": 0.2, "low": math.nan, "high": math.nan}, True, False, ["or fewer"]),
        ({"high": math.inf}, False, True, ["or more"]),
        ({"ratio": math.inf, "high": math.inf}, False, True, ["or more"]),
        ({"low": 0.25, "high": math.inf}, True, True, ["or fewer", "or more"]),
        ({"ratio": math.nan, "low": 0.25, "high": math.nan}, False, True, ["not reached"]),
    ],
)
def test_what_is_only_bounded_has_an_arrow(
    changes: dict[str, float], down: bool, up: bool, entries: list[str]
) -> None:
    figure = drawn(row(**changes))
    assert legend(figure) == ["wiki", CLAIM, *entries]
    # It starts where the interval ends, or what is known.
    lowest = min(changes.get("ratio", 2.0), changes.get("low", 1.0))
    start = lowest if lowest > 0 else 0.25
    assert [y[0] for _, y, _ in lines(figure, "v")] == pytest.approx([start / 1.5] * down)
    assert [y[0] > 20 for _, y, _ in lines(figure, "^")] == [True] * up
    # It is open where nothing is known.
    assert [it[2] == "white" for it in lines(figure, "^")] == [entries == ["not reached"]] * up
    ((_, (value,), _),) = lines(figure, "o")
    assert value == changes.get("ratio", 2.0) or math.isnan(value)


def test_words_stay_inside_the_figure() -> None:
    assert_words_inside(drawn(row(), row(ratio=math.nan, reference_tokens=8000)))
