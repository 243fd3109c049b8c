"""Decide whether the sequences of a model begin with its beginning-of-sequence token."""

from pathlib import Path

from freelunch.core.artifact import fingerprint
from freelunch.core.files import scratch_folder
from freelunch.data.documents import open_text
from freelunch.evaluation.bos import decide_bos
from freelunch.model.checkpoint import StreamedModel
from snakemake_job import running

if __name__ == "__main__":
    with running(snakemake) as job:
        model = StreamedModel(Path(snakemake.input.model).parent, job.device)
        text, folder = open_text(snakemake.input.text), Path(snakemake.output.manifest).parent
        settings = {key: snakemake.params[key] for key in ("bos", "length")}
        depends_on = fingerprint(snakemake.params.code, settings, model.artifact, text)
        with scratch_folder(folder.with_name(f".{folder.name}.scratch")) as scratch:
            made = decide_bos(
                model, text, *settings.values(), folder, depends_on, scratch, job.report
            )
        job.made(made)
        job.counts = {key: made.facts[key] for key in ("sequences", "length")}
        job.counts["tokens"] = made.facts["sequences"] * made.facts["length"]
