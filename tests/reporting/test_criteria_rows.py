"""Which cells the figure of criteria shows."""

from itertools import product

from freelunch.reporting.cells import criteria_rows


def row(model: str, pattern: str, criterion: str, adaptation: str) -> dict[str, str]:
    return {
        "model": model,
        "pattern": pattern,
        "criterion": criterion,
        "adaptation": adaptation,
    }


def test_only_what_several_criteria_have_is_shown() -> None:
    """Else the figure of the paper's study would be over a metre wide: one criterion has 22
    adaptations there, and each criterion gets room for all that are shown.
    """
    compared = [row("m", "u50", *its) for its in product("ab", ("none", "recon"))]
    dense = row("m", "none", "dense", "none")
    others = [
        row("m", "u50", "a", "recon_all"),
        row("m", "2of4", "a", "recon_all"),
        row("other", "none", "dense", "none"),
        row("other", "u50", "a", "none"),
    ]
    assert criteria_rows([dense, *compared, *others], {}) == [dense, *compared]


def test_all_is_shown_if_criteria_share_no_adaptation() -> None:
    """Otherwise, the figure would have nothing to draw."""
    rows = [row("m", "u50", "a", "none"), row("m", "u50", "b", "recon")]
    assert criteria_rows(rows, {}) == rows
