"""What a script's object `snakemake` says about its job, as plain values for the library."""

from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from freelunch.core import job
from freelunch.core.artifact import Artifact
from freelunch.core.devices import CPU, CUDA
from freelunch.study.steps import CALIBRATION


def running(snakemake: Any) -> AbstractContextManager[job.Job]:
    """Run a script's one library call as the job that Snakemake gave its script (`job.running`)."""
    asked, output = snakemake.resources, snakemake.output
    wildcards = "/".join(str(value) for value in snakemake.wildcards)
    requested = {}
    if asked.get("mem_mb") and asked.get("runtime"):
        requested["peak_requested_bytes"] = int(asked.mem_mb) * 10**6
        requested["requested_s"] = int(asked.runtime) * 60
    settings = job.JobSettings(
        log=Path(snakemake.log[0]),
        name=f"{snakemake.rule} {wildcards}".strip(),
        threads=snakemake.threads,
        device=CUDA if int(asked.get("gpu", 0) or 0) else CPU,
        # Snakemake's list has names, not keys.
        run=Path(output.run) if "run" in output.keys() else None,  # noqa: SIM118
        requested=requested,
    )
    return job.running(settings)


def adapting(snakemake: Any) -> dict[str, Any]:
    """Return what a script adapts, and how: arguments of `open_adaptation`."""
    given, params, wildcards = snakemake.input, snakemake.params, snakemake.wildcards
    return {
        "model": Path(given.model).parent,
        "masks": given.masks,
        "start": given.start,
        "dense_pass": given.dense,
        "sample": Artifact.at(given.sample, CALIBRATION),
        "hidden": Path(params.hidden) if params.hidden else None,
        "folder": Path(snakemake.output.manifest).parent,
        "settings": params.settings,
        "window": params.get("window"),
        "precision": params.precision,
        "seed": int(wildcards.seed),
        "code": params.code,
        "entry": f"models.{wildcards.model}",
        "stop_at_divergence": params.get("stop_at_divergence", True),
        "search": given.get("rate", []),
    }
