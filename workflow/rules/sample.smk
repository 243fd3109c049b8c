# Draw the calibration sample, the held-out text and larger samples from a single text.


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
