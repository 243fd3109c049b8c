"""Fetch a model from its source and write it as one shard per block."""

from pathlib import Path
from typing import TYPE_CHECKING

from freelunch.core.artifact import fingerprint
from freelunch.core.job import running
from freelunch.data.models import fetch_model
from freelunch.study.sources import read_model

if TYPE_CHECKING:
    from snakemake.script import snakemake

if __name__ == "__main__":
    with running(snakemake):
        fetch_model(
            name=snakemake.wildcards.model,
            entry=read_model(snakemake.params.entry),
            folder=Path(snakemake.output.manifest).parent,
            fingerprint=fingerprint(snakemake.params.code, snakemake.params.entry),
        )
