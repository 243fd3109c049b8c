# Adapt windows, as many jobs as the profile asks for, and assemble checkpoints.


rule reconstruct_window:
    input:
        model=paths.manifest(PATHS.model("{model}")),
        dense=paths.manifest(PATHS.dense("{model}", "{seed}")),
        masks=paths.manifest(PATHS.pruned("{model}", "{pruning}", "{seed}")),
    output:
        manifest=paths.manifest(
            PATHS.windows("{model}/{pruning}/{adaptation}/seed{seed}", "{scatteritem}")
        ),
        run=paths.run(PATHS.windows("{model}/{pruning}/{adaptation}/seed{seed}", "{scatteritem}")),
    log:
        PATHS.log(
            "reconstruct_window",
            "{model}",
            "{pruning}",
            "{adaptation}",
            "seed{seed}",
            "{scatteritem}",
        ),
    conda:
        "../../envs/freelunch.yaml"
    # Two jobs of one thread each finish before two jobs of two, one after the other.
    threads: 1
    resources:
        mem_mb=lambda wildcards: PLAN.mem_mb(
            "reconstruct_window", wildcards.model, adaptation=wildcards.adaptation
        ),
    params:
        settings=lambda wildcards: STUDY.adaptation(wildcards.adaptation),
        code=code_digest("reconstruct_window"),
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
    resources:
        mem_mb=lambda wildcards: PLAN.mem_mb("assemble_model", wildcards.model),
    params:
        code=code_digest("assemble_model"),
    script:
        "../scripts/assemble_model.py"
