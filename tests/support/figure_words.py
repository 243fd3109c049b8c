"""Where the words of a figure stand, for tests of figures."""

from matplotlib.figure import Figure
from matplotlib.text import Text


def texts_of(figure: Figure) -> list[Text]:
    """Return the words in, above and beside the axes of a figure, and those of its legends."""
    texts = [*figure.texts]
    for axes in figure.axes:
        texts += [*axes.texts, axes.title, axes._left_title]
    for legend in figure.legends:
        texts += [*legend.get_texts(), legend.get_title()]
    return texts


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
