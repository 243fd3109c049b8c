"""Bring the documents of a task from its source into the form that its stock task reads."""

from pathlib import Path
from typing import TYPE_CHECKING

from freelunch.core.artifact import fingerprint
from freelunch.core.job import running
from freelunch.data.tasks import fetch_task
from freelunch.evaluation.tasks import stock_task

if TYPE_CHECKING:
    from snakemake.script import snakemake

if __name__ == "__main__":
    with running(snakemake):
        name = snakemake.wildcards.task
        stock = stock_task(name)
        fetch_task(
            name=name,
            entry=snakemake.params.entry,
            stock=stock,
            folder=Path(snakemake.output.manifest).parent,
            fingerprint=fingerprint(
                snakemake.params.code, {"entry": snakemake.params.entry, "stock": stock}
            ),
        )
