# Choose among the candidates of a cell, or find its learning rate.


rule choose_candidate:
    input:
        metrics=candidate_metrics_of,
        adapted=candidates_adapted_of,
    output:
        manifest=paths.manifest(PATHS.windows(CELL, "chosen")),
        run=paths.run(PATHS.windows(CELL, "chosen")),
    log:
        PATHS.log("choose_candidate", "{model}", "{pruning}", "{adaptation}", "seed{seed}"),
    wildcard_constraints:
        adaptation=WORD,
    priority: if_run(comes_first) or 0
    localrule: True
    conda:
        "../../envs/freelunch.yaml"
    params:
        candidates=lambda wildcards: {
            name: STUDY.adaptation(name).as_json()
            for name in STUDY.candidate_names(wildcards.adaptation)
        },
        settings=lambda wildcards: STUDY.adaptation(wildcards.adaptation).as_json(),
        code=code_digest("choose_candidate"),
    script:
        "../scripts/choose_candidate.py"


rule find_rate:
    input:
        model=paths.manifest(PATHS.model("{model}")),
        sample=sample_of,
        masks=masks_of,
        dense=dense_of,
        start=start_of,
    output:
        manifest=paths.manifest(PATHS.rate(CELL)),
        run=paths.run(PATHS.rate(CELL)),
    log:
        PATHS.log("find_rate", "{model}", "{pruning}", "{adaptation}", "seed{seed}"),
    wildcard_constraints:
        adaptation=WORD,
    priority: if_run(comes_first) or 0
    # The jobs of its windows follow, side by side if there are several.
    group:
        if_run(scheduled_windows)
    conda:
        "../../envs/freelunch.yaml"
    # As in reconstruct_window.
    threads: 1
    resources:
        # As in retrain_model.
        **asks_with_device(
            lambda wildcards: PlannedJob(steps.FIND_RATE, cell_of(wildcards)), streamed=is_streamed
        ),
    params:
        hidden=hidden_of,
        settings=lambda wildcards: STUDY.adaptation(wildcards.adaptation).as_json(),
        window=lambda wildcards: PLAN.window(wildcards.model, wildcards.adaptation)[0],
        precision=lambda wildcards: PLAN.precision(wildcards.adaptation),
        code=code_digest("find_rate"),
    script:
        "../scripts/find_rate.py"
