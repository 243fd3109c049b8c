"""Cut the evaluation text into windows of token ids."""

from pathlib import Path
from typing import TYPE_CHECKING

from freelunch.core.artifact import Artifact, fingerprint
from freelunch.core.job import running
from freelunch.data.documents import open_text
from freelunch.data.text_windows import cut_windows
from freelunch.model import checkpoint

if TYPE_CHECKING:
    from snakemake.script import snakemake

if __name__ == "__main__":
    with running(snakemake) as job:
        settings = snakemake.params.settings
        model = Artifact.at(snakemake.input.model, checkpoint.KIND)
        text = open_text(Path(snakemake.input.text).parent)
        made = cut_windows(
            model=model,
            text=text,
            folder=Path(snakemake.output.manifest).parent,
            fingerprint=fingerprint(snakemake.params.code, settings, model, text),
            **settings,
        )
        job.made(made)
