"""Fetch a model from its source and write it as one shard per block."""

from pathlib import Path

from freelunch.core.artifact import fingerprint
from freelunch.core.job import running
from freelunch.data.models import fetch_model
from freelunch.study.sources import read_model

if __name__ == "__main__":
    with running(snakemake):
        fetch_model(
            name=snakemake.wildcards.model,
            entry=read_model(snakemake.params.entry),
            folder=Path(snakemake.output.manifest).parent,
            fingerprint=fingerprint(snakemake.params.code, snakemake.params.entry),
        )
