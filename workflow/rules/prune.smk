# Choose masks from dense statistics, or block by block in the pruned model.


rule prune_model:
    input:
        model=paths.manifest(PATHS.model("{model}")),
        dense=statistics_of,
        calibration=paths.manifest(PATHS.calibration("{model}", "{seed}")),
    output:
        manifest=paths.manifest(PATHS.pruned("{model}", "{criterion}-{pattern}", "{seed}")),
        run=paths.run(PATHS.pruned("{model}", "{criterion}-{pattern}", "{seed}")),
    log:
        PATHS.log("prune_model", "{model}", "{criterion}-{pattern}", "seed{seed}"),
    wildcard_constraints:
        criterion=WORD,
        pattern=WORD,
    priority: if_run(comes_first) or 0
    conda:
        "../../envs/freelunch.yaml"
    # Blocks that wait for each other pass one after another, which two threads do faster.
    threads: lambda wildcards: 1 if STUDY.criterion(wildcards.criterion).statistics == "dense" else 2
    resources:
        # As a resource, what is together reruns nothing: no mask depends on which job chose it.
        **asks_with_device(pruning_job, together=masks_together),
    params:
        criterion=lambda wildcards: STUDY.criterion(wildcards.criterion).as_json(),
        # The digest covers only this criterion, so changing one reruns no other.
        code=lambda wildcards: code_digest(
            "prune_model",
            f"freelunch.pruning.criteria.{STUDY.criterion(wildcards.criterion).score}",
        ),
    script:
        "../scripts/prune_model.py"
