"""Build the study's tables, and the data of its figures, from the records."""

from freelunch.audit.effects import TABLES_OF_CLAIMS
from freelunch.audit.output_files import TABLE_SUMS, seal
from freelunch.reporting.tables import build_tables
from freelunch.study.study import Study
from snakemake_job import running

if __name__ == "__main__":
    with running(snakemake):
        study = Study.check(snakemake.params.config, snakemake.params.source)
        build_tables(study, TABLES_OF_CLAIMS)
        seal(study, TABLE_SUMS)
