"""The figure of the criteria: it shows its CSV, byte for byte the same each time."""

import csv
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure

from figure_words import assert_words_inside
from freelunch.audit.page_marks import symbol_id
from freelunch.core.code_digest import SCRIPTS
from freelunch.reporting import labels
from freelunch.reporting.cells import CRITERIA_COLUMNS, means_over_seeds
from freelunch.reporting.drawing import files, marks
from freelunch.reporting.drawing.files import draw_figure
from freelunch.reporting.drawing.style import apart, styled, widen
from freelunch.reporting.figures import criteria
from freelunch.reporting.table import csv_text
from freelunch.study.methods import METHODS
from records_for_tests import PERPLEXITIES, make_records, make_study

ADAPTATIONS = ("none", "recon_block")
FOUR = ["magnitude", "wanda", "ria", "sparsegpt"]
MIXED = {"u50": FOUR, "2of4": FOUR, "s20": ["wanda_sp", "flap"]}
NAMES = ("criteria.png", "criteria.svg", "criteria.pdf")
SETTINGS = {"adaptations": {"recon_block": {"method": "full"}}, "text": "evaluation-text"}
DRAW = """
import sys
from pathlib import Path
from freelunch.reporting.drawing.files import draw_figure
folder = Path(sys.argv[2])
names = sys.argv[3:]
settings = {"adaptations": {"recon_block": {"method": "full"}}, "text": "evaluation-text"}
draw_figure("freelunch.reporting.figures.criteria", Path(sys.argv[1]), settings, [folder / name for name in names])
"""


def write_data(path: Path, perplexities: dict[str, float | None], **grid: list[object]) -> Path:
    means = means_over_seeds(make_records(make_study(**grid), perplexities))
    path.write_text(csv_text(CRITERIA_COLUMNS, means), encoding="utf-8")
    return path


def adaptations_of(names: Sequence[str]) -> Mapping[str, Mapping[str, str]]:
    """Return the adaptations of a config with these names."""
    return {name: {"method": "full"} for name in names if name != "none"}


def registered(*names: str) -> Mapping[str, marks.Mark]:
    """Return the marks of a config with these adaptations."""
    return marks.marks(adaptations_of(names))


def rows_of(data: Path) -> list[dict[str, str]]:
    return list(csv.DictReader(data.read_text().splitlines()))


def figure_of(data: Path, adaptations: tuple[str, ...] = ("recon_block",)) -> Figure:
    with styled():
        figure = criteria.draw(rows_of(data), adaptations_of(adaptations), "evaluation-text")
        figure.draw_without_rendering()
        return figure


def write_grid(
    path: Path,
    grid: Mapping[str, Sequence[str]],
    adaptations: Sequence[str] = ADAPTATIONS,
    value: float = 1234.0,
    spread: float = 3.0,
) -> Path:
    """Write three seeds of each pattern's criteria; all perplexities alike, the hardest case."""
    rows = [",".join(CRITERIA_COLUMNS), "dense,none,tiny,none,1,20.0,1.0,"]
    rows += [
        f"{criterion},{pattern},tiny,{adaptation},3,{value},1.0,{spread}"
        for pattern, names in grid.items()
        for criterion in names
        for adaptation in adaptations
    ]
    path.write_text("\n".join(rows) + "\n")
    return path


def titles_of(figure: Figure) -> list[str]:
    return [axes.get_title(loc="left") for axes in figure.axes]


def criteria_of(axes: Axes) -> list[str]:
    return [label.get_text() for label in axes.get_xticklabels()]


def tops_of(figure: Figure) -> list[float]:
    return [round(axes.get_position().y1, 6) for axes in figure.axes]


def words_of(figure: Figure) -> list[str]:
    return [text.get_text() for axes in figure.axes for text in axes.texts]


def test_drawn_twice_the_files_are_equal_byte_for_byte(tmp_path: Path) -> None:
    data = write_data(tmp_path / "criteria.csv", PERPLEXITIES)
    for seed in ("1", "2"):
        environment = {**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": str(SCRIPTS)}
        command = [sys.executable, "-c", DRAW, str(data), str(tmp_path / seed), *NAMES]
        subprocess.run(command, env=environment, check=True)
    for name in NAMES:
        one, other = (tmp_path / seed / name for seed in ("1", "2"))
        assert one.read_bytes() == other.read_bytes(), name
        assert len(one.read_bytes()) > 5000, name
    assert sorted(path.name for path in (tmp_path / "1").iterdir()) == sorted(NAMES)


def test_all_formats_have_one_layout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    saved, save = [], files.save

    def noted(figure: Figure, path: Path) -> None:
        save(figure, path)
        saved.append([axes.get_position().bounds for axes in figure.axes])

    monkeypatch.setattr(files, "save", noted)
    data = write_data(tmp_path / "criteria.csv", PERPLEXITIES)
    draw_figure(
        "freelunch.reporting.figures.criteria", data, SETTINGS, [tmp_path / name for name in NAMES]
    )
    assert saved == len(NAMES) * saved[:1]


@pytest.mark.parametrize("name", NAMES)
def test_files_hold_no_date(tmp_path: Path, name: str) -> None:
    data = write_data(tmp_path / "criteria.csv", PERPLEXITIES)
    draw_figure("freelunch.reporting.figures.criteria", data, SETTINGS, [tmp_path / name])
    content = (tmp_path / name).read_bytes()
    for word in (b"CreationDate", b"dc:date", b"Software"):
        assert word not in content


def test_panel_shows_every_value_and_the_dense_line(tmp_path: Path) -> None:
    figure = figure_of(write_data(tmp_path / "criteria.csv", PERPLEXITIES))
    (axes,) = figure.axes
    assert sorted(words_of(figure)) == ["144", "307", "39.0", "46.0", "dense\n20.5"]
    assert axes.get_yscale() == "log"
    assert axes.get_title(loc="left") == "tiny, 50 % unstructured"
    assert [label.get_text() for label in axes.get_xticklabels()] == ["Magnitude", "Wanda"]
    ticks = [label.get_text() for label in axes.get_yticklabels()]
    assert {"20", "50", "100", "200"} <= set(ticks)


def test_axis_is_linear_where_perplexities_are_close(tmp_path: Path) -> None:
    close = {str(cell): 20.0 + index for index, cell in enumerate(make_study().cells)}
    figure = figure_of(write_data(tmp_path / "criteria.csv", close))
    assert figure.axes[0].get_yscale() == "linear"


def test_error_bars_are_those_of_the_data(tmp_path: Path) -> None:
    data = write_data(tmp_path / "criteria.csv", PERPLEXITIES)
    expected = sorted(
        (point.perplexity - point.error, point.perplexity + point.error)
        for point in map(criteria.Point.of, rows_of(data))
        if point.criterion != "dense" and point.perplexity and point.error
    )
    axes = figure_of(data).axes[0]
    drawn = sorted(
        tuple(segment[:, 1])
        for bars in axes.collections
        if isinstance(bars, LineCollection)
        for segment in bars.get_segments()
    )
    assert len(drawn) == 4
    for (low, high), (expected_low, expected_high) in zip(drawn, expected, strict=True):
        assert (low, high) == pytest.approx((expected_low, expected_high))


def test_perplexity_that_is_not_finite_is_said(tmp_path: Path) -> None:
    none = "tiny/magnitude-u50/none/seed0"
    figure = figure_of(write_data(tmp_path / "criteria.csv", {**PERPLEXITIES, none: None}))
    assert words_of(figure).count("not finite") == 1


def test_adaptation_none_of_whose_numbers_is_finite_stays_in_the_legend(tmp_path: Path) -> None:
    none = {f"tiny/{criterion}-u50/none/seed0": None for criterion in ("magnitude", "wanda")}
    figure = figure_of(write_data(tmp_path / "criteria.csv", {**PERPLEXITIES, **none}))
    assert words_of(figure).count("not finite") == 2
    assert [text.get_text() for text in figure.legends[0].get_texts()] == [
        "not adapted",
        "retraining: all weights",
    ]


def test_a_panel_for_each_model_and_pattern(tmp_path: Path) -> None:
    data = write_data(
        tmp_path / "criteria.csv", {}, models=["tiny", "tiny-2"], patterns=["u50", "u60"]
    )
    assert titles_of(figure_of(data)) == [
        "tiny, 50 % unstructured",
        "60 % unstructured",
        "tiny-2, 50 % unstructured",
        "60 % unstructured",
    ]


def test_panel_has_only_the_criteria_of_its_pattern(tmp_path: Path) -> None:
    figure = figure_of(write_grid(tmp_path / "criteria.csv", MIXED))
    # Another figure may show the same cells of one seed.
    patterns = ("50 % unstructured", "2:4", "20 % structured")
    assert titles_of(figure) == [f"tiny, {each}\nmean of 3 seeds" for each in patterns]
    four = ["Magnitude", "Wanda", "RIA", "SparseGPT"]
    assert [criteria_of(axes) for axes in figure.axes] == [four, four, ["Wanda-sp", "FLAP"]]
    wide, as_wide, narrow = (axes.get_position().width for axes in figure.axes)
    assert wide == pytest.approx(as_wide)
    assert narrow < 0.6 * wide


def test_a_model_has_only_the_panels_of_its_patterns(tmp_path: Path) -> None:
    data = write_data(tmp_path / "criteria.csv", PERPLEXITIES)
    row = "wanda,u60,tiny-2,none,1,40.0,1.0,\n"
    data.write_text(data.read_text() + "dense,none,tiny-2,none,1,20.0,1.0,\n" + row)
    figure = figure_of(data)
    assert titles_of(figure) == ["tiny, 50 % unstructured", "tiny-2, 60 % unstructured"]
    assert criteria_of(figure.axes[1]) == ["Wanda"]


@pytest.mark.parametrize("criteria_count", [1, 2, 4, 6])
def test_no_row_is_wider_than_a_page(tmp_path: Path, criteria_count: int) -> None:
    names = [f"criterion{index}" for index in range(criteria_count)]
    grid = dict.fromkeys(("u50", "u60", "u70", "2of4", "s20"), names)
    figure = figure_of(write_grid(tmp_path / "criteria.csv", grid))
    tops = tops_of(figure)
    assert len(tops) == 5
    assert max(tops.count(top) for top in tops) == {1: 3, 2: 2, 4: 1, 6: 1}[criteria_count]
    assert figure.get_size_inches()[0] < 7
    # The first of a row has the model's name and the numbers of the scale.
    first = [index for index, top in enumerate(tops) if tops.index(top) == index]
    named = [index for index, title in enumerate(titles_of(figure)) if title.startswith("tiny, ")]
    assert named == first
    labelled = [index for index, axes in enumerate(figure.axes) if axes.get_ylabel()]
    assert labelled == first
    assert len({axes.get_ylim() for axes in figure.axes}) == 1, "scales differ"


@pytest.mark.parametrize("adaptations", [("none",), ADAPTATIONS, (*ADAPTATIONS, "recon_attn")])
def test_values_names_and_titles_do_not_overlap(
    tmp_path: Path, adaptations: tuple[str, ...]
) -> None:
    grid = {**MIXED, "u60": ["magnitude", "wanda", "ria", "sparsegpt", "random", "wanda_row"]}
    data = write_grid(tmp_path / "criteria.csv", grid, adaptations)
    figure = figure_of(data, adaptations)
    assert_words_inside(figure)
    for axes in figure.axes:
        names = [label.get_window_extent() for label in axes.get_xticklabels()]
        values = [text.get_window_extent() for text in axes.texts if "dense" not in text.get_text()]
        assert len(values) == len(names) * len(adaptations)
        for boxes in (names, values):
            for index, box in enumerate(boxes):
                assert not box.count_overlaps(boxes[index + 1 :])
    titles = [axes._left_title.get_window_extent() for axes in figure.axes]
    for index, title in enumerate(titles):
        assert not title.count_overlaps(titles[index + 1 :])


def test_highest_bar_is_inside(tmp_path: Path) -> None:
    data = tmp_path / "criteria.csv"
    write_grid(data, {"u50": ["wanda"]}, value=40.0, spread=35.0)
    (axes,) = figure_of(data).axes
    assert axes.get_ylim()[1] > 75


def test_lowest_bar_is_inside(tmp_path: Path) -> None:
    data = tmp_path / "criteria.csv"
    write_grid(data, {"u50": ["wanda"]}, value=40.0, spread=15.0)
    (axes,) = figure_of(data).axes
    assert axes.get_ylim()[0] < 25


def test_seeds_are_explained_only_where_there_are_several(tmp_path: Path) -> None:
    one = figure_of(write_data(tmp_path / "one.csv", PERPLEXITIES))
    two = figure_of(write_data(tmp_path / "two.csv", {}, seeds=[0, 1]))
    assert "seeds" not in one.legends[0].get_title().get_text()
    assert "standard deviation over seeds" in two.legends[0].get_title().get_text()


def test_an_adaptation_looks_the_same_whatever_else_is_shown() -> None:
    all_of_them = registered("one", "two", "three")
    assert all_of_them["two"] == registered("one", "two")["two"]
    assert all_of_them["none"] == registered()["none"]


def test_what_an_adaptation_is_has_one_colour_in_every_study() -> None:
    block, full = {"method": "reconstruction", "window": 1}, {"method": "full"}
    one = marks.marks({"a": block, "b": full})
    other = marks.marks(
        {"c": {"method": "lora"}, "d": full, "e": {**full, "samples": 8}, "f": block}
    )
    assert one["a"].colour == other["f"].colour
    assert one["b"].colour == other["d"].colour == other["e"].colour != one["a"].colour


def test_no_two_sorts_of_windows_share_a_colour_nor_does_retraining_that_of_a_block() -> None:
    windows = ["matrix", "attention_mlp", 1, 2, 5, "all"]
    looks = marks.marks({str(it): {"method": "reconstruction", "window": it} for it in windows})
    assert len({look.colour for look in looks.values()}) == len(windows) + 1
    retraining = marks.marks({name: {"method": name} for name in METHODS})
    colours = {look.colour for name, look in retraining.items() if name != "none"}
    assert looks["1"].colour not in colours and len(colours) == 5


def test_marks_differ_in_grey_too() -> None:
    windows: list[str | int] = ["matrix", "attention_mlp", 1, 2, 5, 10, "all", "auto"]
    kinds: dict[str, dict[str, object]] = {
        **{str(it): {"method": "reconstruction", "window": it} for it in windows},
        "exact": {"method": "least_squares"},
        **{name: {"method": name} for name in METHODS},
    }
    changed = {f"{name}_bf16": {**it, "precision": "bfloat16"} for name, it in kinds.items()}
    looks = marks.marks(kinds | changed).values()
    # Colour apart: of two with one marker and filling, one is a variant of another kind.
    plain = [(look.marker, look.fill == "none") for look in looks if look.fill in ("full", "none")]
    assert len(set(plain)) == len(plain)
    assert len({(look.colour, look.marker, look.fill) for look in looks}) == len(looks)


def test_sixteen_variants_of_one_kind_differ_without_their_lines() -> None:
    """As points have none: the fifth variant of one block once looked like the first."""
    block = {"method": "reconstruction", "window": 1}
    variants = {str(it): {**block, "momentum": it} for it in range(17)}
    looks = [look for name, look in marks.marks(variants).items() if name != "none"]
    assert len({str(sorted(look.points.items())) for look in looks}) == len(looks)
    assert len({symbol_id(look) for look in looks}) == len(looks)


def test_an_amount_of_text_changes_the_label_and_not_the_mark() -> None:
    full = {"method": "full", "learning_rate": 1e-3}
    more = {**full, "learning_rate": 1e-4, "budget": {"times": 10.0, "of": "recon"}}
    distilled = {**full, "loss": "distillation"}
    looks = marks.marks({"full_10": more, "full": full, "full_distilled": distilled})
    assert looks["full"].points == looks["full_10"].points
    assert looks["full_distilled"].points != looks["full"].points
    assert [looks[name].label for name in ("full", "full_10", "full_distilled")] == [
        "retraining: all weights",
        "retraining: all weights, 10 \N{MULTIPLICATION SIGN} tokens",
        "retraining: all weights, distilled",
    ]
    assert looks["full_10"].series == "retraining: all weights"


def test_what_words_do_not_tell_apart_also_has_its_name() -> None:
    full = {"method": "full", "learning_rate": 1e-3}
    twice = {"a": full, "b": {**full, "learning_rate": 1e-4}}
    assert labels.adaptation_labels(twice)["b"] == "retraining: all weights (b)"


@pytest.mark.parametrize(
    ("pattern", "label"),
    [
        ("u50", "50 % unstructured"),
        ("2of4", "2:4"),
        ("4of8", "4:8"),
        ("1of4", "3:4"),
        ("s20", "20 % structured"),
    ],
)
def test_patterns_are_named_for_people(pattern: str, label: str) -> None:
    assert labels.pattern_label(pattern) == label


def test_failed_saving_leaves_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        (tmp_path / ".criteria.png.part").write_bytes(b"half")
        raise OSError("no space")

    monkeypatch.setattr(Figure, "savefig", fail)
    data = write_data(tmp_path / "criteria.csv", PERPLEXITIES)
    with pytest.raises(OSError, match="no space"):
        draw_figure(
            "freelunch.reporting.figures.criteria", data, SETTINGS, [tmp_path / "criteria.png"]
        )
    assert [path.name for path in tmp_path.iterdir()] == ["criteria.csv"]


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
