# Adapt windows, in as many jobs as the profile asks for.


rule decide_window:
    input:
        model=paths.manifest(PATHS.model("{model}")),
    output:
        window=PATHS.window("{model}", "{adaptation}"),
    log:
        PATHS.log("decide_window", "{model}", "{adaptation}"),
    conda:
        "../../envs/freelunch.yaml"
    params:
        settings=lambda wildcards: STUDY.adaptation(wildcards.adaptation).as_json(),
        samples=lambda wildcards: STUDY.samples(wildcards.adaptation),
        length=STUDY.calibration.length,
        code=code_digest("decide_window"),
    script:
        "../scripts/decide_window.py"


rule reconstruct_window:
    input:
        model=paths.manifest(PATHS.model("{model}")),
        sample=sample_of,
        masks=paths.manifest(PATHS.pruned("{model}", "{pruning}", "{seed}")),
        # Its content counts, through `params.window`, and not its time: a corrected formula that
        # decides the same window retrains nothing.
        window=lambda wildcards: ancient(decision_of(wildcards)),
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
    conda:
        "../../envs/freelunch.yaml"
    # Two jobs side by side with one thread each are faster than one after the other with two.
    threads: 1
    resources:
        mem_mb=lambda wildcards: PLAN.mem_mb(
            "reconstruct_window", wildcards.model, adaptation=wildcards.adaptation
        ),
    params:
        hidden=str(PATHS.hidden("{model}", "{seed}")),
        # A candidate that diverges is merely not chosen.
        stop_at_divergence=lambda wildcards: "." not in wildcards.adaptation,
        settings=lambda wildcards: STUDY.adaptation(wildcards.adaptation).as_json(),
        window=window_of,
        code=code_digest("reconstruct_window"),
    script:
        "../scripts/reconstruct_window.py"
