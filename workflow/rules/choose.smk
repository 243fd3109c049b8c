# Choose among the candidates of a cell.


rule choose_candidate:
    input:
        metrics=candidate_metrics_of,
        adapted=candidates_adapted_of,
    output:
        manifest=paths.manifest(PATHS.windows(CELL, "chosen")),
        run=paths.run(PATHS.windows(CELL, "chosen")),
    log:
        PATHS.log("choose_candidate", "{model}", "{pruning}", "{adaptation}", "seed{seed}"),
    wildcard_constraints:
        adaptation=WORD,
    localrule: True
    conda:
        "../../envs/freelunch.yaml"
    params:
        candidates=lambda wildcards: {
            name: STUDY.adaptation(name).as_json()
            for name in STUDY.candidate_names(wildcards.adaptation)
        },
        settings=lambda wildcards: STUDY.adaptation(wildcards.adaptation).as_json(),
        code=code_digest("choose_candidate"),
    script:
        "../scripts/choose_candidate.py"
