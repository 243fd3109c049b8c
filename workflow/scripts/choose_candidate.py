"""Choose the best candidate of an adaptation."""

import json
from pathlib import Path
from typing import TYPE_CHECKING

from freelunch.adaptation import reconstruction
from freelunch.adaptation.selection import Candidate, choose_candidate
from freelunch.core.artifact import Artifact, fingerprint
from freelunch.core.job import running
from freelunch.study.paths import read_run
from freelunch.study.retraining import read_adaptation
from freelunch.study.search import compared_by
from freelunch.study.steps import METRICS, SEARCH, metrics_file

if TYPE_CHECKING:
    from snakemake.script import snakemake

if __name__ == "__main__":
    with running(snakemake) as job:
        settings, seed = read_adaptation(snakemake.params.settings), int(snakemake.wildcards.seed)
        # In the order of params.candidates; every candidate was adapted by the same number of jobs.
        parts = [Artifact.at(path, reconstruction.KIND) for path in snakemake.input.adapted]
        each = len(parts) // len(snakemake.params.candidates)
        evaluations = [Artifact.at(path, METRICS) for path in snakemake.input.metrics]
        file = metrics_file(compared_by(settings))
        measured = [json.loads(each.path(file).read_text()) for each in evaluations]
        folders = [each.folder for each in evaluations]
        candidates = [
            Candidate(
                name, read_adaptation(expected), parts[number * each : (number + 1) * each], metrics
            )
            for number, ((name, expected), metrics) in enumerate(
                zip(snakemake.params.candidates.items(), measured, strict=True)
            )
        ]
        made = choose_candidate(
            candidates=candidates,
            settings=settings,
            seed=seed,
            folder=Path(snakemake.output.manifest).parent,
            fingerprint=fingerprint(
                snakemake.params.code, [snakemake.params.settings, seed, measured], *parts
            ),
        )
        job.made(made)
        chosen = next(c for c in candidates if c.name == made.facts["choice"]["chosen"])
        job.shared[settings.rule] = [read_run(part.folder) for part in chosen.parts]
        # The cost of the search: adapting the other candidates, and measuring all of them.
        others = [part.folder for part in parts if part not in chosen.parts]
        job.shared[SEARCH] = [read_run(folder) for folder in [*others, *folders]]
