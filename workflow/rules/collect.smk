# Collect one small record per cell.


rule collect_records:
    input:
        steps=steps_of,
        adapted=adapted_of,
        rate=rate_of,
        start=start_record_of,
    output:
        PATHS.records / "{model}__{pruning}__{adaptation}__seed{seed}.json",
    log:
        PATHS.log("collect_records", "{model}", "{pruning}", "{adaptation}", "seed{seed}"),
    priority: if_run(comes_first) or 0
    group:
        if_run(scheduled_cell)
    conda:
        "../../envs/freelunch.yaml"
    resources:
        mem_mb=RECORD.mem_mb,
        runtime=RECORD.runtime,
    params:
        study=STUDY.name,
        spec=lambda wildcards: STUDY.spec(cell_of(wildcards)),
        code=code_digest("collect_records"),
    script:
        "../scripts/collect_records.py"
