"""The figure of the criteria: it shows its CSV, byte for byte the same each time."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure

from freelunch.digest import SCRIPTS
from freelunch.figures import criteria, style
from freelunch.tables import CRITERIA_COLUMNS, csv_text, means_over_seeds
from records_for_tests import PERPLEXITIES, make_records, make_study

NAMES = ("criteria.png", "criteria.svg", "criteria.pdf")
DRAW = """
import sys
from pathlib import Path
from freelunch.figures.criteria import draw_criteria
folder = Path(sys.argv[2])
names = sys.argv[3:]
draw_criteria(Path(sys.argv[1]), ["recon_block"], "evaluation-text", [folder / n for n in names])
"""


def write_data(path: Path, perplexities: dict[str, float | None], **grid: list[object]) -> Path:
    means = means_over_seeds(make_records(make_study(**grid), perplexities))
    path.write_text(csv_text(CRITERIA_COLUMNS, means), encoding="utf-8")
    return path


def figure_of(data: Path, adaptations: tuple[str, ...] = ("recon_block",)) -> Figure:
    with style.styled():
        points = criteria.read_points(data)
        figure = criteria.criteria_figure(points, style.marks(adaptations), "evaluation-text")
        figure.canvas.draw()
        return figure


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


@pytest.mark.parametrize("name", NAMES)
def test_files_hold_no_date(tmp_path: Path, name: str) -> None:
    data = write_data(tmp_path / "criteria.csv", PERPLEXITIES)
    criteria.draw_criteria(data, ["recon_block"], "evaluation-text", [tmp_path / name])
    content = (tmp_path / name).read_bytes()
    for word in (b"CreationDate", b"dc:date", b"Software"):
        assert word not in content


def test_panel_shows_every_value_and_the_dense_line(tmp_path: Path) -> None:
    figure = figure_of(write_data(tmp_path / "criteria.csv", PERPLEXITIES))
    (axes,) = figure.axes
    assert sorted(words_of(figure)) == ["144", "307", "39.0", "46.0", "dense\n20.5"]
    assert axes.get_yscale() == "log"
    assert axes.get_title(loc="left") == "tiny, 50 % unstructured"
    assert [label.get_text() for label in axes.get_xticklabels()] == ["magnitude", "wanda"]
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
        for point in criteria.read_points(data)
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
        "no adaptation",
        "recon_block",
    ]


def test_a_panel_for_each_model_and_pattern(tmp_path: Path) -> None:
    data = write_data(
        tmp_path / "criteria.csv", {}, models=["tiny", "tiny-2"], patterns=["u50", "u60"]
    )
    titles = [axes.get_title(loc="left") for axes in figure_of(data).axes]
    assert titles == [
        "tiny, 50 % unstructured",
        "tiny, 60 % unstructured",
        "tiny-2, 50 % unstructured",
        "tiny-2, 60 % unstructured",
    ]


def test_panel_without_cells_says_so(tmp_path: Path) -> None:
    data = write_data(tmp_path / "criteria.csv", PERPLEXITIES)
    row = "wanda,u60,tiny-2,none,1,40.0,1.0,\n"
    data.write_text(data.read_text() + "dense,none,tiny-2,none,1,20.0,1.0,\n" + row)
    assert words_of(figure_of(data)).count("not part of the study") == 2


def test_seeds_are_explained_only_where_there_are_several(tmp_path: Path) -> None:
    one = figure_of(write_data(tmp_path / "one.csv", PERPLEXITIES))
    two = figure_of(write_data(tmp_path / "two.csv", {}, seeds=[0, 1]))
    assert "seeds" not in one.legends[0].get_title().get_text()
    assert "standard deviation over seeds" in two.legends[0].get_title().get_text()


def test_an_adaptation_looks_the_same_whatever_else_is_shown() -> None:
    all_of_them = style.marks(["one", "two", "three"])
    assert all_of_them["two"] == style.marks(["one", "two"])["two"]
    assert all_of_them["none"] == style.marks([])["none"]


def test_marks_differ_in_grey_too() -> None:
    looks = style.marks(f"adaptation_{index}" for index in range(6)).values()
    assert len({look.marker for look in looks}) == 7
    many = style.marks(f"adaptation_{index}" for index in range(42)).values()
    assert len({(look.colour, look.marker) for look in many}) == 43


@pytest.mark.parametrize(
    ("pattern", "label"), [("u50", "50 % unstructured"), ("2of4", "2:4"), ("s20", "s20")]
)
def test_patterns_are_named_for_people(pattern: str, label: str) -> None:
    assert criteria.pattern_label(pattern) == label


def test_failed_saving_leaves_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        (tmp_path / ".criteria.png.part").write_bytes(b"half")
        raise OSError("no space")

    monkeypatch.setattr(Figure, "savefig", fail)
    data = write_data(tmp_path / "criteria.csv", PERPLEXITIES)
    with pytest.raises(OSError, match="no space"):
        criteria.draw_criteria(data, ["recon_block"], "text", [tmp_path / "criteria.png"])
    assert [path.name for path in tmp_path.iterdir()] == ["criteria.csv"]
