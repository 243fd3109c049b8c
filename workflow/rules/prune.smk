# Choose masks from dense statistics, or block by block in the pruned model.

import json
from functools import cache


def share_passes():
    """Return whether jobs know of each other: not those that a scheduler starts one by one."""
    return workflow.local_exec and not workflow.remote_exec


def pruning_job(wildcards):
    """Return the job that prunes a cell. On this machine it may choose masks by the study's other criteria,
    too, and then takes as much memory as the largest of these jobs.
    """
    own = Job(steps.PRUNE_MODEL, wildcards.model, wildcards.criterion)
    if not share_passes() or not groups.is_shared(STUDY, wildcards.criterion):
        return own
    return max([own, *pruning_jobs(wildcards.model)], key=lambda job: first_request(job).mem_mb)


@cache
def pruning_jobs(model):
    """Return jobs that prune a model and can share a pass, one for each criterion."""
    criteria = {cell.criterion for cell in STUDY.cells if cell.model == model} - {DENSE}
    shared = sorted(name for name in criteria if groups.is_shared(STUDY, name))
    return [Job(steps.PRUNE_MODEL, model, criterion) for criterion in shared]


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
    # Their outputs tell the study's own jobs, also where another workflow imports several studies.
    own = pruned_manifests(wildcards.model, wildcards.seed)
    # Those that are finished, too: a job that is tried again has the same groups.
    jobs = {
        own[job.output[0]]: job
        for job in workflow.dag.needrun_jobs(exclude_finished=False)
        if job.output and job.output[0] in own
    }
    # All workers may begin with the same model and seed, and none should have to wait.
    workers = (len(DEVICES) if USES_GPUS else workflow.resource_settings.cores) or 1
    divided = groups.mask_groups(PLAN, planned_machine(), wildcards.model, jobs, workers)
    shared = {name for group in divided for name in group}
    if f"{wildcards.criterion}-{wildcards.pattern}" not in shared or len(shared) == len(divided):
        return None
    criteria = {
        jobs[name].wildcards.criterion: [jobs[name].params.criterion, jobs[name].params.code]
        for name in sorted(shared)
    }
    return json.dumps({"criteria": criteria, "groups": divided}, separators=(",", ":"))


rule prune_model:
    input:
        model=paths.manifest(PATHS.model("{model}")),
        dense=paths.manifest(PATHS.dense("{model}", "{seed}")),
        calibration=paths.manifest(PATHS.calibration("{model}", "{seed}")),
    output:
        manifest=paths.manifest(PATHS.pruned("{model}", "{criterion}-{pattern}", "{seed}")),
        run=paths.run(PATHS.pruned("{model}", "{criterion}-{pattern}", "{seed}")),
    log:
        PATHS.log("prune_model", "{model}", "{criterion}-{pattern}", "seed{seed}"),
    wildcard_constraints:
        criterion=WORD,
        pattern=WORD,
    conda:
        "../../envs/freelunch.yaml"
    resources:
        **asks_with_device(pruning_job),
        # As a resource, it reruns nothing: no mask depends on which job chose it.
        together=masks_together,
    params:
        hidden=str(PATHS.hidden("{model}", "{seed}")),
        criterion=lambda wildcards: STUDY.criterion(wildcards.criterion).as_json(),
        # The digest covers only this criterion, so changing one reruns no other.
        code=lambda wildcards: code_digest(
            "prune_model",
            f"freelunch.pruning.criteria.{STUDY.criterion(wildcards.criterion).score}",
        ),
    script:
        "../scripts/prune_model.py"
