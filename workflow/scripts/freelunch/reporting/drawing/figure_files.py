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
    """Draw a CSV file with a drawing module (`Figure.drawing`) and the other arguments of its
    `draw`, and save the figure in several formats, which are the suffixes .png, .svg and .pdf.
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
