# Draw the calibration sample, and pass it through the dense model once for everything that follows.


rule sample_calibration:
    input:
        model=paths.manifest(PATHS.model("{model}")),
        text=paths.manifest(PATHS.text(STUDY.calibration["text"]["name"])),
    output:
        manifest=paths.manifest(PATHS.calibration("{model}", "{seed}")),
        run=paths.run(PATHS.calibration("{model}", "{seed}")),
    log:
        PATHS.log("sample_calibration", "{model}", "seed{seed}"),
    conda:
        "../../envs/freelunch.yaml"
    params:
        samples=STUDY.calibration["samples"],
        length=STUDY.calibration["length"],
        code=code_digest("sample_calibration"),
    script:
        "../scripts/sample_calibration.py"


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
        mem_mb=lambda wildcards: PLAN.mem_mb("capture_dense", wildcards.model),
    params:
        dense_limit=STUDY.block["dense_limit"],
        gram=lambda wildcards: STUDY.needs_gram(wildcards.model, int(wildcards.seed)),
        code=code_digest("capture_dense"),
    script:
        "../scripts/capture_dense.py"
