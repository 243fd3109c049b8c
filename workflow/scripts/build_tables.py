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
            summary_csv=Path(snakemake.output.summary_csv),
            summary_md=Path(snakemake.output.summary_md),
            metrics_json=Path(snakemake.output.metrics_json),
            criteria_csv=Path(snakemake.output.criteria_csv),
            gaps_csv=Path(snakemake.output.gaps_csv),
            pairs_csv=Path(snakemake.output.pairs_csv),
            windows_csv=Path(snakemake.output.windows_csv),
            drift_csv=Path(snakemake.output.drift_csv),
            budgets_csv=Path(snakemake.output.budgets_csv),
            reach_csv=Path(snakemake.output.reach_csv),
            tasks_csv=Path(snakemake.output.tasks_csv),
        )
