# What rules ask about a cell.


def cell_of(wildcards):
    """Return the cell's identity as a path."""
    return f"{wildcards.model}/{wildcards.pruning}/{wildcards.adaptation}/seed{wildcards.seed}"


def masks_of(wildcards):
    """Return the masks of a cell; none for the dense one."""
    if wildcards.pruning == DENSE:
        return []
    return [paths.manifest(PATHS.pruned(wildcards.model, wildcards.pruning, wildcards.seed))]


def sample_of(wildcards):
    """Return the token ids that a cell's adaptation is trained on."""
    samples = (STUDY.adaptation(wildcards.adaptation) or {}).get("samples")
    if samples is None:
        return paths.manifest(PATHS.calibration(wildcards.model, wildcards.seed))
    return paths.manifest(PATHS.extended(wildcards.model, wildcards.seed, samples))


def held_out_of_extended(wildcards):
    """Return the text that a sample larger than the calibration sample leaves out."""
    if int(wildcards.samples) <= STUDY.calibration["samples"]:
        return []
    return [paths.manifest(PATHS.held_out(wildcards.model, wildcards.seed))]


def adapted_of(wildcards):
    """Return what holds a cell's adapted blocks; nothing if it is not adapted."""
    return adapted_of_cell(Cell.parse(cell_of(wildcards)))


def adapted_of_cell(cell):
    if cell.adaptation == NONE:
        return []
    if STUDY.candidates(cell):
        return [paths.manifest(PATHS.windows(cell, "chosen"))]
    settings = STUDY.adaptation(cell.adaptation)
    if methods.is_retraining(settings):
        return [paths.manifest(PATHS.windows(cell, windows.MODEL))]
    if windows.is_sequential(settings):
        return [paths.manifest(PATHS.windows(cell, "1-of-1"))]
    return gather.windows(paths.manifest(PATHS.windows(cell, "{scatteritem}")))


def candidates_adapted_of(wildcards):
    """Return what holds the adapted blocks of each of a cell's candidates, one after another."""
    cells = STUDY.candidates(Cell.parse(cell_of(wildcards)))
    return [path for cell in cells for path in adapted_of_cell(cell)]


def candidate_metrics_of(wildcards):
    """Return what was measured on each of a cell's candidates."""
    cell = Cell.parse(cell_of(wildcards))
    measured_by = search.measuring_rule(STUDY.adaptation(cell.adaptation))
    place = PATHS.candidates if measured_by == "evaluate_candidate" else PATHS.metrics
    return [str(place(candidate) / "perplexity.json") for candidate in STUDY.candidates(cell)]


def steps_of(wildcards):
    """Return what a record is collected from: the manifest and the cost of each step."""
    cell = Cell.parse(cell_of(wildcards))
    texts = {STUDY.perplexity["text"]["name"]}
    folders = [PATHS.model(cell.model), PATHS.checkpoint(cell)]
    if not cell.is_dense:
        texts.add(STUDY.calibration["text"]["name"])
        folders += [
            PATHS.calibration(cell.model, cell.seed),
            PATHS.pruned(cell.model, cell.pruning, cell.seed),
        ]
        if STUDY.needs_held_out(cell):
            folders.append(PATHS.held_out(cell.model, cell.seed))
        folders += [
            PATHS.extended(cell.model, cell.seed, samples)
            for samples in STUDY.sizes(cell.adaptation)
        ]
    folders += [PATHS.text(text) for text in sorted(texts)]
    if STUDY.asks_tasks(cell):
        folders += [PATHS.task(task) for task in STUDY.tasks["tasks"]]
    return [paths.manifest(folder) for folder in folders]


def drift_of(wildcards):
    """Return how far a cell's activations drifted; nothing if that is not measured."""
    cell = Cell.parse(cell_of(wildcards))
    return [str(PATHS.drift(cell) / "drift.json")] if STUDY.measures_drift(cell) else []


def answers_of(wildcards):
    """Return what a cell answered to the tasks; none if it is not asked."""
    cell = Cell.parse(cell_of(wildcards))
    if not STUDY.asks_tasks(cell):
        return []
    return [str(PATHS.answers(cell) / name) for name in ("tasks.json", "answers.json.gz")]


def dense_metrics_of(wildcards):
    """Return the dense cell's metrics; none for the dense cell itself."""
    if wildcards.pruning == DENSE:
        return []
    return [dense_metrics(wildcards)]


def dense_metrics(wildcards):
    """Return the perplexity of a model's dense cell: the gate that all else waits at."""
    return str(PATHS.metrics(Cell.dense(wildcards.model)) / "perplexity.json")


# A line that begins with `report` would be a directive to Snakemake.
reported = report


def table_file(table):
    """Return the file of a table, as the report shows it."""
    return reported(
        PATHS.root / table.file,
        caption="../report/tables.rst",
        category="Tables",
        labels={"table": table.name, "content": table.content},
    )


def figure_file(suffix):
    """Return the file of any figure in a format, as the report shows it."""
    return reported(
        PATHS.figures / f"{{figure}}.{suffix}",
        caption="../report/figure.rst",
        category="Figures",
        labels=lambda wildcards: {
            "figure": figure_of(wildcards).title,
            "format": suffix.upper(),
        },
    )


def figure_of(wildcards):
    return figures.figures()[wildcards.figure]
