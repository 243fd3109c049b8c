# Pass the calibration sample through the dense model once for everything that follows.


rule capture_dense:
    input:
        model=paths.manifest(PATHS.model("{model}")),
        calibration=paths.manifest(PATHS.calibration("{model}", "{seed}")),
    output:
        manifest=paths.manifest(PATHS.dense("{model}", "{seed}")),
        run=paths.run(PATHS.dense("{model}", "{seed}")),
    log:
        PATHS.log("capture_dense", "{model}", "seed{seed}"),
    priority: if_run(comes_first) or 0
    conda:
        "../../envs/freelunch.yaml"
    threads: 2
    resources:
        **asks_with_device(
            lambda wildcards: PlannedJob.of(steps.CAPTURE_DENSE, Cell.dense(wildcards.model))
        ),
        # This affects disk and time, not results. As a resource, it reruns nothing.
        keep_hidden_states=STUDY.block.keep_hidden_states,
    params:
        # A cache beside the outputs: it may be deleted, and nothing reruns.
        hidden=str(PATHS.hidden("{model}", "{seed}")),
        dense_limit=STUDY.block.dense_limit,
        gram=lambda wildcards: STUDY.needs_gram(wildcards.model, int(wildcards.seed)),
        code=code_digest("capture_dense"),
    script:
        "../scripts/capture_dense.py"
