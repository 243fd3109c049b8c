"""Draw figures of made-up rows, and where their words stand, for tests of figures."""

from collections.abc import Iterable, Mapping
from types import ModuleType
from typing import Any

from matplotlib.figure import Figure
from matplotlib.text import Text

from freelunch.reporting.drawing.style import styled


def drawn(module: ModuleType, rows: Iterable[Mapping[str, Any]], **settings: Any) -> Figure:
    """Return the figure that a module draws of rows, as it reads them from a CSV file."""
    as_text = [
        {key: "" if value is None else str(value) for key, value in row.items()} for row in rows
    ]
    with styled():
        figure: Figure = module.draw(as_text, **settings)
        figure.draw_without_rendering()
    return figure


def texts_of(figure: Figure) -> list[Text]:
    """Return the words in, above and beside the axes of a figure, and those of its legends."""
    texts = [*figure.texts]
    for axes in figure.axes:
        texts += [*axes.texts, axes.title, axes._left_title]
    for legend in figure.legends:
        texts += [*legend.get_texts(), legend.get_title()]
    return texts


def words_of(figure: Figure) -> list[str]:
    """Return these words, as they are written."""
    return [text.get_text() for text in texts_of(figure)]


def assert_words_inside(figure: Figure) -> None:
    """Check that none of these words of a drawn figure is cut at its left or right edge. The names
    of axes and ticks have their room by the layout.
    """
    texts = texts_of(figure)
    assert texts
    window = figure.get_window_extent()
    for text in texts:
        box = text.get_window_extent()
        assert window.x0 <= box.x0 and box.x1 <= window.x1, text.get_text()
