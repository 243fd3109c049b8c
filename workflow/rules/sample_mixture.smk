# Draw the calibration sample, the held-out text and larger samples from a mixture of texts.


rule sample_calibration:
    input:
        unpack(text_of_mixture),
    output:
        manifest=paths.manifest(PATHS.calibration("{model}", "{seed}")),
        run=paths.run(PATHS.calibration("{model}", "{seed}")),
    log:
        PATHS.log("sample_calibration", "{model}", "seed{seed}"),
    # Evaluation text in a part stops a study at once.
    priority: 1
    localrule: True
    conda:
        "../../envs/freelunch.yaml"
    resources:
        # Only whether the text suffices depends on it. As a resource, it reruns nothing.
        most_samples=STUDY.most_samples,
    params:
        settings=lambda wildcards: {
            "samples": STUDY.calibration.samples,
            "length": STUDY.calibration_of(wildcards.model).length,
        },
        code=code_digest("sample_mixture"),
    script:
        "../scripts/sample_mixture.py"


rule sample_held_out:
    input:
        unpack(text_of_mixture),
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
        settings=lambda wildcards: {
            **STUDY.held_out_samples,
            "length": STUDY.calibration_of(wildcards.model).length,
        },
        code=code_digest("sample_mixture"),
    script:
        "../scripts/sample_mixture.py"


rule extend_calibration:
    input:
        unpack(text_of_mixture),
        calibration=paths.manifest(PATHS.calibration("{model}", "{seed}")),
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
        settings=lambda wildcards: {"length": STUDY.calibration_of(wildcards.model).length},
        code=code_digest("sample_mixture"),
    script:
        "../scripts/sample_mixture.py"
