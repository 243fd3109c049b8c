"""Build the study's tables, and the data of its figures, from the records."""

from freelunch.audit.figures import TABLES_OF_CLAIMS
from freelunch.audit.output_files import seal_tables
from freelunch.core.job import running
from freelunch.reporting.tables import build_tables
from freelunch.study.study import Study

if __name__ == "__main__":
    with running(snakemake):
        study = Study.check(snakemake.params.config, snakemake.params.source)
        build_tables(study, TABLES_OF_CLAIMS)
        seal_tables(study)
