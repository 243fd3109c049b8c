"""The forest plot: it shows what the audit found, to the last digit."""

import math

import pytest
from matplotlib.figure import Figure

from figure_words import assert_words_inside, drawn
from freelunch.audit import effects
from freelunch.audit.audit import audit_records
from freelunch.audit.effects import SIDES, draw, effect_rows, figures, short_text
from freelunch.records.read import load_records
from freelunch.reporting.drawing.style import CHOSEN, DAGGER
from freelunch.reporting.results import Results
from freelunch.study.study import Study
from records_for_tests import make_study
from repository import ROOT

FIGURE = figures()["effects"]
PALE = "#B0B0B0"


def row_of(**values: str) -> dict[str, str]:
    """Return a row of effects.csv."""
    row = dict.fromkeys(FIGURE.columns, "")
    row |= {"quantity": "loss recovered", "effect": "share", "unit": "share", "claim": "C1"}
    row |= {"model": "tiny", "criterion": "wanda", "pattern": "u50", "seeds": "1"}
    row |= {"threshold": "0.1", "side": "above"}
    return row | {"value": "0.5", "low": "0.4", "high": "0.6", "text": "50 %"} | values


def markers(figure: Figure) -> dict[str, float]:
    """Return where the single marks of a figure stand, by their marker."""
    lines = [line for axes in figure.axes for line in axes.lines]
    return {line.get_marker(): line.get_xdata()[0] for line in lines if len(line.get_xdata()) == 1}


def texts_beside(figure: Figure) -> list[str]:
    return [text.get_text() for axes in figure.axes for text in axes.texts]


def test_the_figure_has_the_numbers_of_the_audit_where_they_are_and_words_apart() -> None:
    study, folder = Study.load(ROOT / "config.yaml"), ROOT / "docs" / "laptop" / "records"
    results = Results(study, load_records(study, folder), folder)
    audited = audit_records(study, results.records, folder)
    found = {
        (claim.id, finding.value, finding.low, finding.high, finding.text)
        for claim in audited.claims
        for part in claim.parts
        for finding in part.findings
        if finding.value is not None
    }
    rows = effect_rows(results)
    keys = ("claim", "value", "low", "high", "text")
    assert {tuple(row[key] for key in keys) for row in rows} == found and len(found) > 10
    columns = [{key: row.get(key) for key in FIGURE.columns} for row in rows]
    figure = drawn(effects, columns, **FIGURE.settings(study))
    shown = [
        line.get_xdata()[0]
        for axes in figure.axes
        for line in axes.lines
        if len(line.get_xdata()) == 1
        and line.get_color() != PALE
        and line.get_marker() not in ("<", ">")
    ]
    scale = {"share": 100.0, "points": 100.0, "times": 1.0, "nats": 1.0}
    values = [scale[row["unit"]] * row["value"] for row in rows]
    assert sorted(shown) == pytest.approx(sorted(values)) and all(map(math.isfinite, shown))
    assert_words_inside(figure)
    for axes in figure.axes:
        boxes = [text.get_window_extent() for text in axes.texts if text.get_text()]
        for index, box in enumerate(boxes):
            assert not box.count_overlaps(boxes[index + 1 :])
    # What all rows of a panel share stands above them.
    heads = [text.get_text() for text in figure.texts]
    at = heads.index("C3: share of the gap between criteria that reconstruction leaves (%)")
    assert heads[at + 1] == "smollm2-135m, 50 % unstructured, reconstruction: one block"
    assert "gap, Magnitude vs. Wanda/RIA/SparseGPT" in texts_beside(figure)


def test_a_choice_on_the_evaluation_text_is_marked() -> None:
    """Also where all numbers of the figure depend on it; the legend explains the mark."""
    searched = {"method": "reconstruction", "learning_rate": [0.1, 0.2]}
    entries = {"usual": searched, "paper": {**searched, "select_on": "evaluation"}}
    settings = FIGURE.settings(make_study(entries, adaptations=["none", *entries]))
    rows = [row_of(adaptation=name) for name in entries]
    for shown, marked in ((rows, 1), (rows[:1], 0), (rows[1:], 1)):
        figure = draw(shown, **settings)
        texts = [*texts_beside(figure), *(text.get_text() for text in figure.texts)]
        assert len([text for text in texts if text.endswith(DAGGER)]) == marked
        assert (CHOSEN in figure.legends[0].get_title().get_text()) == bool(marked)


def test_a_range_has_a_threshold_at_both_ends() -> None:
    figure = draw([row_of(side="within", value="0.05", low="-0.2", high="0.3")], {})
    shown = markers(figure)
    assert shown[SIDES["above"]] == pytest.approx(-10.0)
    assert shown[SIDES["below"]] == pytest.approx(10.0)
    legend = [text.get_text() for text in figure.legends[0].get_texts()]
    assert legend[1:] == ["a claim holds above", "a claim holds below"]
    low, high = figure.axes[0].get_xlim()
    assert low < -10 and high > 10


def test_numbers_that_cannot_be_drawn_as_others_are() -> None:
    """None, one without an interval, one that is infinite, and one that is only a bound."""
    assert "no number of a claim is finite" in draw([], {}).texts[0].get_text()
    figure = draw([row_of(low="", high="")], {})
    assert all(len(line.get_xdata()) == 1 for line in figure.axes[0].lines)
    assert "<" in markers(draw([row_of(value="-inf", low="-inf", high="-inf")], {}))
    bound = {"value": "2", "low": "2", "high": "2", "known_from": "2", "threshold": "5"}
    shown = markers(draw([row_of(unit="times", **bound)], {}))
    assert shown["<"] == 2 and ">" not in shown and shown[SIDES["above"]] == 5


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("-0.12 nats (95 %: -0.20 to 0.04 nats)", "−0.12 (−0.20 to 0.04)"),  # noqa: RUF001
        ("at most 0.25 times (95 %: at most 0.25 to more than 3 times)", "≤0.25 (≤0.25 to >3)"),
        ("74.0 % (no interval)", "74.0 (no interval)"),
    ],
)
def test_a_number_is_short(text: str, shown: str) -> None:
    assert short_text({"text": text}) == shown
