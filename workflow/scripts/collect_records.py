"""Collect the record of a cell from what its steps left on disk."""

from pathlib import Path

from freelunch.records.collect import collect_record
from freelunch.study.cell import Cell
from freelunch.study.paths import Paths
from snakemake_job import running

if __name__ == "__main__":
    with running(snakemake):
        collect_record(
            paths=Paths(snakemake.params.study),
            cell=Cell.parse(snakemake.params.spec["cell"]),
            spec=snakemake.params.spec,
            adapted=[Path(path).parent for path in snakemake.input.adapted],
            start=next(map(Path, snakemake.input.start), None),
        )
