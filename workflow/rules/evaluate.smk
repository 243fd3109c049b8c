# Assemble checkpoints and measure them.


rule cut_windows:
    input:
        model=paths.manifest(PATHS.model("{model}")),
        text=paths.manifest(PATHS.text(STUDY.perplexity.text)),
        bos=paths.manifest(PATHS.bos("{model}")),
    output:
        manifest=paths.manifest(PATHS.text_windows("{model}")),
        run=paths.run(PATHS.text_windows("{model}")),
    log:
        PATHS.log("cut_windows", "{model}"),
    localrule: True
    conda:
        "../../envs/freelunch.yaml"
    params:
        settings=lambda wildcards: STUDY.perplexity_of(wildcards.model).cutting(),
        code=code_digest("cut_windows"),
    script:
        "../scripts/cut_windows.py"


rule evaluate_cell:
    input:
        unpack(measured_with),
        model=paths.manifest(PATHS.model("{model}")),
        masks=masks_of,
        adapted=adapted_of,
        # The dense model comes first: if it is broken, no other number means anything. When it is
        # evaluated again, the other cells rerun, too, but keep their measurements. `ancient` would hide
        # other reasons to run them from Snakemake.
        dense=dense_metrics_of,
    output:
        checkpoint=paths.manifest(PATHS.checkpoint(CELL)),
        manifest=paths.manifest(PATHS.metrics(CELL)),
        run=paths.run(PATHS.metrics(CELL)),
    log:
        PATHS.log("evaluate_cell", "{model}", "{pruning}", "{adaptation}", "seed{seed}"),
    priority: if_run(comes_first) or 0
    group:
        if_run(scheduled_cell)
    conda:
        "../../envs/freelunch.yaml"
    # Evaluations run side by side, which is faster than one after the other with more threads.
    threads: 1
    resources:
        # Forcing this rule repeats all its measurements. As a resource, this reruns nothing by itself.
        **asks_with_device(
            lambda wildcards: evaluation(cell_of(wildcards)),
            anew=lambda wildcards: is_forced("evaluate_cell"),
        ),
    params:
        measurements=lambda wildcards: STUDY.measurements(cell_of(wildcards)),
        # Each measurement has its own digest, so changing one repeats no other.
        measuring=lambda wildcards: {
            name: code_digest("evaluate_cell", f"freelunch.evaluation.{name}")
            for name in STUDY.measurements(cell_of(wildcards))
        },
        dense_limit=lambda wildcards: (
            STUDY.block.dense_limit if cell_of(wildcards).is_dense else None
        ),
        code=code_digest("evaluate_cell"),
    script:
        "../scripts/evaluate_cell.py"
