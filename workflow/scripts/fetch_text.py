"""Fetch a text from its source and write it as one document per line."""

from pathlib import Path

from freelunch.core.artifact import fingerprint
from freelunch.core.job import running
from freelunch.data.texts import fetch_text
from freelunch.study.sources import read_text

if __name__ == "__main__":
    with running(snakemake):
        fetch_text(
            name=snakemake.wildcards.text,
            entry=read_text(snakemake.params.entry),
            folder=Path(snakemake.output.manifest).parent,
            fingerprint=fingerprint(snakemake.params.code, snakemake.params.entry),
        )
