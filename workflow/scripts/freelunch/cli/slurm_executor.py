"""What Snakemake's executor for Slurm leaves out while a study runs."""

import logging
import shlex
import sys
from typing import Any

from freelunch.cli.commands import output_of


def outlive_outages(executor: Any) -> None:
    """Have Snakemake ask again how jobs are when Slurm has not answered.

    The executor forgets all jobs after five failed questions, and the study never ends
    (https://github.com/snakemake/snakemake-executor-plugin-slurm/issues/207).

    Args:
        executor: Snakemake's executor for Slurm, from now on.
    """
    module: Any = sys.modules[type(executor).__module__]
    ask = module.query_job_status

    async def ask_again_later(command: str, logger: logging.Logger) -> tuple[dict[str, str], float]:
        states, seconds = await ask(command, logger)
        if states is not None:
            return states, seconds
        logger.warning(
            f"Slurm did not say how jobs are (`{shlex.split(command)[0]}` failed). They go on, and "
            "it will be asked again, at the latest in three minutes."
        )
        # As of jobs that Slurm does not know yet.
        return {}, 0.0

    module.query_job_status = ask_again_later


def cancel_every_job(executor: Any) -> None:
    """Have Ctrl-C cancel every job of the run.

    By itself, the executor leaves out those that it is asking Slurm about, which takes seconds
    where Slurm is slow.

    Args:
        executor: Snakemake's executor for Slurm, from now on.
    """
    cancel = executor.cancel_jobs

    def cancel_jobs(active_jobs: list[Any]) -> None:
        try:
            cancel(active_jobs)
        finally:
            # The jobs of a run have a name of their own.
            output_of("scancel", f"--name={executor.run_uuid}")

    executor.cancel_jobs = cancel_jobs
