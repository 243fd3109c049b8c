# Fetch models, texts and tasks. All studies share them.
#
# Downloads never run in a container: Snakemake would hide the home folder from them, which has the token for the hub.


rule fetch_model:
    input:
        lambda wildcards: STUDY.source_files("models", wildcards.model),
    output:
        manifest=paths.manifest(PATHS.model("{model}")),
        run=paths.run(PATHS.model("{model}")),
    log:
        PATHS.log("fetch_model", "{model}"),
    localrule: True
    conda:
        "../../envs/freelunch.yaml"
    container:
        None
    resources:
        **asks(lambda wildcards: Job(steps.FETCH_MODEL, wildcards.model)),
    params:
        entry=lambda wildcards: STUDY.model(wildcards.model).fetched(),
        code=code_digest("fetch_model"),
    script:
        "../scripts/fetch_model.py"


rule fetch_text:
    input:
        lambda wildcards: STUDY.source_files("texts", wildcards.text),
    output:
        manifest=paths.manifest(PATHS.text("{text}")),
        run=paths.run(PATHS.text("{text}")),
    log:
        PATHS.log("fetch_text", "{text}"),
    localrule: True
    conda:
        "../../envs/freelunch.yaml"
    container:
        None
    params:
        entry=lambda wildcards: STUDY.text(wildcards.text).fetched(),
        code=code_digest("fetch_text"),
    script:
        "../scripts/fetch_text.py"


if STUDY.tasks:

    # One job fetches all tasks, since finding lm-eval's own tasks among thousands is slow.
    rule fetch_tasks:
        input:
            [path for name in STUDY.tasks["tasks"] for path in STUDY.source_files("tasks", name)],
        output:
            manifests=[paths.manifest(PATHS.task(name)) for name in STUDY.tasks["tasks"]],
            run=paths.run(PATHS.tasks),
        log:
            PATHS.log("fetch_tasks"),
        localrule: True
        conda:
            "../../envs/freelunch.yaml"
        container:
            None
        params:
            entries={name: STUDY.config.tasks[name].fetched() for name in STUDY.tasks["tasks"]},
            code=code_digest("fetch_tasks"),
        script:
            "../scripts/fetch_tasks.py"
