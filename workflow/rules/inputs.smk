# What jobs read, and which files the report shows.

from freelunch.audit import effects, output_files
from freelunch.core.code_digest import code_digest
from freelunch.reporting import tables
from freelunch.reporting.figures import FORMATS, figure_modules
from freelunch.study import paths, search, steps, windows
from freelunch.study.cell import ADAPTATION, DENSE, NAME, NONE, WORD, Cell

PATHS = STUDY.paths
CELL = "{model}/{pruning}/{adaptation}/seed{seed}"
RECORDS = [str(PATHS.record(cell)) for cell in STUDY.cells]
TEXTS = sorted({STUDY.perplexity.text, STUDY.calibration.text})
TASKS = list(STUDY.tasks.get("tasks", {}))


# The cells of each of the first findings, which the terminal tells while the rest of the study runs on.
FIRST = [[*{Cell.dense(cell.model) for cell in cells}, *cells] for cells in STUDY.comparisons.first]


def comes_first(wildcards):
    """Return the priority of a job: what an earlier finding needs runs before what a later one needs,
    that before the rest, and the dense pass, which takes two cores, before all.
    """
    named = {name: value for name, value in wildcards.items() if name != "scatteritem"}
    if "adaptation" in named:
        named["adaptation"] = search.adaptation_of(named["adaptation"])
    for earlier, cells in enumerate(FIRST):
        for cell in cells:
            if all(str(getattr(cell, name)) == named[name] for name in named):
                return len(FIRST) - earlier + ("pruning" not in named)
    return 0


def cell_of(wildcards):
    """Return the cell or the candidate that a job is about."""
    return Cell.parse(CELL.format(**dict(wildcards.items())))


def masks_of(wildcards):
    """Return the masks of a cell; none if nothing is pruned."""
    if wildcards.pruning == DENSE:
        return []
    return [paths.manifest(PATHS.pruned(wildcards.model, wildcards.pruning, wildcards.seed))]


def statistics_of(wildcards):
    """Return the dense pass if its statistics decide masks; nothing for sparse statistics."""
    if STUDY.criterion(wildcards.criterion).statistics == "sparse":
        return []
    return [paths.manifest(PATHS.dense(wildcards.model, wildcards.seed))]


def dense_of(wildcards):
    """Return the dense pass that an adaptation reads, unless the masks have waited for it."""
    cell = cell_of(wildcards)
    if not STUDY.needs_dense_pass(cell) or STUDY.criterion(cell.criterion).statistics == "dense":
        return []
    return [paths.manifest(PATHS.dense(wildcards.model, wildcards.seed))]


def hidden_of(wildcards):
    """Return the folder of the dense hidden states that an adaptation reads; none if it does not wait
    for the pass that makes them.
    """
    if not STUDY.needs_dense_pass(cell_of(wildcards)):
        return None
    return str(PATHS.hidden(wildcards.model, wildcards.seed))


def start_of(wildcards):
    """Return the checkpoint that a cell's adaptation starts from; none if from the pruned model."""
    start = STUDY.start_of(cell_of(wildcards))
    return [] if start is None else [paths.manifest(PATHS.checkpoint(start))]


def sample_of(wildcards):
    """Return the token ids that a cell's adaptation is trained on."""
    samples = STUDY.samples(wildcards.adaptation)
    if samples == STUDY.calibration.samples:
        return paths.manifest(PATHS.calibration(wildcards.model, wildcards.seed))
    return paths.manifest(PATHS.extended(wildcards.model, wildcards.seed, samples))


def text_of_samples(wildcards):
    """Return what every sample is drawn from, and of a mixture also what its samples leave out."""
    found = {
        "model": PATHS.model(wildcards.model),
        "bos": PATHS.bos(wildcards.model),
        "text": PATHS.text(STUDY.calibration.text),
    }
    if STUDY.mixture:
        found["evaluation"] = PATHS.text(STUDY.perplexity.text)
        found["windows"] = PATHS.text_windows(wildcards.model)
    return {name: paths.manifest(folder) for name, folder in found.items()}


def length_of(wildcards):
    """Return the tokens of each sequence."""
    return {"length": STUDY.calibration_of(wildcards.model).length}


def held_out_of_extended(wildcards):
    """Return the held-out text that a sample larger than the calibration sample leaves out. A mixture
    holds out documents before any sample is drawn.
    """
    if STUDY.mixture or int(wildcards.samples) <= STUDY.calibration.samples:
        return []
    return [paths.manifest(PATHS.held_out(wildcards.model, wildcards.seed))]


def rate_of(wildcards):
    """Return the manifest of what found the learning rate of a cell's adaptation; nothing if none did."""
    cell = cell_of(wildcards)
    found = search.finds_rate(STUDY.adaptation(cell.adaptation))
    return [paths.manifest(PATHS.rate(cell))] if found else []


def adapted_of(wildcards):
    """Return the manifests of a cell's adapted blocks; nothing if it is not adapted."""
    return adapted_of_cell(cell_of(wildcards))


def adapted_of_cell(cell):
    if cell.adaptation == NONE:
        return []
    settings = STUDY.adaptation(cell.adaptation)
    if STUDY.candidates(cell):
        parts = ["chosen"]
    elif settings.is_retraining:
        parts = [windows.MODEL]
    else:
        groups = 1 if settings.is_sequential else window_groups()
        parts = [f"{group}-of-{groups}" for group in range(1, groups + 1)]
    return [paths.manifest(PATHS.windows(cell, part)) for part in parts]


def candidates_adapted_of(wildcards):
    """Return the manifests of the adapted blocks of a cell's candidates, one after another."""
    cells = STUDY.candidates(cell_of(wildcards))
    return [path for cell in cells for path in adapted_of_cell(cell)]


def candidate_metrics_of(wildcards):
    """Return the manifests of the measurements of a cell's candidates."""
    cells = STUDY.candidates(cell_of(wildcards))
    return [paths.manifest(PATHS.metrics(candidate)) for candidate in cells]


def measured_with(wildcards):
    """Return the inputs of each measurement of a cell besides its checkpoint, by its name."""
    model, seed = wildcards.model, wildcards.seed
    held_out = PATHS.held_out(model, seed)
    needed = {
        steps.PERPLEXITY: [PATHS.text_windows(model)],
        steps.HELD_OUT: [held_out],
        steps.DRIFT: [PATHS.model(model), held_out],
        steps.TASKS: [PATHS.bos(model), *(PATHS.task(name) for name in TASKS)],
    }
    return {
        name: [paths.manifest(folder) for folder in needed.get(name, [])]
        for name in STUDY.measurements(cell_of(wildcards))
    }


def dense_metrics_of(wildcards):
    """Return the measurements of the dense model, for which all other cells wait; nothing for the
    dense cell itself and for candidates, which are compared among themselves.
    """
    is_candidate = search.adaptation_of(wildcards.adaptation) != wildcards.adaptation
    if cell_of(wildcards).is_dense or is_candidate:
        return []
    return [paths.manifest(PATHS.metrics(Cell.dense(wildcards.model)))]


def start_record_of(wildcards):
    """Return the record of the cell that a cell's adaptation starts from; none if there is none."""
    start = STUDY.start_of(cell_of(wildcards))
    return [] if start is None else [str(PATHS.record(start))]


def steps_of(wildcards):
    """Return what a record is collected from: the manifest of each step."""
    cell = cell_of(wildcards)
    texts = {STUDY.perplexity.text}
    folders = [PATHS.model(cell.model), PATHS.bos(cell.model)]
    folders += [PATHS.checkpoint(cell), PATHS.metrics(cell)]
    if not cell.is_dense:
        texts.add(STUDY.calibration.text)
        folders.append(PATHS.calibration(cell.model, cell.seed))
        if cell.is_pruned:
            folders.append(PATHS.pruned(cell.model, cell.pruning, cell.seed))
        if STUDY.needs_held_out(cell):
            folders.append(PATHS.held_out(cell.model, cell.seed))
        folders += [
            PATHS.extended(cell.model, cell.seed, samples)
            for samples in STUDY.sizes(cell.adaptation)
        ]
    folders += [PATHS.text(text) for text in sorted(texts)]
    if STUDY.asks_tasks(cell):
        folders += [PATHS.task(task) for task in TASKS]
    return [paths.manifest(folder) for folder in folders]


# Snakemake would read a line that begins with `report` as a directive.
reported = report


def table_file(table):
    """Return the file of a table, marked for the report."""
    return reported(
        PATHS.root / table.file,
        caption="../report/tables.rst",
        category="Tables",
        labels={"table": table.name, "content": table.content},
    )


def figure_file(suffix):
    """Return the file of any figure in a format, marked for the report."""
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
    return effects.figures()[wildcards.figure]
