# One small record a cell.


def steps_of(wildcards):
    """Return what a record is collected from: the manifest and the cost of each step."""
    cell = Cell.parse(cell_of(wildcards))
    texts = {STUDY.perplexity["text"]["name"]}
    folders = [PATHS.model(cell.model), PATHS.checkpoint(cell)]
    if not cell.is_dense:
        texts.add(STUDY.calibration["text"]["name"])
        folders += [
            PATHS.calibration(cell.model, cell.seed),
            PATHS.dense(cell.model, cell.seed),
            PATHS.pruned(cell.model, cell.pruning, cell.seed),
        ]
    folders += [PATHS.text(text) for text in sorted(texts)]
    return [paths.manifest(folder) for folder in folders]


rule collect_records:
    input:
        steps=steps_of,
        windows=windows_of,
        metrics=PATHS.metrics("{model}/{pruning}/{adaptation}/seed{seed}") / "perplexity.json",
    output:
        PATHS.records / "{model}__{pruning}__{adaptation}__seed{seed}.json",
    log:
        PATHS.log("collect_records", "{model}", "{pruning}", "{adaptation}", "seed{seed}"),
    conda:
        "../../envs/freelunch.yaml"
    params:
        study=STUDY.name,
        spec=lambda wildcards: STUDY.spec(Cell.parse(cell_of(wildcards))),
        code=code_digest("collect_records"),
    script:
        "../scripts/collect_records.py"
