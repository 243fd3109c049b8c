# Adapt windows, as many jobs as the profile asks for, and assemble checkpoints.


rule reconstruct_window:
    input:
        model=paths.manifest(PATHS.model("{model}")),
        calibration=paths.manifest(PATHS.calibration("{model}", "{seed}")),
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
        hidden=str(PATHS.hidden("{model}", "{seed}")),
        # One candidate of several that diverges is merely not chosen.
        stop_at_divergence=lambda wildcards: "." not in wildcards.adaptation,
        settings=lambda wildcards: STUDY.adaptation(wildcards.adaptation),
        code=code_digest("reconstruct_window"),
    script:
        "../scripts/reconstruct_window.py"


rule choose_candidate:
    input:
        metrics=candidate_metrics_of,
        windows=candidate_windows_of,
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
        candidates=lambda wildcards: STUDY.candidate_names(wildcards.adaptation),
        settings=lambda wildcards: STUDY.adaptation(wildcards.adaptation),
        code=code_digest("choose_candidate"),
    script:
        "../scripts/choose_candidate.py"


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
        mem_mb=lambda wildcards: PLAN.mem_mb(
            "assemble_model", wildcards.model, wildcards.pruning, wildcards.adaptation
        ),
    params:
        code=code_digest("assemble_model"),
    script:
        "../scripts/assemble_model.py"
