"""Audit the study: verdicts on the paper's claims, as data, as a page and as a crate."""

from freelunch.audit.crate import write_crate
from freelunch.audit.output_files import check_before_audit, seal_audit
from freelunch.audit.texts import audit_texts
from freelunch.core.files import write_atomically
from freelunch.core.job import running
from freelunch.records.read import load_records
from freelunch.study.study import Study

if __name__ == "__main__":
    with running(snakemake):
        study = Study.check(snakemake.params.config, snakemake.params.source)
        records = load_records(study)
        check_before_audit(study)
        for name, text in audit_texts(study, records).items():
            write_atomically(study.paths.root / name, text)
        # The crate comes last, because it lists all files of the results.
        write_crate(study, records, study.paths.root)
        seal_audit(study)
