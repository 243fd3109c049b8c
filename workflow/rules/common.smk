# What rules ask about a cell.


def cell_of(wildcards):
    """Return the cell's identity as a path."""
    return f"{wildcards.model}/{wildcards.pruning}/{wildcards.adaptation}/seed{wildcards.seed}"


def masks_of(wildcards):
    """Return the masks of a cell; none for the dense one."""
    if wildcards.pruning == DENSE:
        return []
    return [paths.manifest(PATHS.pruned(wildcards.model, wildcards.pruning, wildcards.seed))]


def windows_of(wildcards):
    """Return the jobs that adapt a cell's windows; none if it is not adapted."""
    if wildcards.adaptation == NONE:
        return []
    return gather.windows(paths.manifest(PATHS.windows(cell_of(wildcards), "{scatteritem}")))


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
    folders += [PATHS.text(text) for text in sorted(texts)]
    return [paths.manifest(folder) for folder in folders]


def dense_metrics_of(wildcards):
    """Return the dense cell's metrics; none for the dense cell itself."""
    if wildcards.pruning == DENSE:
        return []
    return [str(PATHS.metrics(Cell.dense(wildcards.model)) / "perplexity.json")]
