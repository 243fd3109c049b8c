# Adapt windows, in as many jobs as the profile asks for.


rule reconstruct_window:
    input:
        model=paths.manifest(PATHS.model("{model}")),
        sample=sample_of,
        masks=masks_of,
        dense=dense_of,
        start=start_of,
        rate=rate_of,
    output:
        manifest=paths.manifest(PATHS.windows(CELL, "{scatteritem}")),
        run=paths.run(PATHS.windows(CELL, "{scatteritem}")),
    log:
        PATHS.log(
            "reconstruct_window",
            "{model}",
            "{pruning}",
            "{adaptation}",
            "seed{seed}",
            "{scatteritem}",
        ),
    priority: if_run(comes_first) or 0
    group:
        if_run(scheduled_windows)
    conda:
        "../../envs/freelunch.yaml"
    # Two jobs side by side with one thread each are faster than one after the other with two.
    threads: 1
    resources:
        **asks_with_device(adapting_job, anew=lambda wildcards: is_forced("reconstruct_window")),
    params:
        hidden=hidden_of,
        # A candidate that diverges is merely not chosen.
        stop_at_divergence=lambda wildcards: "." not in wildcards.adaptation,
        settings=lambda wildcards: STUDY.adaptation(wildcards.adaptation).as_json(),
        # The decided window is a parameter of the job, so correcting a memory formula retrains only the
        # cells whose window changes.
        window=lambda wildcards: PLAN.window(wildcards.model, wildcards.adaptation)[0],
        precision=lambda wildcards: PLAN.precision(wildcards.adaptation),
        code=code_digest("reconstruct_window"),
    script:
        "../scripts/reconstruct_window.py"
