"""Mix texts that were fetched into one."""

from pathlib import Path

from freelunch.core.artifact import Artifact, fingerprint
from freelunch.core.job import running
from freelunch.data.mixture import mix_text
from freelunch.study.steps import TEXT

if __name__ == "__main__":
    with running(snakemake):
        settings = snakemake.params.settings
        parts = {
            name: Artifact.at(path, TEXT)
            for name, path in zip(settings["parts"], snakemake.input, strict=True)
        }
        mix_text(
            name=snakemake.wildcards.text,
            settings=settings,
            parts=parts,
            folder=Path(snakemake.output.manifest).parent,
            fingerprint=fingerprint(snakemake.params.code, settings, *parts.values()),
        )
