"""Draw a figure from its CSV file, and save it so that drawing it again gives the same bytes."""

import csv
import importlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from freelunch.core.files import no_half_file
from freelunch.reporting.drawing import style

# Metadata that would otherwise contain a date or the version of matplotlib.
_METADATA: dict[str, dict[str, Any]] = {
    ".png": {"Software": None},
    ".svg": {"Date": None, "Creator": None},
    ".pdf": {"CreationDate": None, "Creator": None, "Producer": None},
}


def draw_figure(
    drawing: str, data: Path, settings: Mapping[str, object], outputs: Iterable[Path]
) -> None:
    """Draw a figure and save it in several formats.

    Args:
        drawing: The module that draws it (`Figure.drawing`).
        data: Its CSV file.
        settings: The other arguments of the module's `draw`.
        outputs: Where to save it; a suffix is a format: .png, .svg or .pdf.
    """
    with data.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    with style.styled():
        figure = importlib.import_module(drawing).draw(rows, **settings)
        for path in outputs:
            save(figure, path)
            # All formats have the layout of the first, which takes longer than to draw the figure.
            figure.set_layout_engine("none")


def save(figure: "style.Figure", path: Path) -> None:
    """Save a figure, within `styled`; a file is there as a whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.part")
    with no_half_file(temporary):
        figure.savefig(temporary, format=path.suffix[1:], metadata=_METADATA[path.suffix])
        temporary.replace(path)
