"""Contradictions in a config: settings that are each valid but do not go together."""

import os
from collections.abc import Iterator
from dataclasses import replace
from functools import cache
from itertools import product, starmap

from freelunch.core.errors import nearest
from freelunch.study import sources
from freelunch.study.adaptations import Adaptation, LeastSquares, Local, Reconstruction, Training
from freelunch.study.cell import DENSE, NONE, Cell
from freelunch.study.config import (
    Config,
    Grid,
    budget_of,
    budget_tokens,
    cells_of,
    claims_of,
    grids_in,
    models_of,
    part_words,
)
from freelunch.study.criteria import OfWeights, SparseGPT
from freelunch.study.methods import FULL, LOW_RANK, SCALED
from freelunch.study.patterns import Pattern
from freelunch.study.registry import REPOSITORY
from freelunch.study.retraining import Retraining
from freelunch.study.search import is_searched, probe_of
from freelunch.study.source_files import files_at, has_braces
from freelunch.study.steps import JOINED
from freelunch.study.windows import ALL, AUTO, HALVES, MATRIX
from freelunch.study.yaml_file import read_yaml

CLAIMS = "workflow/data/claims.yaml"
# Snakemake takes minutes to plan as many.
MOST_CELLS = 20_000
Problems = Iterator[str]


def contradictions(config: Config, known: Config) -> list[str]:
    """Return one line for each contradiction in a config with the entries that its study takes; if
    it uses names undefined in `known`, which has all entries, these alone.
    """
    cells = 0
    for grid in config.study.grids:
        pruned = len(grid.criteria) * len(grid.patterns)
        cells += len(grid.models) * pruned * len(grid.adaptations) * len(grid.seeds)
    if cells > MOST_CELLS:
        return [f"study.grids: found {cells:,} cells; expected at most {MOST_CELLS:,} in a study"]
    if undefined := list(_undefined(config, known)):
        return undefined
    problems = [
        f"{registry}.{reserved}: this name is reserved; choose another"
        for registry in ("criteria", "adaptations")
        for reserved in (DENSE, NONE)
        if reserved in getattr(config, registry)
    ]
    problems += [*_part(config), *_calibration(config), *_evaluation(config)]
    for index, grid in enumerate(config.study.grids):
        problems += _grid(f"study.grids.{index}", grid, config)
    for name, criterion in config.criteria.items():
        if criterion.scope == "model" and criterion.statistics == "sparse":
            problems.append(
                f"criteria.{name}: scope `model` compares the units of all blocks before any is "
                "pruned; expected statistics: dense"
            )
    for name, adaptation in config.adaptations.items():
        where = f"adaptations.{name}"
        problems += [f"{where}.{problem}" for problem in _adaptation(adaptation)]
        if isinstance(adaptation, Training):
            problems += _amount(where, adaptation, config)
        problems += _chain(name, config)
    for name, text in config.texts.items():
        if isinstance(text, sources.Mixture):
            problems += _mixture(name, text, config)
    for registry in ("models", "texts", "tasks"):
        for name, source in getattr(config, registry).items():
            given = getattr(source, "path", None)
            for path in given if isinstance(given, list) else [] if given is None else [given]:
                problems += _path(f"{registry}.{name}.path", path, registry == "models")
    return problems


def _undefined(config: Config, known: Config) -> Problems:
    """Yield the names that no registry defines, and the claims that the paper has not."""
    study, evaluation = config.study, config.study.evaluation
    named = [
        ("study.calibration.text", "texts", study.calibration.text),
        ("study.evaluation.perplexity.text", "texts", evaluation.perplexity.text),
    ]
    for task in evaluation.tasks.names if evaluation.tasks else ():
        named.append(("study.evaluation.tasks.names", "tasks", task))
    for index, grid in enumerate(study.grids):
        for registry in ("models", "criteria", "adaptations"):
            for name in getattr(grid, registry):
                if (registry, name) not in (("adaptations", NONE), ("criteria", DENSE)):
                    named.append((f"study.grids.{index}.{registry}", registry, name))
        named += [(f"study.grids.{index}.claims", CLAIMS, name) for name in grid.claims or []]
    for name, text in config.texts.items():
        for part in text.parts if isinstance(text, sources.Mixture) else ():
            named.append((f"texts.{name}.parts", "texts", part))
    for name, adaptation in config.adaptations.items():
        if (other := budget_of(adaptation)) is not None:
            named.append((f"adaptations.{name}.budget.of", "adaptations", other))
        if adaptation.after is not None:
            named.append((f"adaptations.{name}.after", "adaptations", adaptation.after))
    for where, source, name in named:
        valid = claim_ids() if source == CLAIMS else getattr(known, source)
        if name not in valid:
            listed = source if source == CLAIMS else f"`{source}`"
            yield f"{where}: {name!r} is not in {listed}; expected {nearest(name, valid)}"


@cache
def claim_ids() -> list[str]:
    """Return the ids of the paper's claims; `audit` checks their file."""
    return [claim["id"] for claim in read_yaml(REPOSITORY / CLAIMS)["claims"]]


def _part(config: Config) -> Problems:
    grids, part = config.study.grids, config.study.part
    if part is None:
        return
    claims = claims_of(grids)
    if part.claims is not None and not claims:
        yield (
            f"study.part.claims: no grid says which claims it is for, so none is for "
            f"{', '.join(part.claims)}; run the whole study, or add `claims` to its grids"
        )
        return
    seeds = sorted({seed for grid in grids for seed in grid.seeds})
    unknown = [
        f"study.part.{key}: no grid is for {name!r}; expected {nearest(str(name), map(str, names))}"
        for key, names in (("models", models_of(grids)), ("claims", claims), ("seeds", seeds))
        for name in getattr(part, key) or ()
        if name not in names
    ]
    yield from unknown
    if not unknown and not grids_in(grids, part):
        yield f"study.part: no grid is for all of{part_words(part)}"


def _calibration(config: Config) -> Problems:
    """Yield why ready token ids are not for this study."""
    text, grids = config.study.calibration.text, config.study.grids
    if not isinstance(config.texts[text], sources.Tokens):
        return
    where = f"study.calibration.text: {text!r} is a `tokens` source"
    models, seeds = models_of(grids), sorted({seed for grid in grids for seed in grid.seeds})
    if len(models) > 1:
        yield (
            f"{where}, whose ids are those of one tokenizer; found the models {', '.join(models)}; "
            "expected one, and a study for each other model"
        )
    if len(seeds) > 1:
        yield (
            f"{where}, of which every seed gets the same sample; found the seeds "
            f"{', '.join(map(str, seeds))}; expected one, and a study for each other sample"
        )
    if config.study.evaluation.drift is not None:
        yield "study.evaluation.drift: a `tokens` source has no documents to hold out"


def _evaluation(config: Config) -> Problems:
    settings, where = config.study.evaluation.perplexity, "study.evaluation.perplexity"
    text, stride = config.texts[settings.text], settings.stride
    if isinstance(text, sources.Tokens | sources.Mixture):
        yield (
            f"{where}.text: {settings.text!r} is a {text.source} source, which is to calibrate on; "
            "expected a single text"
        )
    if stride is not None and stride > settings.length:
        yield (
            f"{where}.stride: found {stride}; expected at most the length, {settings.length}: "
            "tokens between windows would be left out"
        )
    if stride is not None and settings.cut != JOINED:
        yield f"{where}.stride: found {stride}; windows overlap only with `cut: {JOINED}`"
    asking = [index for index, grid in enumerate(config.study.grids) if grid.tasks]
    if asking and config.study.evaluation.tasks is None:
        yield (
            f"study.grids.{asking[0]}.tasks: there is no `evaluation.tasks` to evaluate these "
            "cells on; expected it, with `names`"
        )
    if config.study.evaluation.tasks is not None and not asking:
        yield "study.evaluation.tasks: no grid asks for it; expected `tasks: true` in a grid"


def _grid(where: str, grid: Grid, config: Config) -> Problems:
    for name in grid.criteria:
        if name == DENSE:
            yield from _controls(where, grid, config)
            continue
        criterion = config.criteria[name]
        block = criterion.column_block if isinstance(criterion, SparseGPT) else 0
        for pattern in map(Pattern.parse, grid.patterns):
            if criterion.structured != pattern.structured:
                takes = "whole units: it takes sNN"
                if not criterion.structured:
                    takes = "single weights: it takes uNN or NofM"
                yield f"{where}: {name!r} prunes {takes}, not {pattern.name}; use another grid"
            if isinstance(criterion, OfWeights) and criterion.allocation:
                yield from _allocation(f"criteria.{name}", criterion, pattern)
            if pattern.group and block % pattern.group:
                fitting = max(block // pattern.group, 1) * pattern.group
                yield (
                    f"criteria.{name}.column_block: found {block}; expected a multiple of "
                    f"{pattern.group}, for {pattern.name}, such as {fitting}"
                )
    adapted = [config.adaptations[name] for name in grid.adaptations if name != NONE]
    if any(isinstance(entry, Training) for entry in adapted):
        for name in grid.models:
            if config.models[name].dtype == sources.UNTRAINED:
                yield f"models.{name}.dtype: {sources.NO_GRADIENTS}; expected {sources.TRAINED}"


def _allocation(where: str, criterion: OfWeights, pattern: Pattern) -> Problems:
    """Yield why a criterion's zeros cannot be divided among blocks as it asks."""
    assert criterion.allocation is not None
    if pattern.group or criterion.statistics == "sparse":
        found = "statistics: sparse" if not pattern.group else pattern.name
        yield f"{where}.allocation: found {found}; expected uNN patterns and statistics: dense"
    least = min(pattern.sparsity, 1 - pattern.sparsity) / 2
    if criterion.allocation.spread >= least:
        yield (
            f"{where}.allocation.spread: found {criterion.allocation.spread}; expected less than "
            f"{least:g} with {pattern.name}, or a block might lose no weight, or all"
        )


def _controls(where: str, grid: Grid, config: Config) -> Problems:
    """Yield why a grid cannot adapt the dense model."""
    where, names = f"{where}.criteria", [name for name in grid.adaptations if name != NONE]
    if not names:
        yield f"{where}: the {DENSE} model itself is in every study; expected adaptations of it"
    for name in names:
        if not config.adaptations[name].learns_text:
            yield (
                f"{where}: with {name!r} the {DENSE} model would learn from itself; expected "
                "retraining on the text, and another grid for others"
            )
    partnered = {cell.control for cell in cells_of(config.study.grids) if cell.is_pruned}
    controls = starmap(Cell, product(grid.models, [DENSE], [NONE], names, grid.seeds))
    if alone := [cell for cell in controls if cell not in partnered]:
        yield (
            f"{where}: no grid has a pruned cell to compare {alone[0]} with; expected one with the "
            "same model, adaptation and seed"
        )


def _adaptation(entry: Adaptation) -> Problems:
    window = entry.window if isinstance(entry, Reconstruction) else MATRIX
    if isinstance(entry, Local):
        if entry.local_targets and not entry.sparse_inputs:
            yield (
                "targets: with dense inputs, local targets equal the dense model's activations; "
                "expected dense, or inputs: sparse"
            )
        if entry.targets_behind_sparse and window != MATRIX:
            yield (
                f"targets: behind_sparse is a code-paper discrepancy of the window {MATRIX}; "
                "expected dense or local, or that window"
            )
        if entry.lost_residual and not entry.targets_behind_sparse:
            yield (
                "lost_residual: the paper's code loses it with sequential targets; "
                "expected no such key, or targets: behind_sparse"
            )
    if isinstance(entry, Reconstruction):
        trained, trains = entry.trained, entry.trains or FULL
        if window == AUTO and entry.memory_gb is None:
            yield "memory_gb: `window: auto` needs a memory budget; expected one, in GB"
        if window != AUTO and entry.memory_gb is not None:
            yield "memory_gb: only `window: auto` has a memory budget; expected no such key"
        if entry.model_dropout and window in (MATRIX, HALVES, AUTO):
            yield (
                "model_dropout: the paper's code drops out in windows of whole blocks only; "
                f"expected no such key, or a window of blocks, such as 1 or {ALL}"
            )
        if window == MATRIX and trained.norms:
            key, wanted = ("train_norms", "false") if trained.weights else ("trains", "another")
            yield (
                f"{key}: a window of one matrix holds no norm; expected {wanted}, and the same in "
                "the windows it is compared with"
            )
        for key, methods in (("rank", LOW_RANK), ("alpha", SCALED)):
            if getattr(entry, key) is not None and trains not in methods:
                yield f"{key}: `trains: {trains}` has no {key}; expected no such key"
        for key, needed in (("train_norms", trained.norms), ("train_biases", trained.biases)):
            alone = trained.weights is None and window != MATRIX and needed
            if alone and not getattr(entry, key):
                yield f"{key}: `trains: {trains}` trains these parameters; expected true"
    if isinstance(entry, Retraining):
        if (entry.micro_batch or 0) > entry.batch:
            words = f"expected at most the batch, {entry.batch}"
            yield f"micro_batch: found {entry.micro_batch}; {words}"
        if entry.residency != "auto" and entry.memory_gb is not None:
            yield "memory_gb: only `residency: auto` has a memory budget; expected no such key"


def _chain(name: str, config: Config) -> Problems:
    """Yield why an adaptation cannot start from the result of another."""
    where, names, entries = f"adaptations.{name}.after", [name], config.adaptations
    while (after := entries[names[-1]].after) is not None and after not in names:
        names.append(after)
    if after is not None:
        chain = " after ".join([*names, after])
        yield f"{where}: {chain} ends in itself; expected a chain from a pruned model"
    elif (first := entries[name].after) is not None:
        if entries[first].is_retraining or entries[first].becomes_dense:
            yield f"{where}: found {first}; expected an adaptation of windows that stays pruned"
        cells = cells_of(config.study.grids)
        starts = [replace(cell, adaptation=first) for cell in cells if cell.adaptation == name]
        if missing := [cell for cell in starts if cell not in {*cells}]:
            yield f"{where}: no grid has {missing[0]}, from whose result a cell would start"


def _amount(where: str, entry: Training, config: Config) -> Problems:
    calibration = config.study.calibration
    has_documents = not isinstance(config.texts[calibration.text], sources.Tokens)
    if entry.is_searched and entry.select_on == "calibration" and not has_documents:
        yield (
            f"{where}.select_on: candidates are compared on documents outside the calibration "
            "sample, and a `tokens` source has none; expected evaluation, or a text to calibrate on"
        )
    if entry.finds_rate and isinstance(entry.epochs, list):
        yield (
            f"{where}.epochs: found a list, which is searched by whole runs; expected one number "
            "beside `learning_rate: auto`, or a list of learning rates"
        )
        return
    samples = entry.samples or calibration.samples
    if entry.budget is not None:
        if entry.samples is not None:
            yield f"{where}: `samples` and `budget` both set the sample; expected one of them"
        other = config.adaptations[entry.budget.of] if entry.budget.of else None
        if isinstance(other, LeastSquares) or is_searched(other) or budget_of(other) is not None:
            yield (
                f"{where}.budget.of: how much {entry.budget.of!r} sees is not settled; expected an "
                "adaptation that trains, lists no epochs or learning rates, and is not a multiple "
                "itself"
            )
            return
        for model in models_of(config.study.grids) if entry.budget.tokens is not None else ():
            most = config.models[model].max_length
            if most is not None and most < calibration.length:
                yield (
                    f"{where}.budget.tokens: the model {model} gets sequences of {most} tokens "
                    f"instead of {calibration.length}; expected `times` and `of`, or `samples`"
                )
        tokens, counts = budget_tokens(entry.budget, config), entry.epoch_counts
        least = entry.batch * calibration.length * max(counts)
        if tokens < least:
            yield (
                f"{where}.budget: found {tokens} tokens; expected at least {least}, one step of "
                f"{entry.batch} sequences of {calibration.length} tokens in each epoch"
            )
        samples = tokens // (calibration.length * min(counts))
    elif samples < entry.batch:
        yield (
            f"{where}.batch: found {entry.batch} sequences; expected at most {samples}, the size "
            "of the sample"
        )
    if entry.skip and not entry.after:
        yield f"{where}.skip: nothing has seen the skipped text; expected `after`, too"
    if entry.skip and entry.finds_rate:
        yield f"{where}.skip: probes train on the first sequences; expected a learning rate"
    # The job knows how many windows a model has, and refuses what is too small for them.
    windows = 1 if entry.is_retraining or getattr(entry, "window", None) == ALL else 99
    if entry.finds_rate and probe_of(entry, samples, windows) is None:
        yield (
            f"{where}.learning_rate: a part of {samples} sequences cannot tell which is best; "
            "expected a learning rate, or a larger sample"
        )
    samples += entry.skip or 0
    if samples > calibration.samples and not has_documents:
        yield (
            f"{where}: {samples} sequences are more than the `tokens` source of the calibration "
            f"sample holds; expected at most {calibration.samples}, or a text to calibrate on"
        )


def _mixture(name: str, entry: sources.Mixture, config: Config) -> Problems:
    evaluated = config.study.evaluation.perplexity.text
    refuses = entry.evaluation_text == sources.REFUSE and config.study.calibration.text == name
    first: dict[str, str] = {}
    for part in entry.parts:
        where, text = f"texts.{name}.parts.{part}", config.texts[part]
        if isinstance(text, sources.Mixture):
            yield f"{where}: found a mixture; expected a text that is not one itself"
        elif isinstance(text, sources.Tokens):
            yield f"{where}: a `tokens` source has no documents to mix; expected a text"
        settings = text.deciding()
        if refuses and settings == config.texts[evaluated].deciding():
            yield (
                f"{where}: this is the evaluation text, {evaluated}, whose documents the mixture "
                "refuses; expected another text, or `evaluation_text: leave_out` in the mixture"
            )
        if isinstance(text, sources.LocalText):
            settings |= {"path": [*map(os.path.realpath, files_at(text.path))]}
        other = first.setdefault(str(sorted(settings.items())), part)
        if other != part:
            yield f"{where}: this is the same text as {other}; expected another text"


def _path(where: str, path: str, is_model: bool) -> Problems:
    if not os.path.exists(path):
        looked = "" if os.path.isabs(path) else f", looked for at {os.path.abspath(path)}"
        kind = "folder or a GGUF file" if is_model else "file"
        yield (
            f"{where}: there is nothing at {path}{looked}; expected a {kind} (absolute, or "
            "relative to the folder in which the study is run)"
        )
    elif named := [file for file in files_at(path) if has_braces(file)]:
        yield (
            f"{where}: found {named[0]}; expected a name without {{ and }}, between which "
            "Snakemake reads wildcards; rename it"
        )
