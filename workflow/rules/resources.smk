# What jobs ask a scheduler for, which jobs it gets as one, and which share their work.

import json
import os
from functools import cache
from pathlib import Path

from snakemake.io import apply_wildcards

from freelunch.core.job import was_told_to_stop
from freelunch.costs import job_requests
from freelunch.costs.jobs import PlannedJob, adapting_jobs, evaluation
from freelunch.costs.job_requests import RECORD, JobRequest, Limits, again, request, together
from freelunch.records.earlier_jobs import finished_groups

# A dry run starts nothing: its jobs have no order, ask for nothing and are in no group. With `VERBOSE=1`, it shows what
# jobs would ask for.
IS_DRY = workflow.output_settings.dryrun and not os.getenv("VERBOSE")


def if_run(setting):
    """Return a setting of a rule that only jobs have that start; None in a dry run."""
    return None if IS_DRY else setting


def asks(job_of, **more):
    """Return the resources that a rule's jobs ask a scheduler for, by name, and more.

    Args:
        job_of: Function of wildcards that returns the job, by which the plan knows its cost.
    """

    def asked(name):
        def resource(wildcards, attempt, rulename):
            job = job_of(wildcards)
            first = first_request(job)
            if attempt == 1:
                return getattr(first, name)
            whole = request_of_cell(wildcards) if hasattr(wildcards, "adaptation") else first
            log = apply_wildcards(workflow.get_rule(rulename).log[0], wildcards)
            in_time = attempts_in_time(log, attempt - 1)
            return getattr(again(first, attempt, whole, most_of(job.rule, whole), in_time), name)

        return resource

    return {} if IS_DRY else {name: asked(name) for name in JobRequest._fields} | more


@cache
def attempts_in_time(log, attempts):
    """Return how many attempts at a job were not told to stop, as at the end of a job's time. Who takes
    too much memory is killed without a word. Each is looked at before the next one writes its log.
    """
    if attempts == 0:
        return 0
    return attempts_in_time(log, attempts - 1) + (not was_told_to_stop(Path(log)))


def asks_with_device(job_of, **more):
    """Return the resources of a rule whose jobs compute on a GPU, if the run uses GPUs."""
    return asks(job_of, **more, **({"gpu": 1} if USES_GPUS else {}))


@cache
def first_request(job):
    """Return what the first attempt at a job asks for. Rates that are not given are measured, once."""
    return request(PLAN, planned_machine(), job, window_groups())


def adapting_job(wildcards):
    """Return the job that adapts a cell or a candidate; its cost depends on the pattern, too."""
    cell = cell_of(wildcards)
    return PlannedJob(STUDY.adaptation(cell.adaptation).rule, cell)


def is_streamed(wildcards):
    """Return, as a resource, whether the adaptation of a cell or a candidate is streamed."""
    return int(PLAN.streamed(wildcards.model, wildcards.adaptation)[0])


def request_of_cell(wildcards):
    """Return what the first attempt at a cell's own steps asks for, which a scheduler may run as one."""
    jobs = adapting_jobs(STUDY, cell_of(wildcards))
    return together([*map(first_request, jobs), RECORD])


@cache
def most_of(rule, whole):
    """Return the most that later attempts at a job may ask Slurm for; no limit elsewhere, and where a
    file of partitions lets the executor choose one.
    """
    file = os.getenv("SNAKEMAKE_SLURM_PARTITIONS")
    if not on_slurm() or workflow.executor_settings.partition_config or file:
        return Limits()
    given = resources_of_profile() | workflow.resource_settings.overwrite_resources.get(rule, {})
    given = {name: getattr(value, "raw", value) for name, value in given.items()}
    return cluster().most(given | whole._asdict())


def resources_of_profile():
    """Return the resources that every job has by the profile or the command line."""
    given = dict((workflow.resource_settings.default_resources or {}).items())
    return {name: getattr(value, "raw", value) for name, value in given.items()}


@cache
def window_groups():
    """Return the number of jobs that share the windows of one reconstruction.

    The command line or the profile may set it. Otherwise it is what it was when the study's
    reconstructions were finished, or else the number of GPUs or nodes decides.
    """
    given = workflow.resource_settings.overwrite_scatter
    if "windows" not in given and not workflow.remote_exec:
        found = finished_groups(STUDY)
        if found is None:
            workers = cluster().count_nodes(resources_of_profile()) if on_slurm() else len(DEVICES)
            found = (
                job_requests.window_groups(PLAN, planned_machine(), workers) if workers > 1 else 1
            )
        # This passes the number on to jobs that start on other machines.
        workflow.resource_settings.overwrite_scatter = {**given, "windows": found}
    return workflow.resource_settings.overwrite_scatter.get("windows", 1)


def scheduled_cell(wildcards):
    """Return the name of the job in which a scheduler runs a cell's own steps one after another.

    Adaptation, evaluation and record would each wait in the queue and start for a minute's work. On this
    machine, a dry run, too, has no such jobs.
    """
    if share_passes():
        return None
    return cell_of(wildcards).record_name.removesuffix(".json")


def scheduled_windows(wildcards):
    """Return the same for a job that adapts windows; None if several such jobs run side by side."""
    return None if window_groups() > 1 else scheduled_cell(wildcards)


def share_passes():
    """Return whether jobs know of each other: not those that a scheduler starts one by one."""
    return workflow.local_exec and not workflow.remote_exec


def pruning_job(wildcards):
    """Return the job that prunes a cell. On this machine it may choose masks by the study's other criteria,
    too, and then takes as much memory as the largest of these jobs.
    """
    pruned = Cell(
        wildcards.model, wildcards.criterion, wildcards.pattern, NONE, int(wildcards.seed)
    )
    own = PlannedJob(steps.PRUNE_MODEL, pruned)
    if not share_passes() or not job_requests.is_shared(STUDY, wildcards.criterion):
        return own
    return max([own, *pruning_jobs(wildcards.model)], key=lambda job: first_request(job).mem_mb)


@cache
def pruning_jobs(model):
    """Return jobs that prune a model and can share a pass."""
    cells = [cell for cell in STUDY.cells if cell.model == model and cell.is_pruned]
    shared = [cell for cell in cells if job_requests.is_shared(STUDY, cell.criterion)]
    return sorted({PlannedJob.of(steps.PRUNE_MODEL, cell) for cell in shared})


@cache
def pruned_manifests(model, seed):
    """Return the names of the masks of a model and seed, by their manifests."""
    cells = [cell for cell in STUDY.cells if (cell.model, str(cell.seed)) == (model, seed)]
    names = {cell.pruning for cell in cells} - {DENSE}
    return {paths.manifest(PATHS.pruned(model, name, seed)): name for name in names}


def masks_together(wildcards):
    """Return, as a resource, the masks of a model and seed that jobs of this run choose together; None if
    a job shares nothing.
    """
    if not share_passes():
        return None
    told, shared = masks_of_passes(wildcards.model, wildcards.seed)
    return told if f"{wildcards.criterion}-{wildcards.pattern}" in shared else None


@cache
def masks_of_passes(model, seed):
    """Return the masks of a model and seed that jobs of this run choose together, as JSON, and their names;
    none if each job would choose its own.
    """
    # Their outputs tell the study's own jobs, also where another workflow imports several studies.
    own = pruned_manifests(model, seed)
    jobs = {own[path]: job for path, job in first_outputs().items() if path in own}
    # All workers may begin with the same model and seed, and none should have to wait.
    workers = (len(DEVICES) if USES_GPUS else workflow.resource_settings.cores) or 1
    divided = job_requests.mask_groups(PLAN, planned_machine(), model, jobs, workers)
    shared = {name for group in divided for name in group}
    if len(shared) == len(divided):
        return None, set()
    criteria = {
        jobs[name].wildcards.criterion: [jobs[name].params.criterion, jobs[name].params.code]
        for name in sorted(shared)
    }
    return json.dumps({"criteria": criteria, "groups": divided}, separators=(",", ":")), shared


@cache
def first_outputs():
    """Return the jobs of this run by their first outputs. Those that are finished, too: a job that is tried
    again has the same groups.
    """
    jobs = workflow.dag.needrun_jobs(exclude_finished=False)
    return {str(job.output[0]): job for job in jobs if job.output}
