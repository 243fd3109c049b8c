"""Draw quality and memory against the window."""

from pathlib import Path
from typing import TYPE_CHECKING

from freelunch.core.job import running
from freelunch.reporting.figures.windows import draw_windows

if TYPE_CHECKING:
    from snakemake.script import snakemake

if __name__ == "__main__":
    with running(snakemake):
        draw_windows(
            data=Path(snakemake.input.data),
            text=snakemake.params.text,
            outputs=[Path(path) for path in snakemake.output],
        )
