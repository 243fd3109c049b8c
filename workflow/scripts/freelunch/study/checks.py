"""Contradictions in a config: settings that are each valid but do not go together."""

import os
from collections.abc import Callable, Iterator, Mapping
from functools import partial

from freelunch.core.errors import nearest
from freelunch.study.adaptation_checks import adaptation_problems
from freelunch.study.adaptations import Adaptation, Budget, LeastSquares, Training
from freelunch.study.cell import DENSE, NONE
from freelunch.study.claim_ids import CLAIMS, claim_ids
from freelunch.study.config import Config, Grid
from freelunch.study.criteria import Criterion, SparseGPT
from freelunch.study.grids import models_of, part_problems
from freelunch.study.mixtures import mixture_problems
from freelunch.study.patterns import Pattern
from freelunch.study.search import is_searched
from freelunch.study.settled import budget_tokens
from freelunch.study.source_files import files_at, has_braces
from freelunch.study.sources import NO_GRADIENTS, TRAINED, UNTRAINED, Mixture, Source, Tokens
from freelunch.study.steps import JOINED

Names = Mapping[str, list[str]]


def contradictions(config: Config, names: Names, complete: bool) -> Iterator[str]:
    """Yield one line for each contradiction in a config.

    Args:
        config: The valid part of the config.
        names: All defined names of each registry.
        complete: Whether the whole config is valid. If not, a check that needs an invalid part is
            skipped: the config is refused in any case.
    """
    # The names in an invalid registry are unknown.
    known = {name: names[name] for name in names if hasattr(config, name)}
    for check in _checks(config, known):
        try:
            yield from check()
        except (AttributeError, KeyError):
            if complete:
                raise


def _checks(config: Config, names: Names) -> Iterator[Callable[[], Iterator[str]]]:
    """Yield checks, each of as few settings as possible: one that fails stops no other."""
    for check in (_calibration, _ready_tokens, _perplexity, _stride, _drift, _tasks, _part):
        yield partial(check, config, names)
    for index, grid in enumerate(getattr(getattr(config, "study", None), "grids", [])):
        where = f"study.grids.{index}"
        for registry in ("models", "criteria", "adaptations"):
            yield partial(_named, grid, registry, where, names)
        yield partial(_claims, grid, where)
        yield partial(_patterns, config, grid, where)
        yield partial(_dtypes, config, grid)
    for name, criterion in getattr(config, "criteria", {}).items():
        yield partial(_criterion, name, criterion)
    for name, adaptation in getattr(config, "adaptations", {}).items():
        yield partial(_adaptation, name, adaptation)
        if isinstance(adaptation, Training):
            yield partial(_held_out, name, adaptation, config)
            yield partial(_sample, name, adaptation, config, names)
    for name, text in getattr(config, "texts", {}).items():
        if isinstance(text, Mixture):
            yield partial(mixture_problems, name, text, config, names)
    for registry, reserved in (("criteria", DENSE), ("adaptations", NONE)):
        yield partial(_reserved, registry, reserved, names)
    for registry in ("models", "texts", "tasks"):
        for name, source in getattr(config, registry, {}).items():
            yield partial(_path, f"{registry}.{name}", source, registry == "models")


def _calibration(config: Config, names: Names) -> Iterator[str]:
    where, text = "study.calibration.text", config.study.calibration.text
    yield from _text(where, text, names)


def _ready_tokens(config: Config, names: Names) -> Iterator[str]:
    """Yield why ready token ids are not for all cells of a study."""
    where, text = "  study.calibration.text", config.study.calibration.text
    if not isinstance(config.texts.get(text), Tokens):
        return
    models = models_of(config.study.grids)
    seeds = sorted({seed for grid in config.study.grids for seed in grid.seeds})
    if len(models) > 1:
        yield (
            f"{where}: {text!r} is a `tokens` source, whose ids are those of one tokenizer; found "
            f"the models {', '.join(models)}; expected one, and a study for each other model"
        )
    if len(seeds) > 1:
        yield (
            f"{where}: {text!r} is a `tokens` source, of which every seed gets the same sample, so "
            "that seeds would say nothing of other samples; found the seeds "
            f"{', '.join(map(str, seeds))}; expected one, and a study for each other sample"
        )


def _perplexity(config: Config, names: Names) -> Iterator[str]:
    where, text = "study.evaluation.perplexity.text", config.study.evaluation.perplexity.text
    yield from _text(where, text, names)
    if isinstance(config.texts.get(text), Tokens):
        yield f"  {where}: {text!r} is a `tokens` source; expected a text"
    elif isinstance(config.texts.get(text), Mixture):
        yield f"  {where}: {text!r} is a mixture, which is to calibrate on; expected a single text"


def _text(where: str, text: str, names: Names) -> Iterator[str]:
    if text not in names["texts"]:
        yield f"  {where}: {text!r} is not in `texts`; expected {nearest(text, names['texts'])}"


def _stride(config: Config, names: Names) -> Iterator[str]:
    perplexity = config.study.evaluation.perplexity
    if (perplexity.stride or 0) > perplexity.length:
        yield (
            f"  study.evaluation.perplexity.stride: found {perplexity.stride}; expected at most "
            f"the length, {perplexity.length}: tokens between windows would be left out"
        )
    if perplexity.stride is not None and perplexity.cut != JOINED:
        yield (
            f"  study.evaluation.perplexity.stride: found {perplexity.stride}; windows overlap "
            "only with `cut: joined`"
        )


def _drift(config: Config, names: Names) -> Iterator[str]:
    study, where = config.study, "  study.evaluation.drift"
    if study.evaluation.drift is None:
        return
    if isinstance(config.texts.get(study.calibration.text), Tokens):
        yield f"{where}: a `tokens` source has no documents to hold out; expected no such key"


def _tasks(config: Config, names: Names) -> Iterator[str]:
    study = config.study
    asked = study.evaluation.tasks.names if study.evaluation.tasks else []
    for name in asked:
        if name not in names["tasks"]:
            yield (
                f"  study.evaluation.tasks.names: {name!r} is not in `tasks`; expected "
                + nearest(name, names["tasks"])
            )
    asking = [index for index, grid in enumerate(study.grids) if grid.tasks]
    if asking and not asked:
        yield (
            f"  study.grids.{asking[0]}.tasks: there is no `evaluation.tasks` to evaluate these "
            "cells on; expected it, with `names`"
        )
    if asked and not asking:
        yield "  study.evaluation.tasks: no grid asks for it; expected `tasks: true` in a grid"


def _part(config: Config, names: Names) -> Iterator[str]:
    for problem in part_problems(config.study.grids, config.study.part):
        yield f"  study.part{problem}"


def _named(grid: Grid, registry: str, where: str, names: Names) -> Iterator[str]:
    """Yield a line for each undefined name in a grid."""
    valid = [NONE, *names[registry]] if registry == "adaptations" else names[registry]
    for name in getattr(grid, registry):
        if (registry, name) == ("criteria", DENSE):
            yield (
                f"  {where}.{registry}: the dense model is always evaluated and is never adapted, "
                "since nothing of it was pruned; expected pruning criteria"
            )
        elif name not in valid:
            yield (
                f"  {where}.{registry}: {name!r} is not in `{registry}`; expected "
                + nearest(name, valid)
            )


def _claims(grid: Grid, where: str) -> Iterator[str]:
    """Yield a line for each unknown claim of a grid, which no `CLAIMS=` would ever run."""
    for name in grid.claims or []:
        if name not in claim_ids():
            yield (
                f"  {where}.claims: {name!r} is not in {CLAIMS}; expected "
                + nearest(name, claim_ids())
            )


def _patterns(config: Config, grid: Grid, where: str) -> Iterator[str]:
    parsed = []
    for name in grid.patterns:
        try:
            parsed.append(Pattern.parse(name))
        except ValueError as error:
            yield f"  {where}.patterns: {error}"
    for criterion in grid.criteria:
        if criterion in config.criteria:
            for pattern in parsed:
                yield from _fits(where, criterion, config.criteria[criterion], pattern)


def _fits(where: str, name: str, criterion: Criterion, pattern: Pattern) -> Iterator[str]:
    """Yield why a criterion cannot prune in a pattern."""
    if criterion.structured != pattern.structured:
        takes = (
            "whole units: it takes sNN"
            if criterion.structured
            else "single weights: it takes uNN or NofM"
        )
        yield (
            f"  {where}: {name!r} prunes {takes}, not {pattern.name}; put it in a grid of its own"
        )
    block = criterion.column_block if isinstance(criterion, SparseGPT) else 0
    if pattern.group and block % pattern.group:
        fitting = max(block // pattern.group, 1) * pattern.group
        yield (
            f"  criteria.{name}.column_block: found {block}; expected a multiple of "
            f"{pattern.group}, for {pattern.name}, such as {fitting}"
        )


def _dtypes(config: Config, grid: Grid) -> Iterator[str]:
    adapted = [config.adaptations.get(name) for name in grid.adaptations]
    if any(isinstance(entry, Training) for entry in adapted):
        for model in grid.models:
            if model in config.models and config.models[model].dtype == UNTRAINED:
                yield f"  models.{model}.dtype: {NO_GRADIENTS}; expected {TRAINED}"


def _criterion(name: str, criterion: Criterion) -> Iterator[str]:
    if criterion.scope == "model" and criterion.statistics == "sparse":
        yield (
            f"  criteria.{name}: scope `model` compares the units of all blocks before any is "
            "pruned; expected statistics: dense"
        )


def _adaptation(name: str, entry: Adaptation) -> Iterator[str]:
    for key, problem in adaptation_problems(entry):
        yield f"  adaptations.{name}.{key}: {problem}"


def _held_out(name: str, entry: Training, config: Config) -> Iterator[str]:
    if entry.is_searched and entry.select_on == "calibration" and not _has_documents(config):
        yield (
            f"  adaptations.{name}.select_on: candidates are compared on documents outside the "
            "calibration sample, and a `tokens` source has none; expected evaluation, or a text to "
            "calibrate on"
        )


def _has_documents(config: Config) -> bool:
    """Return whether the calibration text has documents beyond the calibration sample."""
    return not isinstance(config.texts.get(config.study.calibration.text), Tokens)


def _sample(name: str, entry: Training, config: Config, names: Names) -> Iterator[str]:
    """Yield what is wrong with the amount of text that an adaptation trains on."""
    where, calibration = f"  adaptations.{name}", config.study.calibration
    samples = entry.samples or calibration.samples
    if entry.budget is not None:
        if entry.samples is not None:
            yield f"{where}: `samples` and `budget` both set the sample; expected one of them"
        problem = _multiple(entry.budget, config.adaptations, names)
        if problem:
            yield f"{where}.budget{problem}"
            return
        yield from _in_tokens(where, entry.budget, config)
        tokens, counts = budget_tokens(entry.budget, config), entry.epoch_counts
        step = entry.batch * calibration.length
        if tokens < step * max(counts):
            yield (
                f"{where}.budget: found {tokens} tokens; expected at least {step * max(counts)}, "
                f"one step of {entry.batch} sequences of {calibration.length} tokens in each epoch"
            )
        samples = tokens // (calibration.length * min(counts))
    elif samples < entry.batch:
        yield (
            f"{where}.batch: found {entry.batch} sequences; expected at most {samples}, the size "
            "of the sample"
        )
    if samples > calibration.samples and not _has_documents(config):
        yield (
            f"{where}: {samples} sequences are more than the `tokens` source of the calibration "
            f"sample holds; expected at most {calibration.samples}, or a text to calibrate on"
        )


def _in_tokens(where: str, budget: Budget, config: Config) -> Iterator[str]:
    """Yield that a number of tokens is not the same number of sequences for all models."""
    length = config.study.calibration.length
    for name in models_of(config.study.grids):
        # `_named` tells of a model that is not defined.
        model = config.models.get(name)
        most = model and model.max_length
        if budget.tokens is not None and most is not None and most < length:
            yield (
                f"{where}.budget.tokens: the model {name} gets sequences of {most} tokens instead "
                f"of {length}; expected `times` and `of`, or `samples`"
            )


def _multiple(budget: Budget, adaptations: Mapping[str, Adaptation], names: Names) -> str | None:
    """Return what is wrong with the adaptation that a budget is a multiple of, if anything."""
    if budget.of is None:
        return None
    if budget.of not in names["adaptations"]:
        return f".of: {budget.of!r} is not in `adaptations`; expected " + nearest(
            budget.of, names["adaptations"]
        )
    other = adaptations.get(budget.of)
    multiple = isinstance(other, Training) and other.budget is not None and other.budget.of
    if isinstance(other, LeastSquares) or is_searched(other) or multiple:
        return (
            f".of: how much {budget.of!r} sees is not settled; expected an adaptation that trains, "
            "lists no epochs or learning rates, and is not a multiple itself"
        )
    return None


def _reserved(registry: str, reserved: str, names: Names) -> Iterator[str]:
    if reserved in names[registry]:
        yield f"  {registry}.{reserved}: this name is reserved; choose another"


def _path(where: str, source: Source, is_model: bool) -> Iterator[str]:
    path = getattr(source, "path", None)
    if path is not None and not os.path.exists(path):
        looked = "" if os.path.isabs(path) else f", looked for at {os.path.abspath(path)}"
        yield (
            f"  {where}.path: there is nothing at {path}{looked}; expected a "
            + ("folder or a GGUF file" if is_model else "file")
            + " (absolute, or relative to the folder in which the study is run)"
        )
    elif path is not None and (named := [each for each in files_at(path) if has_braces(each)]):
        yield (
            f"  {where}.path: found {named[0]}; expected a name without {{ and }}, between which "
            "Snakemake reads wildcards; rename it"
        )
