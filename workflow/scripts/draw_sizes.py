"""Draw the gap between criteria against the size of the model."""

from pathlib import Path
from typing import TYPE_CHECKING

from freelunch.core.job import running
from freelunch.reporting.figures.sizes import draw_sizes

if TYPE_CHECKING:
    from snakemake.script import snakemake

if __name__ == "__main__":
    with running(snakemake):
        draw_sizes(
            data=Path(snakemake.input.data),
            adaptations=snakemake.params.adaptations,
            outputs=[Path(path) for path in snakemake.output],
        )
