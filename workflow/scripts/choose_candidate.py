"""Choose the best candidate of an adaptation."""

import json
from pathlib import Path

from freelunch.adaptation.selection import Candidate, choose_candidate
from freelunch.core.artifact import Artifact, fingerprint
from freelunch.core.job import running
from freelunch.study.paths import read_run
from freelunch.study.retraining import read_adaptation
from freelunch.study.search import compared_by
from freelunch.study.steps import ADAPTED_BLOCKS, METRICS, SEARCH, metrics_file

if __name__ == "__main__":
    with running(snakemake) as job:
        settings, seed = read_adaptation(snakemake.params.settings), int(snakemake.wildcards.seed)
        # In the order of params.candidates; every candidate was adapted by the same number of jobs.
        parts = [Artifact.at(path, ADAPTED_BLOCKS) for path in snakemake.input.adapted]
        each = len(parts) // len(snakemake.params.candidates)
        evaluations = [Artifact.at(path, METRICS) for path in snakemake.input.metrics]
        file = metrics_file(compared_by(settings))
        measured = [json.loads(evaluation.path(file).read_text()) for evaluation in evaluations]
        candidates = [
            Candidate(name, read_adaptation(expected), parts[start : start + each], metrics)
            for (name, expected), start, metrics in zip(
                snakemake.params.candidates.items(),
                range(0, len(parts), each),
                measured,
                strict=True,
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
        folders = [evaluation.folder for evaluation in evaluations]
        job.shared[SEARCH] = [read_run(folder) for folder in [*others, *folders]]
