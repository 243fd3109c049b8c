# Control of the run: the study and its plan, what computes, and what happens at the start and the end.

import os
import re
import signal
import sys
from functools import cache, partial
from pathlib import Path
from threading import Thread

from snakemake.exceptions import WorkflowError
from snakemake.settings.types import DeploymentMethod

from freelunch.cli import slurm
from freelunch.cli.run import (
    WORTH_S,
    EarlyFindings,
    check_start,
    handle_sigterm_in_thread,
    remove_broken_notes,
    stopped_text,
    wait_for_earlier_jobs,
)
from freelunch.core import lock
from freelunch.core.artifact import MANIFEST
from freelunch.core.artifact_writer import keep_manifest
from freelunch.core.devices import (
    CUDA,
    SCHEDULED,
    check_device_memory,
    chosen_devices,
    device_text,
    fast_precision,
)
from freelunch.core.errors import UserError
from freelunch.core.files import remove_path
from freelunch.core.job import lock_of_job
from freelunch.costs.checks import checked_plan
from freelunch.costs.machine import Machine, read_gigabytes, read_tflops
from freelunch.costs.plan_text import plan_brief
from freelunch.costs.job_requests import planned_s
from freelunch.records.earlier_jobs import learnt_rate
from freelunch.study import steps
from freelunch.study.open_study import (
    CLAIMS,
    DEVICE,
    FORCED,
    MODELS,
    PRECISION,
    SEEDS,
    TFLOPS,
    chosen_study,
    claim_results,
)
from freelunch.study.registry import REPOSITORY
from snakemake_logger_plugin_freelunch import story


def of_this_repository(file):
    """Return a file of the repository that this workflow is in, whichever folder it is run in."""
    path = REPOSITORY / file
    # Snakemake knows the files of a clone by their relative names.
    return os.path.relpath(path) if path.is_relative_to(Path.cwd()) else str(path)


# `--config study=FILE device_memory=80 tflops=400` chooses the study, and says how large and how fast the
# GPU is, if this is not the machine with the GPU. `device=cpu` or `device=cuda` in the profile's
# `default-resources` says what computes; without it, a GPU that is there. Snakemake passes these settings on to
# jobs that an executor starts on other machines.
# A workflow that imports this one as a module may read this file several times; `complete` is then from the
# time before.
config.pop("complete", None)
ASKED_DEVICE = (workflow.resource_settings.default_resources or {}).get("device")
ASKED_DEVICE = getattr(ASKED_DEVICE, "raw", None)
try:
    STUDY = chosen_study(config)
    # Whatever a kill or a damaged disk left of an earlier run.
    if workflow.is_main_process:
        ALONE = lock.clear_stale_locks(Path(".snakemake"))
        check_start(sys.argv, workflow.resource_settings.cores, ALONE)
        for path in remove_broken_notes(Path(".snakemake/metadata")) if ALONE else []:
            logger.warning(f"{path}: removed, since Snakemake could not read its note on an output")
    # A job on another machine takes what its scheduler gives it.
    DEVICES = [] if workflow.remote_exec else chosen_devices(ASKED_DEVICE)
    DEVICE_BYTES = min((device.memory_bytes for device in DEVICES), default=None)
    if DEVICE in config:
        DEVICE_BYTES = read_gigabytes(config[DEVICE], DEVICE)
    FLOPS_PER_S = read_tflops(config[TFLOPS], TFLOPS) if TFLOPS in config else None
    # Whether jobs that compute ask for a GPU. On this machine, each GPU has one job at a time.
    USES_GPUS = bool(DEVICES) or ASKED_DEVICE == CUDA
    DEVICE_NAME = device_text(DEVICES, ASKED_DEVICE)
    FAST = config.get(PRECISION) or fast_precision(USES_GPUS)
    PLAN = checked_plan(STUDY, DEVICE_BYTES, DEVICE_NAME, FAST)
except UserError as error:
    raise WorkflowError(str(error))

# Snakemake's report describes the study by it.
config["complete"] = STUDY.as_json()

if DEVICES and "gpu" not in workflow.global_resources:
    workflow.register_resource("gpu", len(DEVICES))

if workflow.remote_exec:
    # Whatever comes from a hub was fetched before, and nodes of a cluster may have no network. The
    # scheduler gave the job its GPUs.
    os.environ |= {"HF_HUB_OFFLINE": "1", SCHEDULED: "1"}


def on_slurm():
    """Return whether Slurm gets the jobs. A dry run and a report have no executor."""
    return getattr(workflow.executor_plugin, "name", None) == "slurm"


@cache
def cluster():
    """Return the partitions of the Slurm cluster that is asked from here."""
    return slurm.Cluster.here()


@cache
def planned_machine():
    """Return the machine whose rates the plan takes."""
    names = [device.name for device in DEVICES]
    learnt = learnt_rate(Path("results"), PLAN.device_bytes is not None, names)
    return Machine.of(FLOPS_PER_S, device_bytes=PLAN.device_bytes, learnt=learnt)


def targets_are(pattern):
    """Return of each target of this run whether its rule's name matches a pattern. The name may have a
    prefix where another workflow imports this one.
    """
    return [re.fullmatch(rf"(\w+_)?{pattern}", job.rule.name) for job in workflow.dag.targetjobs]


def is_forced(rule):
    """Return, as a resource, whether the command line forces a rule to run.

    Snakemake starts each job on another machine with `--force`, so these jobs are told which rules the
    command line forces.
    """
    if workflow.remote_exec:
        return int(rule in config.get(FORCED, "").split(","))
    return int(rule in forced_rules())


@cache
def forced_rules():
    """Return the forced rules among those that otherwise take over what is finished."""
    asked = workflow.dag_settings
    everything = asked.forceall or asked.forcetargets
    # Where another workflow imports a rule, its name may have a prefix.
    forced = [
        name
        for name in (steps.EVALUATE_CELL, steps.RECONSTRUCT_WINDOW)
        if everything or any(re.fullmatch(rf"(\w+_)?{name}", other) for other in asked.forcerun)
    ]
    if forced:
        tell_jobs(FORCED, ",".join(forced))
    return forced


def tell_jobs(key, value):
    """Set a key of the config of jobs on other machines."""
    settings = workflow.config_settings
    settings.config_args = [*(settings.config_args or []), f"{key}={value}"]


def lift_default_rate():
    """Lift Snakemake's default limit of 100 new jobs a second, which no executor reaches.

    Under a limit, each job that ends has Snakemake look for jobs to start once more every second,
    until all have started (its pull request 3744): after 95 jobs, this took 13 % of a core.
    """
    limit = workflow.scheduler.job_rate_limiter
    if limit is not None and (limit.max_jobs, limit.timespan) == (100, 1):
        workflow.scheduler.job_rate_limiter = None


def tell(event, text, **facts):
    """Write to the terminal and to Snakemake's log, as an event that the story of the run knows."""
    logger.info(text, extra={"event": event, **facts})


def take_over(jobs):
    """Wait for jobs that outlived an earlier run, and keep what was made for these ones since Snakemake
    last looked.
    """
    locks = [lock_of_job(Path(job.log[0])) for job in jobs if job.log]
    if on_slurm() and ALONE:
        wait_for_earlier_jobs(lambda: slurm.jobs_of_folder(Path.cwd()), "scancel", logger.warning)
    wait_for_earlier_jobs(
        lambda: set(filter(None, map(lock.holder_of, locks))), "kill", logger.warning
    )
    for job in jobs:
        reason = workflow.dag.reason(job)
        unseen = not reason.forced and (reason.missing_output or reason.params_changed)
        if unseen or workflow.async_run(workflow.persistence.incomplete(job)):
            for path in map(Path, job.output):
                if path.name == MANIFEST:
                    keep_manifest(path.parent)


def start_run(logs):
    """Check what only a run needs, wait for what is left of an earlier one, and show the plan."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_DFL:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    lift_default_rate()
    jobs = list(workflow.dag.needrun_jobs())
    for_scheduler = slurm.slurm_jobs(
        slurm.SlurmJob((job.rule.name,), dict(job.resources.items()), job.group)
        for job in jobs
        if not (workflow.local_exec or job.is_local)
    )
    try:
        # Downloads are made where there is a network, which need not be where there are GPUs.
        if not all(targets_are(r"fetch(_\w+)?")):
            check_device_memory(DEVICES, ASKED_DEVICE, config.get(DEVICE))
        if on_slurm():
            slurm.check_answers(workflow.executor_settings.status_command)
            slurm.check_requests(for_scheduler, cluster())
    except UserError as error:
        raise WorkflowError(str(error))
    claim_results(STUDY)
    tell_jobs(PRECISION, FAST)
    take_over(jobs)
    handle_sigterm_in_thread(
        partial(slurm.cancel_waiting, [Path(file) for file in logs]) if on_slurm() else list
    )
    if on_slurm():
        Thread(target=slurm.watch, args=(logger.warning, Path.cwd()), daemon=True).start()
    # A job without a log only names what other jobs make.
    planned = {
        workflow.dag.jobid(job): planned_s(
            PLAN, planned_machine(), job.rule.name, job.wildcards_dict
        )
        for job in jobs
        if job.log
    }
    submitted = None if workflow.local_exec else len(for_scheduler)
    brief = plan_brief(PLAN, planned_machine(), len(planned), submitted)
    tell(story.PLAN, brief, planned_s=planned, queues=not workflow.local_exec)
    made = {str(path) for job in jobs for path in job.output}
    first = [
        [record for record in map(PATHS.record, cells) if str(record) in made] for cells in FIRST
    ]
    if any(first) and sum(planned.values()) > WORTH_S:
        part = [f"--{key}={config[key]}" for key in (MODELS, CLAIMS, SEEDS) if key in config]
        command = [sys.executable, "-m", "freelunch", "interim", STUDY.source, *part]
        EARLY.append(EarlyFindings(first, command, partial(tell, story.FOUND)))
        EARLY[0].start()


# The thread that tells the first finding, if there is one.
EARLY = []


def finish_run():
    """Show the summary after a run of the whole study; `make study` shows it itself after every run,
    even if there was nothing to do.
    """
    for thread in EARLY:
        thread.end()
    if not any(targets_are("all")):
        return
    if not STUDY.part_words:
        # What `freelunch interim` showed is out of date.
        remove_path(PATHS.interim)
    if "MAKELEVEL" in os.environ:
        return
    from freelunch.cli.summary import summary

    try:
        tell(story.SUMMARY, summary(STUDY))
    except UserError as error:
        problem = f"All jobs are done, but the check at the end found a problem:\n{error}"
        tell(story.STOPPED, problem)
        # The exit status of a failed job. A WorkflowError would repeat the message, with lines of this
        # file.
        raise SystemExit(1)


def stop_run(logs):
    """Say why jobs ended early, and how to resume."""
    for thread in EARLY:
        thread.end()
    ended = slurm.endings([Path(file) for file in logs]) if on_slurm() else ""
    tell(story.STOPPED, "\n\n".join(filter(None, [ended, stopped_text(logs)])))
