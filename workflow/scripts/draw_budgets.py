"""Draw quality against what adaptations see and compute."""

from pathlib import Path
from typing import TYPE_CHECKING

from freelunch.core.job import running
from freelunch.reporting.figures.budgets import draw_budgets

if TYPE_CHECKING:
    from snakemake.script import snakemake

if __name__ == "__main__":
    with running(snakemake):
        draw_budgets(
            data=Path(snakemake.input.data),
            adaptations=snakemake.params.adaptations,
            series=snakemake.params.series,
            text=snakemake.params.text,
            outputs=[Path(path) for path in snakemake.output],
        )
