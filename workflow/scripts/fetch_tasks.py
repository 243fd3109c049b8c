"""Fetch the documents of tasks and write them in the form that stock tasks read."""

from pathlib import Path

from freelunch.core.artifact import fingerprint
from freelunch.core.job import running
from freelunch.data.tasks import fetch_task, stock_task
from freelunch.study.sources import read_task

if __name__ == "__main__":
    with running(snakemake) as job:
        entries = snakemake.params.entries
        for done, (manifest, (name, entry)) in enumerate(
            zip(snakemake.output.manifests, entries.items(), strict=True), 1
        ):
            stock = stock_task(name)
            fetch_task(
                name=name,
                entry=read_task(entry),
                stock=stock,
                folder=Path(manifest).parent,
                fingerprint=fingerprint(snakemake.params.code, {"entry": entry, "stock": stock}),
            )
            job.report(done, len(entries), "tasks")
