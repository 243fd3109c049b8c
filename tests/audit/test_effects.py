"""The forest plot: it shows what the audit found, to the last digit."""

import math
import re
from pathlib import Path

import pytest
from matplotlib.figure import Figure
from matplotlib.markers import CARETLEFTBASE, CARETRIGHTBASE

from figure_words import assert_words_inside
from freelunch.audit.audit import audit_records
from freelunch.audit.drawing.effects import draw
from freelunch.audit.drawing.numbers import column_text
from freelunch.audit.effects import effect_rows
from freelunch.audit.figures import figures
from freelunch.records.read import load_records
from freelunch.reporting.drawing.style import CHOSEN, DAGGER, styled
from freelunch.reporting.results import Results
from freelunch.study.cell import NONE
from freelunch.study.study import Study
from records_for_tests import make_records, make_study
from repository import ROOT

RECORDS = ROOT / "docs" / "laptop" / "records"


@pytest.fixture(scope="module")
def study() -> Study:
    return Study.load(ROOT / "config.yaml")


@pytest.fixture(scope="module")
def results(study: Study) -> Results:
    return Results(study, load_records(study, RECORDS), RECORDS)


@pytest.fixture(scope="module")
def drawn(study: Study, results: Results) -> Figure:
    effects = figures()["effects"]
    rows = [
        {key: written(row.get(key)) for key in effects.columns} for row in effects.rows(results)
    ]
    with styled():
        figure = draw(rows, **effects.settings(study))
        figure.draw_without_rendering()
    return figure


def written(value: object) -> str:
    return "" if value is None else str(value)


def test_an_adaptation_without_the_pruned_model_recovers_nothing_that_is_known(
    study: Study, results: Results
) -> None:
    adapted = {
        cell: record
        for cell, record in results.records.items()
        if cell.adaptation != "none" or cell.is_dense
    }
    rows = effect_rows(Results(study, adapted, RECORDS))
    assert not [row for row in rows if row["measure"] == "recovery"]


def test_every_number_of_the_audit_is_an_effect_but_what_was_planned(
    study: Study, results: Results
) -> None:
    audited = audit_records(study, results.records, RECORDS)
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
    of_wanda = [row["adaptation"] for row in recovered if row["criterion"] == "wanda"]
    windows = {"recon_block", "recon_matrix", "recon_attention_mlp", "recon_5", "recon_all"}
    assert set(of_wanda) == {*windows, "masklora", "full"}
    # With one seed, the value is the ratio of mean losses, as the summary has them.
    losses = {
        row["adaptation"]: row["loss_minus_dense"]
        for row in results.cells
        if (row["criterion"], row["seed"]) == ("wanda", 0)
    }
    for row in recovered:
        if row["criterion"] == "wanda":
            share = 1 - losses[row["adaptation"]] / losses["none"]
            assert row["value"] == pytest.approx(share)
            assert row["low"] < row["value"] < row["high"]


def test_an_effect_of_several_adaptations_may_stand_beside_those_of_one(
    study: Study, results: Results
) -> None:
    """Such as a comparison of two models beside those of one."""
    effects = figures()["effects"]
    rows = [
        {key: written(row.get(key)) for key in effects.columns}
        for row in effects.rows(results)
        if row["measure"] == "recovery"
    ]
    rows[-1]["adaptation"] = ""
    drawn = draw(rows, **effects.settings(study))
    assert "several adaptations" in [text.get_text() for text in drawn.axes[0].texts]


def test_a_choice_on_the_evaluation_text_is_marked() -> None:
    """Also where all numbers of the figure depend on it; the legend explains the mark."""
    searched = {"method": "reconstruction", "learning_rate": [0.1, 0.2]}
    entries = {"usual": searched, "paper": {**searched, "select_on": "evaluation"}}
    study = make_study(entries, adaptations=["none", *entries])
    rows = [row_of(adaptation=name) for name in entries]
    drawn = draw(rows, **figures()["effects"].settings(study))
    texts = [text.get_text() for text in drawn.axes[0].texts]
    assert len([text for text in texts if text.endswith(DAGGER)]) == 1
    (legend,) = drawn.legends
    assert CHOSEN in legend.get_title().get_text()
    for row, marked in zip(rows, (False, True), strict=True):
        drawn = draw([row], **figures()["effects"].settings(study))
        texts = [text.get_text() for text in drawn.axes[0].texts]
        assert any(text.endswith(DAGGER) for text in texts) == marked
        assert (CHOSEN in drawn.legends[0].get_title().get_text()) == marked


def test_effects_that_are_not_finite_are_drawn_at_the_edge(study: Study, results: Results) -> None:
    """As of an adaptation whose perplexity is infinite, alone in its panel."""
    effects = figures()["effects"]
    row = next(row for row in effects.rows(results) if row["measure"] == "recovery")
    written_row = {key: written(row.get(key)) for key in effects.columns}
    written_row |= dict.fromkeys(("value", "low", "high"), "-inf") | {"threshold": ""}
    drawn = draw([written_row], **effects.settings(study))
    (axes,) = drawn.axes
    assert "<" in [line.get_marker() for line in axes.lines]


def row_of(**values: str) -> dict[str, str]:
    """Return a row of effects.csv."""
    row = dict.fromkeys(figures()["effects"].columns, "")
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


def test_intervals_of_one_seed_are_told_from_those_of_several() -> None:
    rows = [row_of(effect="one"), row_of(effect="three", seeds="3")]
    both = draw(rows, {})
    assert sorted(dashes(both).values()) == [False, True]
    assert legend_texts(both) == ["one seed: others may differ", "several seeds"]
    assert legend_texts(draw(rows[1:], {})) == ["several seeds"]


def test_a_range_has_a_threshold_at_both_ends() -> None:
    figure = draw(
        [row_of(threshold="0.1", side="within", value="0.05", low="-0.2", high="0.3")], {}
    )
    (axes,) = figure.axes
    found = {
        line.get_marker(): line.get_xdata()[0]
        for line in axes.lines
        if line.get_color() == "#B0B0B0"
    }
    assert found == {CARETRIGHTBASE: pytest.approx(-10.0), CARETLEFTBASE: pytest.approx(10.0)}
    assert legend_texts(figure)[1:] == ["a claim holds above", "a claim holds below"]
    low, high = axes.get_xlim()
    assert low < -10 and high > 10


def test_an_effect_that_no_claim_asks_about_has_a_name(study: Study, results: Results) -> None:
    """Also where it is the only one: matplotlib cannot draw a label without a letter."""
    assert {row["effect"] for row in effect_rows(results) if row["measure"] == "recovery"} == {
        "loss recovered"
    }
    (axes,) = draw([row_of(effect="loss recovered")], {}).axes
    assert "loss recovered" in [text.get_text() for text in axes.texts]
    draw([row_of(effect="")], {})


def test_a_number_without_an_interval_is_drawn_without_one() -> None:
    figure = draw([row_of(low="", high="", text="50 % (no interval)")], {})
    assert dashes(figure) == {} and legend_texts(figure) == []
    texts = [text.get_text() for axes in figure.axes for text in axes.texts]
    assert "50.0 (no interval)" in texts


def test_a_row_is_drawn_at_its_number(results: Results, drawn: Figure) -> None:
    marks = [
        line.get_xdata()[0]
        for axes in drawn.axes
        for line in axes.lines
        if len(line.get_xdata()) == 1
        and line.get_color() != "#B0B0B0"
        and line.get_marker() not in ("<", ">")
    ]
    scale = {"share": 100.0, "points": 100.0, "times": 1.0, "nats": 1.0}
    values = [scale[row["unit"]] * row["value"] for row in effect_rows(results)]
    assert sorted(marks) == pytest.approx(sorted(values))
    assert all(map(math.isfinite, marks))


def test_all_numbers_of_a_panel_have_equal_decimals(drawn: Figure) -> None:
    assert any("95 % interval" in text.get_text() for text in drawn.texts)
    for axes in drawn.axes:
        texts = [text.get_text() for text in axes.texts]
        numbers = [
            found for text in texts for found in re.findall(r"\d+\.(\d+)(?: to| \(|\)|$)", text)
        ]
        assert len(set(map(len, numbers))) == 1


def test_words_stay_inside_and_apart(drawn: Figure) -> None:
    assert_words_inside(drawn)
    for axes in drawn.axes:
        texts = [text for text in axes.texts if text.get_text()]
        assert texts
        boxes = [text.get_window_extent() for text in texts]
        for index, box in enumerate(boxes):
            assert not box.count_overlaps(boxes[index + 1 :]), texts[index].get_text()
    labels = [text.get_text() for axes in drawn.axes for text in axes.texts]
    assert "Wanda, 50 % unstructured" in labels and "wanda" not in " ".join(labels)


def test_adaptations_and_open_intervals_are_said_in_words() -> None:
    kept = Study.load(ROOT / "studies" / "full.yaml")
    records = ROOT / "docs" / "full" / "records"
    rows = effect_rows(Results(kept, load_records(kept, records), records))
    budgets = [row for row in rows if row["measure"] == "budget_ratio"]
    assert "tokens, held out: one block, 3 \N{MULTIPLICATION SIGN} tokens" in [
        row["effect"] for row in budgets
    ]
    assert not [row["effect"] for row in rows if "recon_" in row["effect"]]
    gaps = {row["effect"]: row["measure"] for row in rows if row["effect"].startswith("gap,")}
    assert gaps["gap, Magnitude vs. Wanda/RIA/SparseGPT"] == "gap_left"
    assert gaps["gap, RIA vs. Wanda"] == "gap_growth"
    numbers = [column_text({key: written(it) for key, it in row.items()}) for row in budgets]
    assert not [number for number in numbers if " to >" in number]
    assert any(number.endswith("no upper end)") for number in numbers), numbers


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
            ("23.43", "20.1", "26.24"),
            ("1", "3"),
            ">3.00, \N{LESS-THAN OR EQUAL TO}23.43 (>3.00 to 26.24)",
        ),
        (("inf", "20.1", "inf"), ("1", "3"), ">3.00 (the whole interval)"),
    ],
)
def test_a_number_and_its_interval_say_what_is_known(
    numbers: tuple[str, ...], bounds: tuple[str, str], shown: str
) -> None:
    row = dict(zip(("value", "low", "high"), numbers, strict=True))
    row |= dict(zip(("known_from", "known_to"), bounds, strict=True)) | {"unit": "times"}
    assert column_text(row) == shown


def test_without_effects_it_names_the_missing_cells(study: Study) -> None:
    config = study.as_json()
    for grid in config["study"]["grids"]:
        grid["adaptations"] = ["recon_block"]
    lacking = Study.check(config, "config.yaml")
    settings = figures()["effects"].settings(lacking)
    said = draw([], **settings).texts[0].get_text()
    assert "smollm2-135m/wanda-u50/none/seed0" in said
    assert figures()["effects"].settings(study)["missing"] == []
    assert "no effect of this study has a finite interval" in draw([], {}).texts[0].get_text()


def test_effects_are_told_apart_by_their_names() -> None:
    """Such as the gaps between criteria, and the windows, at several budgets."""
    block = {"method": "reconstruction", "train_norms": False}
    three = {"budget": {"times": 3, "of": "recon_block"}}
    entries = {
        "recon_3": {**block, **three},
        "recon_all": {**block, "window": "all"},
        "recon_all_3": {**block, "window": "all", **three},
        "full_1": {"method": "full", "budget": {"times": 1, "of": "recon_block"}},
        "full_3": {"method": "full", **three},
        "masklora": {"method": "masklora"},
    }
    study = make_study(
        {**entries, "recon_block": block},
        {"ria": {"score": "ria"}, "sparsegpt": {"score": "sparsegpt"}},
        criteria=["magnitude", "wanda", "ria", "sparsegpt"],
        adaptations=["none", "recon_block", *entries],
        seeds=[0, 1, 2],
    )
    levels = {"none": 60, "recon_block": 50, "recon_3": 45, "recon_all": 52, "recon_all_3": 46}
    levels |= {"full_1": 48, "full_3": 42, "masklora": 47}
    values = {str(it): 20.0 if it.is_dense else levels.get(it.adaptation) for it in study.cells}
    records = {
        cell: record
        for cell, record in make_records(study, values).items()
        if cell.adaptation != "full_3" or cell.seed == 0
    }
    rows = effect_rows(Results(study, records, Path("nowhere")))
    keys = ("claim", "metric", "measure", "effect", *("criterion", "pattern", "adaptation"))
    names = [tuple(row.get(key) for key in keys) for row in rows]
    assert len(names) == len({*names})
    windows = {row["effect"] for row in rows if row["measure"] == "window_difference"}
    assert windows == {
        f"windows, whole model vs. one block, {n} tokens" for n in ("8,192", "24,576")
    }
    recovered = {row["adaptation"] for row in rows if row["measure"] == "recovery"}
    assert recovered == {"recon_block", "recon_3", "recon_all", "full_1", "masklora"}
    figure = draw(
        [{key: written(row.get(key)) for key in figures()["effects"].columns} for row in rows],
        study.as_json()["adaptations"],
    )
    shown = [text.get_text() for axes in figure.axes for text in axes.texts]
    assert shown.count("gap, Wanda vs. RIA") + shown.count("gap, RIA vs. Wanda") == 2
