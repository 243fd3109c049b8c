"""Build the tables of the study, and the data of its figures, from the records."""

from pathlib import Path
from typing import TYPE_CHECKING

from freelunch.job import running
from freelunch.study import Study
from freelunch.tables import build_tables

if TYPE_CHECKING:
    from snakemake.script import snakemake

if __name__ == "__main__":
    with running(snakemake):
        build_tables(
            study=Study.check(snakemake.params.config, snakemake.params.source),
            files={name: Path(path) for name, path in snakemake.output.items()},
        )
