"""The figure of the budgets at which retraining reaches reconstruction, from made-up data."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from matplotlib.figure import Figure

from figure_words import assert_words_inside
from freelunch.audit.budget_ratios import ratio_rows
from freelunch.audit.claim_verdicts import audit_claims
from freelunch.audit.claims import load_claims
from freelunch.audit.drawing import budget_ratios
from freelunch.audit.evidence import Evidence
from freelunch.audit.figures import figures
from freelunch.reporting.drawing.style import styled
from freelunch.reporting.results import Results, csv_text
from records_for_tests import make_records, make_study

FIGURE = figures()["budget_ratios"]

CLAIM = "the claim: more than 10"


def times(method: str, count: float, **more: Any) -> dict[str, Any]:
    return {"method": method, "budget": {"times": count, "of": "recon_block"}, **more}


ADAPTATIONS = {
    "recon_block_3": times("reconstruction", 3, learning_rate=0.001),
    **{f"full_{count}": times("full", count) for count in (1, 4, 12)},
    **{f"masklora_{count}": times("masklora", count) for count in (1, 4, 12)},
}
LEVELS = {
    **{"none": 60.0, "recon_block": 40.0, "recon_block_3": 36.0},
    **{"full_1": 50.0, "full_4": 38.0, "full_12": 37.0},
    **{"masklora_1": 55.0, "masklora_4": 50.0, "masklora_12": 45.0},
}


def results_of(levels: Mapping[str, float]) -> Results:
    """Return a study with these adaptations of one pruned model."""
    names = list(levels)
    study = make_study(ADAPTATIONS, criteria=["wanda"], adaptations=names)
    values = {f"tiny/wanda-u50/{name}/seed0": value for name, value in levels.items()}
    records = make_records(study, {"tiny/dense/none/seed0": 20.0, **values})
    return Results(study, records, Path("nowhere"))


def row(**changes: Any) -> dict[str, str]:
    base = {
        **{"model": "tiny", "criterion": "wanda", "pattern": "u50", "seeds": 1},
        **{"metric": "perplexity", "text": "wiki", "unit": "tokens", "threshold": 10},
        **{"reference_tokens": 1000, "smallest": 0.125, "known_from": 0.25, "largest": 20.0},
        **{"ratio": 2.0, "low": 1.0, "high": 4.0},
    }
    return {key: str(value) for key, value in (base | changes).items()}


def drawn(*rows: dict[str, str]) -> Figure:
    with styled():
        figure = budget_ratios.draw(rows)
        figure.canvas.draw()
    return figure


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
    results = results_of(LEVELS)
    found = {(it["reference"], it["unit"]): it for it in ratio_rows(results)}
    assert len(found) == len(ratio_rows(results)) == 4
    tokens = found["recon_block", "tokens"]
    # Of all weights, between one and four times the tokens.
    share = math.log(50 / 40) / math.log(50 / 38)
    assert tokens["ratio"] == pytest.approx(4**share)
    assert [tokens[it] for it in ("smallest", "known_from", "largest")] == pytest.approx([1, 1, 12])
    assert (tokens["reference_tokens"], found["recon_block_3", "tokens"]["reference_tokens"]) == (
        pytest.approx((8192, 3 * 8192))
    )
    # A larger budget made no way worse, and each was run with less than that of the reference.
    assert found["recon_block_3", "tokens"]["ratio"] == math.inf
    assert found["recon_block_3", "tokens"]["largest"] == pytest.approx(4)
    assert found["recon_block_3", "tokens"]["ratio_in_words"].startswith("more than 4 times")
    evidence = Evidence(results.study, results.records, results.folder)
    claim = next(claim for claim in load_claims() if claim.id == "C1")
    (audited,) = audit_claims(evidence, [claim])
    compared = 0
    for part in audited.parts:
        for finding in part.findings:
            if part.measure == "budget_ratio" and finding.value is not None:
                its = found[finding.about, part.settings["unit"]]
                assert its["ratio_in_words"] == finding.text
                assert its["ratio"] == float(finding.value)
                assert its["low"] == float(str(finding.low))
                compared += 1
    assert compared == len(found)


def test_what_more_made_worse_is_not_known() -> None:
    (tokens, *_) = ratio_rows(results_of(LEVELS | {"full_4": 41.0, "full_12": 43.0}))
    assert (tokens["unit"], tokens["reference"]) == ("tokens", "recon_block")
    assert math.isnan(tokens["ratio"]) and tokens["ratio_in_words"] == "not reached"


def test_a_study_that_does_not_test_the_claim_has_no_figure() -> None:
    without = results_of({name: LEVELS[name] for name in ("none", "recon_block", "recon_block_3")})
    assert not FIGURE.wanted(without.study) and not ratio_rows(without)
    # The claim asks for both ways of retraining.
    one = results_of({name: it for name, it in LEVELS.items() if "masklora" not in name})
    assert FIGURE.wanted(one.study) and not ratio_rows(one)
    # The page leaves out a figure whose data have no rows.
    assert csv_text(FIGURE.columns, ratio_rows(one)).count("\n") == 1
    assert "no reconstruction is compared" in drawn().texts[0].get_text()


def test_the_columns_are_those_of_the_rows() -> None:
    assert set(FIGURE.columns) == set(ratio_rows(results_of(LEVELS))[0])


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


def test_the_range_and_the_interval_are_bars() -> None:
    bars = [list(line.get_ydata()) for line in drawn(row()).axes[0].lines]
    assert [0.125, 20.0] in bars and [1.0, 4.0] in bars
    # No interval, and no arrow.
    figure = drawn(row(low=math.nan, high=math.nan))
    assert [2.0] in [list(line.get_ydata()) for line in figure.axes[0].lines]
    assert legend(figure) == ["wiki", CLAIM] and not lines(figure, "^") and not lines(figure, "v")


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
