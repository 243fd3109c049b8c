"""The forest plot: it shows what the audit found, to the last digit."""

import math
from pathlib import Path
from typing import Any

import pytest
from matplotlib.figure import Figure

from figure_words import assert_words_inside, drawn
from freelunch.audit.audit import audit_records
from freelunch.audit.claim_rows import effect_rows
from freelunch.audit.figures import effects, figures
from freelunch.audit.figures.effects import SIDES, column_text, draw
from freelunch.records.read import load_records
from freelunch.reporting.drawing.style import CHOSEN, DAGGER
from freelunch.reporting.results import Results
from freelunch.study.study import Study
from measures_for_tests import ENTRIES, make_evidence
from records_for_tests import make_study
from repository import ROOT

FIGURE = figures()["effects"]
PALE = "#B0B0B0"


@pytest.fixture(scope="module")
def results() -> Results:
    study, records = Study.load(ROOT / "config.yaml"), ROOT / "docs" / "laptop" / "records"
    return Results(study, load_records(study, records), records)


def row_of(**values: str) -> dict[str, str]:
    """Return a row of effects.csv."""
    row = dict.fromkeys(FIGURE.columns, "")
    row |= {"quantity": "loss recovered", "effect": "share", "unit": "share", "measure": "recovery"}
    row |= {"model": "tiny", "criterion": "wanda", "pattern": "u50", "seeds": "1"}
    return row | {"value": "0.5", "low": "0.4", "high": "0.6", "text": "50 %"} | values


def dashes(figure: Figure) -> dict[float, bool]:
    """Return whether the interval of each row is dashed."""
    lines = [line for axes in figure.axes for line in axes.lines]
    return {
        line.get_ydata()[0]: line.get_linestyle() != "-"
        for line in lines
        if len(line.get_xdata()) == 2
    }


def legend_texts(figure: Figure) -> list[str]:
    return [text.get_text() for text in figure.legends[0].get_texts()]


def texts_beside(figure: Figure) -> list[str]:
    return [text.get_text() for axes in figure.axes for text in axes.texts]


def test_every_number_of_the_audit_is_an_effect_but_what_was_planned(results: Results) -> None:
    audited = audit_records(results.study, results.records, results.folder)
    found = {
        (claim.id, finding.value, finding.low, finding.high, finding.text)
        for claim in audited.claims
        for part in claim.parts
        if part.measure != "planned_memory"
        for finding in part.findings
        if finding.value is not None
    }
    keys = ("claim", "value", "low", "high", "text")
    shown = {tuple(row[key] for key in keys) for row in effect_rows(results) if "claim" in row}
    assert shown == found and len(found) > 10


def test_every_kind_of_adaptation_has_its_recovered_share(results: Results) -> None:
    recovered = [row for row in effect_rows(results) if row["measure"] == "recovery"]
    assert {row["effect"] for row in recovered} == {"loss recovered"}
    of_wanda = [row for row in recovered if row["criterion"] == "wanda"]
    windows = {"recon_block", "recon_matrix", "recon_attention_mlp", "recon_5", "recon_all"}
    assert {row["adaptation"] for row in of_wanda} == {*windows, "masklora", "full"}
    # With one seed, the value is the ratio of mean losses, as the summary has them.
    losses = {
        row["adaptation"]: row["loss_minus_dense"]
        for row in results.cells
        if (row["criterion"], row["seed"]) == ("wanda", 0)
    }
    for row in of_wanda:
        share = 1 - losses[row["adaptation"]] / losses["none"]
        assert row["value"] == pytest.approx(share)
        assert row["low"] < row["value"] < row["high"]
    # Without the pruned model, nothing is known.
    adapted = {
        cell: record
        for cell, record in results.records.items()
        if cell.adaptation != "none" or cell.is_dense
    }
    rows = effect_rows(Results(results.study, adapted, results.folder))
    assert not [row for row in rows if row["measure"] == "recovery"]


def test_a_choice_on_the_evaluation_text_is_marked() -> None:
    """Also where all numbers of the figure depend on it; the legend explains the mark."""
    searched = {"method": "reconstruction", "learning_rate": [0.1, 0.2]}
    entries = {"usual": searched, "paper": {**searched, "select_on": "evaluation"}}
    settings = FIGURE.settings(make_study(entries, adaptations=["none", *entries]))
    rows = [row_of(adaptation=name) for name in entries]
    for shown, marked in ((rows, 1), (rows[:1], 0), (rows[1:], 1)):
        figure = draw(shown, **settings)
        texts = texts_beside(figure)
        assert len([text for text in texts if text.endswith(DAGGER)]) == marked
        assert (CHOSEN in figure.legends[0].get_title().get_text()) == bool(marked)


def test_a_range_has_a_threshold_at_both_ends() -> None:
    figure = draw(
        [row_of(threshold="0.1", side="within", value="0.05", low="-0.2", high="0.3")], {}
    )
    (axes,) = figure.axes
    found = {
        line.get_marker(): line.get_xdata()[0] for line in axes.lines if line.get_color() == PALE
    }
    ends = {SIDES["above"]: pytest.approx(-10.0), SIDES["below"]: pytest.approx(10.0)}
    assert found == ends
    assert legend_texts(figure)[1:] == ["a claim holds above", "a claim holds below"]
    low, high = axes.get_xlim()
    assert low < -10 and high > 10


def test_numbers_that_cannot_be_drawn_as_others_are() -> None:
    """None, one without an interval, and one that is infinite, alone in its panel."""
    figure = draw([row_of(low="", high="")], {})
    assert dashes(figure) == {} and legend_texts(figure) == []
    assert "50.0 (no interval)" in texts_beside(figure)
    assert "no effect of this study has a finite interval" in draw([], {}).texts[0].get_text()
    figure = draw([row_of(value="-inf", low="-inf", high="-inf")], {})
    assert "<" in [line.get_marker() for axes in figure.axes for line in axes.lines]


def test_a_row_is_drawn_at_its_number_and_words_stay_inside_and_apart(results: Results) -> None:
    rows = [{key: row.get(key) for key in FIGURE.columns} for row in effect_rows(results)]
    figure = drawn(effects, rows, **FIGURE.settings(results.study))
    marks = [
        line.get_xdata()[0]
        for axes in figure.axes
        for line in axes.lines
        if len(line.get_xdata()) == 1
        and line.get_color() != PALE
        and line.get_marker() not in ("<", ">")
    ]
    scale = {"share": 100.0, "points": 100.0, "times": 1.0, "nats": 1.0}
    values = [scale[row["unit"]] * row["value"] for row in effect_rows(results)]
    assert sorted(marks) == pytest.approx(sorted(values))
    assert all(map(math.isfinite, marks))
    assert_words_inside(figure)
    for axes in figure.axes:
        boxes = [text.get_window_extent() for text in axes.texts if text.get_text()]
        for index, box in enumerate(boxes):
            assert not box.count_overlaps(boxes[index + 1 :])
    assert "Wanda, 50 % unstructured" in texts_beside(figure)


@pytest.mark.parametrize(
    ("numbers", "bounds", "shown"),
    [
        (("0.5", "0.41", "0.6"), ("", ""), "0.50 (0.41 to 0.60)"),
        (("-1.5", "-2", "1e4"), ("", ""), "\N{MINUS SIGN}1.50 (\N{MINUS SIGN}2.00 to 10,000.00)"),
        (("0.5", "", ""), ("", ""), "0.50 (no interval)"),
        # A lower end that is the value is said once.
        (("-inf", "-inf", "inf"), ("1", "1"), "\N{LESS-THAN OR EQUAL TO}1.00 (no upper end)"),
        (("2", "1.5", "inf"), ("1", "3"), "2.00 (1.50, no upper end)"),
        # A number beyond what is known lies between two.
        (
            *(("23.43", "20.1", "26.24"), ("1", "3")),
            ">3.00, \N{LESS-THAN OR EQUAL TO}23.43 (>3.00 to 26.24)",
        ),
        (("inf", "20.1", "inf"), ("1", "3"), ">3.00 (the whole interval)"),
    ],
)
def test_a_number_and_its_interval_say_what_is_known(
    numbers: tuple[str, ...], bounds: tuple[str, str], shown: str
) -> None:
    keys = ("value", "low", "high", "known_from", "known_to")
    row = dict(zip(keys, (*numbers, *bounds), strict=True))
    assert column_text(row | {"unit": "times"}) == shown


def test_effects_are_told_apart_by_their_names() -> None:
    """Such as the gaps between criteria, and the windows, at several budgets."""
    levels = {"none": 60, "recon_block": 50, "block_3": 45, "recon_all": 52, "all_3": 46}
    levels |= {"full": 48, "full_3": 42, "masklora": 47}
    more: dict[str, Any] = {"criteria": ["magnitude", "wanda", "ria", "sparsegpt"]}
    evidence = make_evidence(levels, seeds=[0, 1, 2], **more)
    records = {
        cell: record
        for cell, record in evidence.records.items()
        if cell.adaptation != "full_3" or cell.seed == 0
    }
    rows = effect_rows(Results(evidence.study, records, Path("nowhere")))
    keys = ("claim", "metric", "measure", "effect", *("criterion", "pattern", "adaptation"))
    names = [tuple(row.get(key) for key in keys) for row in rows]
    assert len(names) == len({*names})
    windows = {row["effect"] for row in rows if row["measure"] == "window_difference"}
    assert windows == {
        f"windows, whole model vs. one block, {n} tokens" for n in ("8,192", "24,576")
    }
    recovered = {row["adaptation"] for row in rows if row["measure"] == "recovery"}
    assert recovered == {"recon_block", "block_3", "recon_all", "full", "masklora"}
    columns = [{key: row.get(key) for key in FIGURE.columns} for row in rows]
    shown = texts_beside(drawn(effects, columns, adaptations=ENTRIES))
    assert shown.count("gap, Wanda vs. RIA") + shown.count("gap, RIA vs. Wanda") == 2
