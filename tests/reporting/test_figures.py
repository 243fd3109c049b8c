"""All figures: which a study has, how they are saved, and how adaptations look in them."""

import importlib
import os
import subprocess
import sys
from pathlib import Path

import pytest
from matplotlib.figure import Figure

from freelunch.audit.effects import figures, figures_of
from freelunch.core.code_digest import SCRIPTS
from freelunch.reporting.cells import CRITERIA_COLUMNS, means_over_seeds
from freelunch.reporting.drawing import adaptation_looks
from freelunch.reporting.drawing.style import apart, draw_figure, widen
from freelunch.reporting.formatting import pattern_label
from freelunch.reporting.results import csv_text
from freelunch.study.methods import METHODS
from freelunch.study.study import Study
from records_for_tests import PERPLEXITIES, make_records, make_study
from repository import ROOT

NAMES = ("criteria.png", "criteria.svg", "criteria.pdf")
CRITERIA = "freelunch.reporting.figures.perplexity_by_criterion"
SETTINGS = {"adaptations": {"recon_block": {"method": "full"}}, "text": "evaluation-text"}
DRAW = f"""
import sys
from pathlib import Path
from freelunch.reporting.drawing.style import draw_figure
outputs = [Path(sys.argv[2]) / name for name in {NAMES}]
draw_figure("{CRITERIA}", Path(sys.argv[1]), {SETTINGS}, outputs)
"""


BLOCK = {"method": "reconstruction", "window": 1}
FULL = {"method": "full"}


# --- Which figures


def names(study: Study) -> str:
    return " ".join(figure.name for figure in figures_of(study))


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("config.yaml", "budgets criteria effects windows"),
        ("studies/retraining.yaml", "budgets effects"),
        ("studies/criteria.yaml", "criteria effects"),
        (
            "studies/budgets.yaml",
            "budgets criteria criteria_budgets effects windows",
        ),
        ("studies/paper.yaml", "budgets criteria effects windows"),
    ],
)
def test_figures_of_the_studies_of_this_repository(source: str, expected: str) -> None:
    assert names(Study.load(Path(source), ROOT)) == expected


@pytest.mark.parametrize(
    ("expected", "grid"),
    [
        ("criteria", {"adaptations": "none"}),
        ("effects windows", {"adaptations": "none recon_block recon_all"}),
        ("budgets effects", {"adaptations": "none recon_block full"}),
        (
            "criteria effects windows",
            {"criteria": "wanda magnitude", "adaptations": "none recon_block recon_all"},
        ),
        ("criteria effects", {"models": "tiny tiny-2"}),
    ],
)
def test_one_criterion_is_compared_with_nothing(expected: str, grid: dict[str, str]) -> None:
    """The figure of criteria gives way to a comparison, and is there where there is none."""
    more = {"recon_all": {**BLOCK, "window": "all"}, "full": FULL}
    choices = {key: values.split() for key, values in {"criteria": "wanda", **grid}.items()}
    assert names(make_study(more, **choices)) == expected


# --- Files


@pytest.fixture
def data(tmp_path: Path) -> Path:
    path = tmp_path / "criteria.csv"
    means = means_over_seeds(make_records(make_study(), PERPLEXITIES))
    path.write_text(csv_text(CRITERIA_COLUMNS, means), encoding="utf-8")
    return path


def test_drawn_twice_the_files_are_equal_byte_for_byte_and_hold_no_date(
    tmp_path: Path, data: Path
) -> None:
    for seed in ("1", "2"):
        environment = {**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": str(SCRIPTS)}
        command = [sys.executable, "-c", DRAW, str(data), str(tmp_path / seed)]
        subprocess.run(command, env=environment, check=True)
    for name in NAMES:
        one, other = ((tmp_path / seed / name).read_bytes() for seed in ("1", "2"))
        assert one == other and len(one) > 5000, name
        assert not any(word in one for word in (b"CreationDate", b"dc:date", b"Software"))
    assert sorted(path.name for path in (tmp_path / "1").iterdir()) == sorted(NAMES)


@pytest.mark.parametrize("name", sorted(figures().keys() - {"criteria"}))
def test_a_figure_of_nothing_says_so(tmp_path: Path, name: str) -> None:
    """The config may compare what the records, in the end, do not; but a study has cells."""
    figure = figures()[name]
    module = importlib.import_module(figure.drawing)
    empty = module.draw([], **figure.settings(make_study()))
    assert not empty.axes and empty.texts[0].get_text().split()
    path = tmp_path / "data.csv"
    path.write_text(csv_text(figure.columns, []))
    draw_figure(figure.drawing, path, figure.settings(make_study()), [tmp_path / "figure.png"])
    assert (tmp_path / "figure.png").stat().st_size > 1000


# --- Looks


def test_an_adaptation_has_one_look_in_every_study() -> None:
    one = adaptation_looks.marks({"a": BLOCK, "b": FULL})
    other = adaptation_looks.marks(
        {"c": {"method": "lora"}, "b": FULL, "e": {**FULL, "samples": 8}, "f": BLOCK}
    )
    assert one["none"] == other["none"] == adaptation_looks.marks({})["none"]
    assert one["a"].points == other["f"].points
    assert one["b"].points == other["b"].points == other["e"].points != one["a"].points


def test_no_two_sorts_of_windows_share_a_colour_nor_does_retraining_that_of_a_block() -> None:
    windows = ["matrix", "attention_mlp", 1, 2, 5, "all"]
    looks = adaptation_looks.marks({str(each): {**BLOCK, "window": each} for each in windows})
    assert len({look.colour for look in looks.values()}) == len(looks)
    retraining = adaptation_looks.marks({name: {"method": name} for name in METHODS})
    colours = {look.colour for name, look in retraining.items() if name != "none"}
    assert looks["1"].colour not in colours and len(colours) == 5


def test_marks_differ_in_grey_too() -> None:
    windows: list[str | int] = ["matrix", "attention_mlp", 1, 2, 5, 10, "all", "auto"]
    kinds: dict[str, dict[str, object]] = {
        **{str(window): {**BLOCK, "window": window} for window in windows},
        "exact": {"method": "least_squares"},
        **{name: {"method": name} for name in METHODS},
    }
    changed = {f"{name}_bf16": {**kind, "precision": "bfloat16"} for name, kind in kinds.items()}
    looks = adaptation_looks.marks(kinds | changed).values()
    # Colour apart: of two with one marker and filling, one is a variant of another kind.
    plain = [(look.marker, look.fill == "none") for look in looks if look.fill in ("full", "none")]
    assert len(set(plain)) == len(plain)
    assert len({(look.colour, look.marker, look.fill) for look in looks}) == len(looks)


def test_sixteen_variants_of_one_kind_differ_without_their_lines() -> None:
    """As points have none: the fifth variant of one block once looked like the first."""
    variants = adaptation_looks.marks(
        {str(number): {**BLOCK, "momentum": number} for number in range(17)}
    )
    points = {str(sorted(look.points.items())) for look in variants.values()}
    assert len(points) == len(variants)


def test_an_amount_of_text_changes_the_label_and_not_the_mark() -> None:
    full = {**FULL, "learning_rate": 1e-3}
    more = {**full, "learning_rate": 1e-4, "budget": {"times": 10.0, "of": "recon"}}
    distilled = {**full, "loss": "distillation"}
    looks = adaptation_looks.marks({"full_10": more, "full": full, "full_distilled": distilled})
    assert looks["full"].points == looks["full_10"].points
    assert looks["full_distilled"].points != looks["full"].points
    assert [looks[name].label for name in ("full", "full_10", "full_distilled")] == [
        "retraining: all weights",
        "retraining: all weights, 10 \N{MULTIPLICATION SIGN} tokens",
        "retraining: all weights, distilled",
    ]
    assert looks["full_10"].series == "retraining: all weights"
    # Budgets are named where they differ.
    small, large = {**BLOCK, "budget": {"tokens": 16384}}, {**BLOCK, "budget": {"tokens": 65536}}
    other = {**small, "window": "matrix"}
    labels = adaptation_looks.adaptation_labels({"small": small, "large": large, "matrix": other})
    assert [labels[name].split(": ")[1] for name in ("small", "large", "matrix")] == [
        "one block, 16,384 tokens",
        "one block, 65,536 tokens",
        "single matrices",
    ]
    # What words do not tell apart also has its name.
    twice = {"a": full, "b": {**full, "learning_rate": 1e-4}}
    assert adaptation_looks.adaptation_labels(twice)["b"] == "retraining: all weights (b)"


def test_patterns_are_named_for_people() -> None:
    named = {"u50": "50 % unstructured", "2of4": "2:4", "1of4": "3:4", "s20": "20 % structured"}
    assert {pattern: pattern_label(pattern) for pattern in named} == named


# --- Parts


@pytest.mark.parametrize(
    ("places", "moved"),
    [
        ([0.2, 0.5, 0.9], [0.2, 0.5, 0.9]),
        ([0.5, 0.5], [0.45, 0.55]),
        ([0.1, 0.5, 0.52, 0.54, 0.9], [0.1, 0.42, 0.52, 0.62, 0.9]),
        ([], []),
    ],
)
def test_labels_move_apart_by_as_little_as_possible(
    places: list[float], moved: list[float]
) -> None:
    assert apart(places, 0.1) == pytest.approx(moved)


@pytest.mark.parametrize(("values", "wide"), [((0.4275, 0.4292), True), ((0.5, 2.9), False)])
def test_megabytes_do_not_fill_a_panel_of_memory(values: tuple[float, float], wide: bool) -> None:
    """Ticks of five digits would overlap, and noise would look like a trend."""
    axes = Figure().subplots()
    axes.plot(values, (0, 1))
    before = axes.get_xlim()
    widen(axes)
    low, high = axes.get_xlim()
    assert ((low, high) != before) == wide
    assert high - low > 0.15 * high and low + high == pytest.approx(sum(before))
