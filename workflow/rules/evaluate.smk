# Measure checkpoints.


rule evaluate_candidate:
    input:
        checkpoint=paths.manifest(PATHS.checkpoint("{model}/{pruning}/{adaptation}/seed{seed}")),
        held_out=paths.manifest(PATHS.held_out("{model}", "{seed}")),
    output:
        metrics=PATHS.candidates("{model}/{pruning}/{adaptation}/seed{seed}") / "perplexity.json",
        run=paths.run(PATHS.candidates("{model}/{pruning}/{adaptation}/seed{seed}")),
    log:
        PATHS.log("evaluate_candidate", "{model}", "{pruning}", "{adaptation}", "seed{seed}"),
    conda:
        "../../envs/freelunch.yaml"
    threads: 1
    resources:
        mem_mb=lambda wildcards: PLAN.mem_mb("evaluate_candidate", wildcards.model),
    params:
        code=code_digest("evaluate_candidate"),
    script:
        "../scripts/evaluate_candidate.py"


rule evaluate_perplexity:
    input:
        checkpoint=paths.manifest(PATHS.checkpoint("{model}/{pruning}/{adaptation}/seed{seed}")),
        text=paths.manifest(PATHS.text(STUDY.perplexity["text"]["name"])),
        # The dense model comes first: if it is broken, no other number means anything. Whatever
        # makes its evaluation run again concerns all the others too.
        dense=dense_metrics_of,
    output:
        metrics=PATHS.metrics("{model}/{pruning}/{adaptation}/seed{seed}") / "perplexity.json",
        run=paths.run(PATHS.metrics("{model}/{pruning}/{adaptation}/seed{seed}")),
    log:
        PATHS.log("evaluate_perplexity", "{model}", "{pruning}", "{adaptation}", "seed{seed}"),
    conda:
        "../../envs/freelunch.yaml"
    # The dense model is evaluated before anything else, so it has the machine to itself; the other
    # evaluations run side by side, which is faster than one after the other with more threads.
    threads: lambda wildcards: 2 if wildcards.pruning == DENSE else 1
    resources:
        mem_mb=lambda wildcards: PLAN.mem_mb("evaluate_perplexity", wildcards.model),
    params:
        settings={key: STUDY.perplexity[key] for key in ("length", "windows", "stride")},
        dense_limit=STUDY.block["dense_limit"],
        is_dense=lambda wildcards: wildcards.pruning == DENSE,
        code=code_digest("evaluate_perplexity"),
    script:
        "../scripts/evaluate_perplexity.py"


rule measure_drift:
    input:
        checkpoint=paths.manifest(PATHS.checkpoint("{model}/{pruning}/{adaptation}/seed{seed}")),
        model=paths.manifest(PATHS.model("{model}")),
        held_out=paths.manifest(PATHS.held_out("{model}", "{seed}")),
    output:
        metrics=PATHS.drift("{model}/{pruning}/{adaptation}/seed{seed}") / "drift.json",
        run=paths.run(PATHS.drift("{model}/{pruning}/{adaptation}/seed{seed}")),
    log:
        PATHS.log("measure_drift", "{model}", "{pruning}", "{adaptation}", "seed{seed}"),
    conda:
        "../../envs/freelunch.yaml"
    threads: 1
    resources:
        mem_mb=lambda wildcards: PLAN.mem_mb("measure_drift", wildcards.model),
    params:
        samples=STUDY.block["evaluation"].get("drift", {}).get("samples"),
        code=code_digest("measure_drift"),
    script:
        "../scripts/measure_drift.py"


rule evaluate_tasks:
    input:
        checkpoint=paths.manifest(PATHS.checkpoint("{model}/{pruning}/{adaptation}/seed{seed}")),
        tasks=[paths.manifest(PATHS.task(name)) for name in STUDY.tasks.get("tasks", {})],
        # Not before the dense model's perplexity is known to be sound.
        dense=dense_metrics,
    output:
        metrics=PATHS.answers("{model}/{pruning}/{adaptation}/seed{seed}") / "tasks.json",
        answers=PATHS.answers("{model}/{pruning}/{adaptation}/seed{seed}") / "answers.json.gz",
        run=paths.run(PATHS.answers("{model}/{pruning}/{adaptation}/seed{seed}")),
    log:
        PATHS.log("evaluate_tasks", "{model}", "{pruning}", "{adaptation}", "seed{seed}"),
    conda:
        "../../envs/freelunch.yaml"
    threads: 1
    resources:
        mem_mb=lambda wildcards: PLAN.mem_mb("evaluate_tasks", wildcards.model),
    params:
        settings={key: STUDY.tasks.get(key) for key in ("limit", "seed")},
        code=code_digest("evaluate_tasks"),
    script:
        "../scripts/evaluate_tasks.py"
