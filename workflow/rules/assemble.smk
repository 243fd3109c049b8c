# Choose among candidates, and assemble checkpoints.


rule choose_candidate:
    input:
        metrics=candidate_metrics_of,
        adapted=candidates_adapted_of,
    output:
        manifest=paths.manifest(
            PATHS.windows("{model}/{pruning}/{adaptation}/seed{seed}", "chosen")
        ),
        run=paths.run(PATHS.windows("{model}/{pruning}/{adaptation}/seed{seed}", "chosen")),
    log:
        PATHS.log("choose_candidate", "{model}", "{pruning}", "{adaptation}", "seed{seed}"),
    wildcard_constraints:
        adaptation=WORD,
    conda:
        "../../envs/freelunch.yaml"
    params:
        candidates=lambda wildcards: {
            name: STUDY.adaptation(name) for name in STUDY.candidate_names(wildcards.adaptation)
        },
        settings=lambda wildcards: STUDY.adaptation(wildcards.adaptation),
        code=code_digest("choose_candidate"),
    script:
        "../scripts/choose_candidate.py"


rule assemble_model:
    input:
        model=paths.manifest(PATHS.model("{model}")),
        masks=masks_of,
        adapted=adapted_of,
    output:
        manifest=paths.manifest(PATHS.checkpoint("{model}/{pruning}/{adaptation}/seed{seed}")),
        run=paths.run(PATHS.checkpoint("{model}/{pruning}/{adaptation}/seed{seed}")),
    log:
        PATHS.log("assemble_model", "{model}", "{pruning}", "{adaptation}", "seed{seed}"),
    conda:
        "../../envs/freelunch.yaml"
    resources:
        mem_mb=lambda wildcards: PLAN.mem_mb(
            "assemble_model", wildcards.model, wildcards.pruning, wildcards.adaptation
        ),
    params:
        code=code_digest("assemble_model"),
    script:
        "../scripts/assemble_model.py"
