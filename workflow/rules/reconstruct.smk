# Adapt windows, as many jobs as the profile asks for, and assemble checkpoints.


def cell_of(wildcards):
    """Return the cell's identity as a path."""
    return f"{wildcards.model}/{wildcards.pruning}/{wildcards.adaptation}/seed{wildcards.seed}"


def masks_of(wildcards):
    """Return the masks of a cell; none for the dense one."""
    if wildcards.pruning == DENSE:
        return []
    return [paths.manifest(PATHS.pruned(wildcards.model, wildcards.pruning, wildcards.seed))]


def windows_of(wildcards):
    """Return the jobs that adapt a cell's windows; none if it is not adapted."""
    if wildcards.adaptation == NONE:
        return []
    return gather.windows(paths.manifest(PATHS.windows(cell_of(wildcards), "{scatteritem}")))


rule reconstruct_window:
    input:
        model=paths.manifest(PATHS.model("{model}")),
        dense=paths.manifest(PATHS.dense("{model}", "{seed}")),
        masks=paths.manifest(PATHS.pruned("{model}", "{pruning}", "{seed}")),
    output:
        manifest=paths.manifest(
            PATHS.windows("{model}/{pruning}/{adaptation}/seed{seed}", "{scatteritem}")
        ),
        run=paths.run(
            PATHS.windows("{model}/{pruning}/{adaptation}/seed{seed}", "{scatteritem}")
        ),
    log:
        PATHS.log(
            "reconstruct_window", "{model}", "{pruning}", "{adaptation}", "seed{seed}", "{scatteritem}"
        ),
    conda:
        "../../envs/freelunch.yaml"
    params:
        settings=lambda wildcards: STUDY.adaptation(wildcards.adaptation),
        code=code_digest("reconstruct_window"),
    # Two jobs of one thread each finish before two jobs of two, one after the other.
    threads: 1
    resources:
        mem_mb=lambda wildcards: PLAN.mem_mb(
            "reconstruct_window", wildcards.model, wildcards.adaptation
        ),
    script:
        "../scripts/reconstruct_window.py"


rule assemble_model:
    input:
        model=paths.manifest(PATHS.model("{model}")),
        masks=masks_of,
        adapted=windows_of,
    output:
        manifest=paths.manifest(PATHS.checkpoint("{model}/{pruning}/{adaptation}/seed{seed}")),
        run=paths.run(PATHS.checkpoint("{model}/{pruning}/{adaptation}/seed{seed}")),
    log:
        PATHS.log("assemble_model", "{model}", "{pruning}", "{adaptation}", "seed{seed}"),
    conda:
        "../../envs/freelunch.yaml"
    params:
        code=code_digest("assemble_model"),
    resources:
        mem_mb=lambda wildcards: PLAN.mem_mb("assemble_model", wildcards.model),
    script:
        "../scripts/assemble_model.py"
