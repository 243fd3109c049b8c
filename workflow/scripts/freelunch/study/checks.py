"""What a config may not say although each of its values is valid: what does not go together."""

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from freelunch.core.errors import nearest
from freelunch.study.adaptations import Adaptation, Budget, LeastSquares, Training
from freelunch.study.cell import DENSE, NONE
from freelunch.study.config import Config, Grid
from freelunch.study.criteria import Criterion, SparseGPT
from freelunch.study.patterns import Pattern
from freelunch.study.search import is_searched
from freelunch.study.settings import Settings
from freelunch.study.sources import Tokens

Names = Mapping[str, list[str]]


def contradictions(config: Config, names: Names, complete: bool) -> Iterator[str]:
    """Yield what is wrong with a config beyond its single values.

    Args:
        config: What of it is valid.
        names: All names that are defined, by registry.
        complete: Whether all of it is valid. Where it is not, a check that asks for what was left
            out is left out too: the config is refused in any case.
    """
    checks: tuple[Callable[[Config, Names], Iterator[str]], ...] = (
        _texts,
        _perplexity,
        _drift,
        _tasks,
        _grids,
        _dtypes,
        _criteria,
        _adaptations,
        _reserved,
        _paths,
    )
    for check in checks:
        try:
            yield from check(config, names)
        except AttributeError:
            if complete:
                raise


def budget_tokens(budget: Budget, config: Config) -> int:
    """Return how many tokens a budget is, to the nearest.

    Args:
        budget: Checked: what it is a multiple of has no alternatives and no multiple itself.
        config: A study's.
    """
    if budget.tokens is not None:
        return budget.tokens
    assert budget.of is not None and budget.times is not None
    other = config.adaptations[budget.of]
    assert isinstance(other, Training)
    if other.budget is not None and other.budget.tokens is not None:
        seen = other.budget.tokens
    else:
        calibration = config.study.calibration
        seen = (other.samples or calibration.samples) * calibration.length * other.passes
    return round(budget.times * seen)


def _texts(config: Config, names: Names) -> Iterator[str]:
    study = config.study
    for where, text, ids_allowed in (
        ("study.calibration.text", study.calibration.text, True),
        ("study.evaluation.perplexity.text", study.evaluation.perplexity.text, False),
    ):
        if text not in names["texts"]:
            yield f"  {where}: {text!r} is not in `texts`; expected {nearest(text, names['texts'])}"
        elif isinstance(config.texts.get(text), Tokens) and not ids_allowed:
            yield f"  {where}: {text!r} is a `tokens` source; expected a text"


def _perplexity(config: Config, names: Names) -> Iterator[str]:
    perplexity = config.study.evaluation.perplexity
    if (perplexity.stride or 0) > perplexity.length:
        yield (
            f"  study.evaluation.perplexity.stride: found {perplexity.stride}; expected at most "
            f"the length, {perplexity.length}: what lies between windows would be left out"
        )


def _drift(config: Config, names: Names) -> Iterator[str]:
    study, where = config.study, "  study.evaluation.drift"
    if study.evaluation.drift is None:
        return
    if study.evaluation.drift.samples > study.selection.samples:
        yield (
            f"{where}.samples: found {study.evaluation.drift.samples}; expected at most "
            f"selection.samples, {study.selection.samples}, the sequences that are held out"
        )
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
            "cells on; expected its `names`"
        )
    if asked and not asking:
        yield "  study.evaluation.tasks: no grid asks for it; expected `tasks: true` in a grid"


def _grids(config: Config, names: Names) -> Iterator[str]:
    valid = {**names, "adaptations": [NONE, *names["adaptations"]]}
    for index, grid in enumerate(config.study.grids):
        where = f"study.grids.{index}"
        for registry in ("models", "criteria", "adaptations"):
            for name in getattr(grid, registry):
                if (registry, name) == ("criteria", DENSE):
                    yield (
                        f"  {where}.{registry}: the dense model is always evaluated, and never "
                        "adapted: nothing of it was pruned; expected criteria to prune by"
                    )
                elif name not in valid[registry]:
                    yield (
                        f"  {where}.{registry}: {name!r} is not in `{registry}`; expected "
                        + nearest(name, valid[registry])
                    )
        yield from _patterns(config, grid, where)


def _patterns(config: Config, grid: Grid, where: str) -> Iterator[str]:
    for name in grid.patterns:
        try:
            pattern = Pattern.parse(name)
        except ValueError as error:
            yield f"  {where}.patterns: {error}"
            continue
        for criterion in grid.criteria:
            if criterion in config.criteria:
                yield from _fits(where, criterion, config.criteria[criterion], pattern)


def _fits(where: str, name: str, criterion: Criterion, pattern: Pattern) -> Iterator[str]:
    """Yield what keeps a criterion from pruning in a pattern."""
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


def _dtypes(config: Config, names: Names) -> Iterator[str]:
    for grid in config.study.grids:
        adapted = [
            config.adaptations[name] for name in grid.adaptations if name in config.adaptations
        ]
        if any(isinstance(entry, Training) for entry in adapted):
            for model in grid.models:
                if model in config.models and config.models[model].dtype == "float16":
                    yield (
                        f"  models.{model}.dtype: gradients vanish in float16; expected bfloat16 "
                        "or float32"
                    )


def _criteria(config: Config, names: Names) -> Iterator[str]:
    for name, criterion in config.criteria.items():
        if criterion.scope == "model" and criterion.statistics == "sparse":
            yield (
                f"  criteria.{name}: scope `model` compares the units of all blocks before any is "
                "pruned; expected statistics: dense"
            )


def _adaptations(config: Config, names: Names) -> Iterator[str]:
    for name, entry in config.adaptations.items():
        where = f"  adaptations.{name}"
        if isinstance(entry, Training):
            yield from _sample(where, entry, config, names)
        for key, problem in entry.problems():
            yield f"{where}.{key}: {problem}"


def _sample(where: str, entry: Training, config: Config, names: Names) -> Iterator[str]:
    """Yield what is wrong with how much an adaptation is trained on."""
    calibration = config.study.calibration
    has_documents = not isinstance(config.texts.get(calibration.text), Tokens)
    samples = entry.samples or calibration.samples
    step = entry.batch * calibration.length
    if entry.is_searched and entry.select_on == "calibration" and not has_documents:
        yield (
            f"{where}.select_on: candidates are compared on documents that calibration left, and a "
            "`tokens` source has none; expected evaluation, or a text"
        )
    if entry.budget is not None:
        if entry.samples is not None:
            yield f"{where}: `samples` and `budget` say the same; expected one of them"
        problem = _multiple(entry.budget, config.adaptations, names)
        if problem:
            yield f"{where}.budget{problem}"
            return
        tokens, counts = budget_tokens(entry.budget, config), entry.epoch_counts
        if tokens < step * max(counts):
            yield (
                f"{where}.budget: found {tokens} tokens; expected at least {step * max(counts)}, "
                f"one step of {entry.batch} sequences of {calibration.length} tokens in each epoch"
            )
        samples = tokens // (calibration.length * min(counts))
    elif samples < entry.batch:
        yield (
            f"{where}.batch: found {entry.batch} sequences of a sample of {samples}; expected no "
            "more than it has"
        )
    if samples > calibration.samples and not has_documents:
        yield (
            f"{where}: {samples} sequences are more than the `tokens` source of the calibration "
            f"has; expected at most {calibration.samples}, or a text"
        )


def _multiple(budget: Budget, adaptations: Mapping[str, Adaptation], names: Names) -> str | None:
    """Return what is wrong with what a budget is a multiple of."""
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
            "lists no epochs or learning rates and is no multiple itself"
        )
    return None


def _reserved(config: Config, names: Names) -> Iterator[str]:
    for registry, reserved in (("criteria", DENSE), ("adaptations", NONE)):
        if reserved in names[registry]:
            yield f"  {registry}.{reserved}: this name is reserved; choose another"


def _paths(config: Config, names: Names) -> Iterator[str]:
    registries: dict[str, Mapping[str, Settings]] = {
        "models": config.models,
        "texts": config.texts,
        "tasks": config.tasks,
    }
    for registry, entries in registries.items():
        for name, entry in entries.items():
            path = getattr(entry, "path", None)
            if path is not None and not Path(path).exists():
                yield (
                    f"  {registry}.{name}.path: there is nothing at {path}; expected a "
                    + ("folder" if registry == "models" else "file")
                    + " (absolute, or relative to the repository)"
                )
