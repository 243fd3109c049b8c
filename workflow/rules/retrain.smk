# Retrain whole pruned models on text.


rule retrain_model:
    input:
        model=paths.manifest(PATHS.model("{model}")),
        sample=sample_of,
        masks=masks_of,
        dense=dense_of,
        start=start_of,
        rate=rate_of,
    output:
        manifest=paths.manifest(PATHS.windows(CELL, windows.MODEL)),
        run=paths.run(PATHS.windows(CELL, windows.MODEL)),
    log:
        PATHS.log("retrain_model", "{model}", "{pruning}", "{adaptation}", "seed{seed}"),
    priority: if_run(comes_first) or 0
    group:
        if_run(scheduled_cell)
    conda:
        "../../envs/freelunch.yaml"
    # As in reconstruct_window.
    threads: 1
    resources:
        # A resource, since it changes no result: a larger machine need not train again.
        **asks_with_device(adapting_job, streamed=is_streamed),
    params:
        hidden=hidden_of,
        stop_at_divergence=lambda wildcards: "." not in wildcards.adaptation,
        settings=lambda wildcards: STUDY.adaptation(wildcards.adaptation).as_json(),
        precision=lambda wildcards: PLAN.precision(wildcards.adaptation),
        code=code_digest("retrain_model"),
    script:
        "../scripts/retrain_model.py"
