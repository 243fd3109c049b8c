"""Fetch a text of many files from a wheel and write each file as a document."""

from pathlib import Path
from typing import TYPE_CHECKING

from freelunch.core.artifact import fingerprint
from freelunch.core.job import running
from freelunch.data.text_files import fetch_text_files
from freelunch.study.sources import read_text_files

if TYPE_CHECKING:
    from snakemake.script import snakemake

if __name__ == "__main__":
    with running(snakemake):
        fetch_text_files(
            name=snakemake.wildcards.text,
            entry=read_text_files(snakemake.params.entry),
            folder=Path(snakemake.output.manifest).parent,
            fingerprint=fingerprint(snakemake.params.code, snakemake.params.entry),
        )
