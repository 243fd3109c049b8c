"""Where the words of a figure stand, for tests of figures."""

from matplotlib.figure import Figure


def assert_words_inside(figure: Figure) -> None:
    """Check that no words in, above and beside the axes of a drawn figure, nor those of its
    legends, are cut at its left or right edge. The names of axes and ticks have their room by the
    layout.
    """
    texts = [*figure.texts]
    for axes in figure.axes:
        texts += [*axes.texts, axes.title, axes._left_title]
    for legend in figure.legends:
        texts += [*legend.get_texts(), legend.get_title()]
    assert texts
    window = figure.get_window_extent()
    for text in texts:
        box = text.get_window_extent()
        assert window.x0 <= box.x0 and box.x1 <= window.x1, text.get_text()
