"""Draw a figure from its CSV file."""

from pathlib import Path
from typing import TYPE_CHECKING

from freelunch.core.job import running
from freelunch.reporting.drawing.files import draw_figure

if TYPE_CHECKING:
    from snakemake.script import snakemake

if __name__ == "__main__":
    with running(snakemake):
        draw_figure(
            name=snakemake.wildcards.figure,
            data=Path(snakemake.input.data),
            settings=snakemake.params.settings,
            outputs=[Path(path) for path in snakemake.output],
        )
