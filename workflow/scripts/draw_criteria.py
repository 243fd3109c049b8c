"""Draw perplexity by criterion, without and with adaptation."""

from pathlib import Path
from typing import TYPE_CHECKING

from freelunch.core.job import running
from freelunch.reporting.figures.criteria import draw_criteria

if TYPE_CHECKING:
    from snakemake.script import snakemake

if __name__ == "__main__":
    with running(snakemake):
        draw_criteria(
            data=Path(snakemake.input.data),
            adaptations=snakemake.params.adaptations,
            text=snakemake.params.text,
            outputs=[Path(path) for path in snakemake.output],
            selected_on_evaluation=snakemake.params.selected_on_evaluation,
        )
