"""Collect the record of a cell from what its steps left on disk."""

from pathlib import Path

from freelunch.core.job import running
from freelunch.records.collect import collect_record
from freelunch.study.cell import Cell
from freelunch.study.paths import Paths

if __name__ == "__main__":
    with running(snakemake):
        collect_record(
            paths=Paths(snakemake.params.study),
            cell=Cell.parse(snakemake.params.spec["cell"]),
            spec=snakemake.params.spec,
            adapted=[Path(path).parent for path in snakemake.input.adapted],
        )
