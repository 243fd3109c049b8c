"""Draw the drift of activations against depth."""

from pathlib import Path
from typing import TYPE_CHECKING

from freelunch.core.job import running
from freelunch.reporting.figures.drift import draw_drift

if TYPE_CHECKING:
    from snakemake.script import snakemake

if __name__ == "__main__":
    with running(snakemake):
        draw_drift(
            data=Path(snakemake.input.data),
            adaptations=snakemake.params.adaptations,
            outputs=[Path(path) for path in snakemake.output],
        )
