"""Contradictions in a config: settings that are each valid but do not go together."""

from collections.abc import Iterator
from functools import cache

from freelunch.core.errors import UserError, nearest
from freelunch.study.adaptations import LeastSquares, Training
from freelunch.study.cell import DENSE, NONE
from freelunch.study.config import Config, Grid
from freelunch.study.criteria import SparseGPT
from freelunch.study.entry_checks import adaptation_problems, mixture_problems, path_problems
from freelunch.study.grids import models_of, part_problems
from freelunch.study.patterns import Pattern
from freelunch.study.registry import REPOSITORY, budget_of
from freelunch.study.resolve_budget import budget_tokens
from freelunch.study.search import is_searched
from freelunch.study.sources import NO_GRADIENTS, TRAINED, UNTRAINED, Mixture, Tokens
from freelunch.study.steps import JOINED
from freelunch.study.yaml_file import read_yaml

CLAIMS = "workflow/data/claims.yaml"


def contradictions(config: Config, known: Config) -> list[str]:
    """Return one line for each contradiction in a config; if it uses undefined names, these alone.

    Args:
        config: The config, with the entries that its study takes.
        known: The same, with all entries that are defined for it.
    """
    problems = [*_undefined(config, known), *_unknown_claims(config)]
    if problems:
        return problems
    for registry, reserved in (("criteria", DENSE), ("adaptations", NONE)):
        if reserved in getattr(config, registry):
            problems.append(f"{registry}.{reserved}: this name is reserved; choose another")
    problems += part_problems(config.study.grids, config.study.part)
    problems += [*_calibration(config), *_perplexity(config), *_tasks(config)]
    for index, grid in enumerate(config.study.grids):
        problems += _grid(f"study.grids.{index}", grid, config)
    for name, criterion in config.criteria.items():
        if criterion.scope == "model" and criterion.statistics == "sparse":
            problems.append(
                f"criteria.{name}: scope `model` compares the units of all blocks before any is "
                "pruned; expected statistics: dense"
            )
    for name, adaptation in config.adaptations.items():
        for key, problem in adaptation_problems(adaptation):
            problems.append(f"adaptations.{name}.{key}: {problem}")
        if isinstance(adaptation, Training):
            problems += _training(f"adaptations.{name}", adaptation, config)
    for name, text in config.texts.items():
        if isinstance(text, Mixture):
            problems += mixture_problems(name, text, config)
    for registry in ("models", "texts", "tasks"):
        for name, source in getattr(config, registry).items():
            problems += path_problems(f"{registry}.{name}.path", source, registry == "models")
    return problems


def _undefined(config: Config, known: Config) -> Iterator[str]:
    """Yield the names that no registry defines."""
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
                if (registry, name) != ("adaptations", NONE):
                    named.append((f"study.grids.{index}.{registry}", registry, name))
    for name, text in config.texts.items():
        for part in text.parts if isinstance(text, Mixture) else ():
            named.append((f"texts.{name}.parts", "texts", part))
    for name, adaptation in config.adaptations.items():
        if (other := budget_of(adaptation)) is not None:
            named.append((f"adaptations.{name}.budget.of", "adaptations", other))
    for where, registry, name in named:
        valid = getattr(known, registry)
        if name not in valid:
            yield f"{where}: {name!r} is not in `{registry}`; expected {nearest(name, valid)}"


def _unknown_claims(config: Config) -> Iterator[str]:
    """Yield the unknown claims of grids, which no `CLAIMS=` would ever run."""
    for index, grid in enumerate(config.study.grids):
        for name in grid.claims or []:
            if name not in claim_ids():
                where, expected = f"study.grids.{index}.claims", nearest(name, claim_ids())
                yield f"{where}: {name!r} is not in {CLAIMS}; expected {expected}"


@cache
def claim_ids() -> list[str]:
    """Return the ids of the paper's claims; `audit` checks the rest of their file.

    Raises:
        UserError: The file cannot be read, or is no list of claims with ids.
    """
    path = REPOSITORY / CLAIMS
    try:
        return [claim["id"] for claim in read_yaml(path)["claims"]]
    except (KeyError, TypeError) as error:
        raise UserError(
            "this file does not list claims, each with an `id`",
            where=path,
            todo="correct it, or restore it from git",
        ) from error


def _calibration(config: Config) -> Iterator[str]:
    """Yield why ready token ids are not for this study."""
    text, grids = config.study.calibration.text, config.study.grids
    if not isinstance(config.texts[text], Tokens):
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


def _perplexity(config: Config) -> Iterator[str]:
    settings, where = config.study.evaluation.perplexity, "study.evaluation.perplexity"
    if isinstance(config.texts[settings.text], Tokens | Mixture):
        yield (
            f"{where}.text: {settings.text!r} is a {config.texts[settings.text].source} source, "
            "which is to calibrate on; expected a single text"
        )
    if settings.stride is not None and settings.stride > settings.length:
        yield (
            f"{where}.stride: found {settings.stride}; expected at most the length, "
            f"{settings.length}: tokens between windows would be left out"
        )
    if settings.stride is not None and settings.cut != JOINED:
        yield (
            f"{where}.stride: found {settings.stride}; windows overlap only with `cut: {JOINED}`"
        )


def _tasks(config: Config) -> Iterator[str]:
    asking = [index for index, grid in enumerate(config.study.grids) if grid.tasks]
    if asking and config.study.evaluation.tasks is None:
        yield (
            f"study.grids.{asking[0]}.tasks: there is no `evaluation.tasks` to evaluate these "
            "cells on; expected it, with `names`"
        )
    if config.study.evaluation.tasks is not None and not asking:
        yield "study.evaluation.tasks: no grid asks for it; expected `tasks: true` in a grid"


def _grid(where: str, grid: Grid, config: Config) -> Iterator[str]:
    """Yield which criteria cannot prune in a grid's patterns, and which models cannot train."""
    for name in grid.criteria:
        criterion = config.criteria[name]
        block = criterion.column_block if isinstance(criterion, SparseGPT) else 0
        for pattern in map(Pattern.parse, grid.patterns):
            if criterion.structured != pattern.structured:
                takes = "whole units: it takes sNN"
                if not criterion.structured:
                    takes = "single weights: it takes uNN or NofM"
                yield f"{where}: {name!r} prunes {takes}, not {pattern.name}; use another grid"
            if pattern.group and block % pattern.group:
                fitting = max(block // pattern.group, 1) * pattern.group
                yield (
                    f"criteria.{name}.column_block: found {block}; expected a multiple of "
                    f"{pattern.group}, for {pattern.name}, such as {fitting}"
                )
    adapted = [config.adaptations[name] for name in grid.adaptations if name != NONE]
    if any(isinstance(entry, Training) for entry in adapted):
        for name in grid.models:
            if config.models[name].dtype == UNTRAINED:
                yield f"models.{name}.dtype: {NO_GRADIENTS}; expected {TRAINED}"


def _training(where: str, entry: Training, config: Config) -> Iterator[str]:
    """Yield what is wrong with the amount of text that an adaptation trains on."""
    calibration = config.study.calibration
    has_documents = not isinstance(config.texts[calibration.text], Tokens)
    if entry.is_searched and entry.select_on == "calibration" and not has_documents:
        yield (
            f"{where}.select_on: candidates are compared on documents outside the calibration "
            "sample, and a `tokens` source has none; expected evaluation, or a text to calibrate on"
        )
    samples = entry.samples or calibration.samples
    if entry.budget is not None:
        if entry.samples is not None:
            yield f"{where}: `samples` and `budget` both set the sample; expected one of them"
        if not _is_settled(entry.budget.of, config):
            yield (
                f"{where}.budget.of: how much {entry.budget.of!r} sees is not settled; expected an "
                "adaptation that trains, lists no epochs or learning rates, and is not a multiple "
                "itself"
            )
            return
        shortened = {
            model: most
            for model in models_of(config.study.grids)
            if (most := config.models[model].max_length) is not None and most < calibration.length
        }
        for model, most in shortened.items() if entry.budget.tokens is not None else ():
            yield (
                f"{where}.budget.tokens: the model {model} gets sequences of {most} tokens instead "
                f"of {calibration.length}; expected `times` and `of`, or `samples`"
            )
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
    if samples > calibration.samples and not has_documents:
        yield (
            f"{where}: {samples} sequences are more than the `tokens` source of the calibration "
            f"sample holds; expected at most {calibration.samples}, or a text to calibrate on"
        )


def _is_settled(name: str | None, config: Config) -> bool:
    """Return whether a budget may be a multiple of what an adaptation sees."""
    if name is None:
        return True
    entry = config.adaptations[name]
    return (
        not isinstance(entry, LeastSquares) and not is_searched(entry) and budget_of(entry) is None
    )
