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
    conda:
        "../../envs/freelunch.yaml"
    threads: 2
    resources:
        **asks_with_device(lambda wildcards: PlannedJob.of(steps.CAPTURE_DENSE, Cell.dense(wildcards.model))),
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


rule capture_reference:
    input:
        model=paths.manifest(PATHS.model("{model}")),
        held_out=paths.manifest(PATHS.held_out("{model}", "{seed}")),
    output:
        manifest=paths.manifest(PATHS.reference("{model}", "{seed}")),
        run=paths.run(PATHS.reference("{model}", "{seed}")),
    log:
        PATHS.log("capture_reference", "{model}", "seed{seed}"),
    conda:
        "../../envs/freelunch.yaml"
    threads: 1
    resources:
        **asks_with_device(lambda wildcards: PlannedJob.of(steps.CAPTURE_REFERENCE, Cell.dense(wildcards.model))),
        keep_hidden_states=STUDY.block.keep_hidden_states,
    params:
        hidden=str(PATHS.reference_hidden("{model}", "{seed}")),
        samples=STUDY.drift.samples if STUDY.drift else None,
        code=code_digest("capture_reference"),
    script:
        "../scripts/capture_reference.py"
