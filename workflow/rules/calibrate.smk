# Draw the calibration sample, the held-out text and larger samples, and pass the calibration sample
# through the dense model once for everything that follows.


rule sample_calibration:
    input:
        model=paths.manifest(PATHS.model("{model}")),
        text=paths.manifest(PATHS.text(STUDY.calibration.text)),
    output:
        manifest=paths.manifest(PATHS.calibration("{model}", "{seed}")),
        run=paths.run(PATHS.calibration("{model}", "{seed}")),
    log:
        PATHS.log("sample_calibration", "{model}", "seed{seed}"),
    localrule: True
    conda:
        "../../envs/freelunch.yaml"
    params:
        samples=STUDY.calibration.samples,
        length=lambda wildcards: STUDY.calibration_of(wildcards.model).length,
        code=code_digest("sample_calibration"),
    script:
        "../scripts/sample_calibration.py"


rule sample_held_out:
    input:
        model=paths.manifest(PATHS.model("{model}")),
        text=paths.manifest(PATHS.text(STUDY.calibration.text)),
        calibration=paths.manifest(PATHS.calibration("{model}", "{seed}")),
    output:
        manifest=paths.manifest(PATHS.held_out("{model}", "{seed}")),
        run=paths.run(PATHS.held_out("{model}", "{seed}")),
    log:
        PATHS.log("sample_held_out", "{model}", "seed{seed}"),
    # This runs before any adaptation, so that a text that is too short stops a search at once.
    priority: 1
    localrule: True
    conda:
        "../../envs/freelunch.yaml"
    params:
        settings=STUDY.held_out_samples,
        code=code_digest("sample_held_out"),
    script:
        "../scripts/sample_held_out.py"


rule extend_calibration:
    input:
        model=paths.manifest(PATHS.model("{model}")),
        text=paths.manifest(PATHS.text(STUDY.calibration.text)),
        calibration=paths.manifest(PATHS.calibration("{model}", "{seed}")),
        held_out=held_out_of_extended,
    output:
        manifest=paths.manifest(PATHS.extended("{model}", "{seed}", "{samples}")),
        run=paths.run(PATHS.extended("{model}", "{seed}", "{samples}")),
    log:
        PATHS.log("extend_calibration", "{model}", "seed{seed}", "{samples}"),
    wildcard_constraints:
        samples=r"\d+",
    localrule: True
    conda:
        "../../envs/freelunch.yaml"
    params:
        code=code_digest("extend_calibration"),
    script:
        "../scripts/extend_calibration.py"


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
        **asks_with_device(lambda wildcards: Job(steps.CAPTURE_DENSE, wildcards.model)),
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
        **asks_with_device(lambda wildcards: Job(steps.CAPTURE_REFERENCE, wildcards.model)),
        keep_hidden_states=STUDY.block.keep_hidden_states,
    params:
        hidden=str(PATHS.reference_hidden("{model}", "{seed}")),
        samples=STUDY.drift.samples if STUDY.drift else None,
        code=code_digest("capture_reference"),
    script:
        "../scripts/capture_reference.py"
