# Decide how sequences begin, and draw the calibration sample, the held-out text and larger samples, from a single text
# or a mixture.

# One script draws every sample.
SAMPLING = "sample_mixture" if STUDY.mixture else "sample_text"


rule decide_bos:
    input:
        model=paths.manifest(PATHS.model("{model}")),
        text=paths.manifest(PATHS.text(STUDY.calibration.text)),
    output:
        manifest=paths.manifest(PATHS.bos("{model}")),
        run=paths.run(PATHS.bos("{model}")),
    log:
        PATHS.log("decide_bos", "{model}"),
    conda:
        "../../envs/freelunch.yaml"
    threads: 2
    resources:
        **asks_with_device(
            lambda wildcards: PlannedJob.of(steps.DECIDE_BOS, Cell.dense(wildcards.model))
        ),
    params:
        bos=lambda wildcards: STUDY.model(wildcards.model).bos,
        length=lambda wildcards: STUDY.calibration_of(wildcards.model).length,
        code=code_digest("decide_bos"),
    script:
        "../scripts/decide_bos.py"


rule sample_calibration:
    input:
        unpack(text_of_samples),
    output:
        manifest=paths.manifest(PATHS.calibration("{model}", "{seed}")),
        run=paths.run(PATHS.calibration("{model}", "{seed}")),
    log:
        PATHS.log("sample_calibration", "{model}", "seed{seed}"),
    # Evaluation text in a part of a mixture stops a study at once.
    priority: 1
    localrule: True
    conda:
        "../../envs/freelunch.yaml"
    resources:
        # Only whether the text of a mixture suffices depends on it. As a resource, it reruns nothing.
        most_samples=STUDY.most_samples,
    params:
        settings=lambda wildcards: {
            "samples": STUDY.calibration.samples,
            **length_of(wildcards),
        },
        code=code_digest(SAMPLING),
    script:
        f"../scripts/{SAMPLING}.py"


rule sample_held_out:
    input:
        unpack(text_of_samples),
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
        settings=lambda wildcards: {**STUDY.held_out_samples, **length_of(wildcards)},
        code=code_digest(SAMPLING),
    script:
        f"../scripts/{SAMPLING}.py"


rule extend_calibration:
    input:
        unpack(text_of_samples),
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
        settings=length_of,
        code=code_digest(SAMPLING),
    script:
        f"../scripts/{SAMPLING}.py"
