# Choose masks from the dense statistics.


rule prune_model:
    input:
        model=paths.manifest(PATHS.model("{model}")),
        dense=paths.manifest(PATHS.dense("{model}", "{seed}")),
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
        mem_mb=lambda wildcards: PLAN.mem_mb("prune_model", wildcards.model),
    params:
        criterion=lambda wildcards: STUDY.criterion(wildcards.criterion),
        pattern=lambda wildcards: wildcards.pattern,
        code=code_digest("prune_model"),
    script:
        "../scripts/prune_model.py"
