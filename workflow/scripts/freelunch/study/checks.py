"""What a config may not say although its schema allows it: what does not go together."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from freelunch.core.errors import nearest
from freelunch.study.cell import DENSE, NONE
from freelunch.study.entry import budget_tokens
from freelunch.study.methods import FULL, LOW_RANK, SCALED, is_retraining, trained_by
from freelunch.study.patterns import Pattern
from freelunch.study.schema import config_schema, is_structured, with_defaults
from freelunch.study.search import is_searched
from freelunch.study.windows import AUTO, LEAST_SQUARES, MATRIX


def contradictions(config: Mapping[str, Any]) -> Iterator[str]:
    """Yield what a schema cannot say: names that are defined nowhere, texts of the wrong kind."""
    study = config["study"]
    texts = config["texts"]
    for where, text, ids_allowed in (
        ("study.calibration.text", study["calibration"]["text"], True),
        ("study.evaluation.perplexity.text", study["evaluation"]["perplexity"]["text"], False),
    ):
        if text not in texts:
            yield f"  {where}: {text!r} is not in `texts`; expected {nearest(text, texts)}"
        elif texts[text]["source"] == "tokens" and not ids_allowed:
            yield f"  {where}: {text!r} is a `tokens` source; expected a text"
    perplexity = study["evaluation"]["perplexity"]
    if (perplexity.get("stride") or 0) > perplexity["length"]:
        yield (
            f"  study.evaluation.perplexity.stride: found {perplexity['stride']}; expected at most "
            f"the length, {perplexity['length']}: what lies between windows would be left out"
        )
    if "drift" in study["evaluation"]:
        yield from _drift_problems(config)
    asked = study["evaluation"].get("tasks", {}).get("names", [])
    for name in asked:
        if name not in config.get("tasks", {}):
            yield (
                f"  study.evaluation.tasks.names: {name!r} is not in `tasks`; expected "
                + nearest(name, config.get("tasks", {}))
            )
    asking = [index for index, grid in enumerate(study["grids"]) if grid.get("tasks", False)]
    if asking and not asked:
        yield (
            f"  study.grids.{asking[0]}.tasks: there is no `evaluation.tasks` to evaluate these "
            "cells on; expected its `names`"
        )
    if asked and not asking:
        yield "  study.evaluation.tasks: no grid asks for it; expected `tasks: true` in a grid"
    registries = {
        "models": list(config["models"]),
        "criteria": list(config["criteria"]),
        "adaptations": [NONE, *config["adaptations"]],
    }
    for index, grid in enumerate(study["grids"]):
        for registry, valid in registries.items():
            for name in grid[registry]:
                where = f"study.grids.{index}.{registry}"
                if (registry, name) == ("criteria", DENSE):
                    yield (
                        f"  {where}: the dense model is always evaluated, and never adapted: "
                        "nothing of it was pruned; expected criteria to prune by"
                    )
                elif name not in valid:
                    yield f"  {where}: {name!r} is not in `{registry}`; expected " + nearest(
                        name, valid
                    )
        trained = [config["adaptations"].get(name, {}) for name in grid["adaptations"]]
        if any(entry.get("method", LEAST_SQUARES) != LEAST_SQUARES for entry in trained):
            for model in grid["models"]:
                if config["models"].get(model, {}).get("dtype") == "float16":
                    yield (
                        f"  models.{model}.dtype: gradients vanish in float16; "
                        "expected bfloat16 or float32"
                    )
        for name in grid["patterns"]:
            try:
                pattern = Pattern.parse(name)
            except ValueError as error:
                yield f"  study.grids.{index}.patterns: {error}"
                continue
            for criterion in grid["criteria"]:
                if entry := config["criteria"].get(criterion):
                    where = f"study.grids.{index}"
                    yield from _fits(where, criterion, with_defaults(entry), pattern)
    for name, entry in config["criteria"].items():
        criterion = with_defaults(entry)
        if criterion.get("scope") == "model" and criterion["statistics"] == "sparse":
            yield (
                f"  criteria.{name}: scope `model` compares the units of all blocks before any is "
                "pruned; expected statistics: dense"
            )
    for name, entry in config["adaptations"].items():
        yield from _adaptation_problems(name, entry, config)
    for registry, reserved in (("criteria", DENSE), ("adaptations", NONE)):
        if reserved in config[registry]:
            yield f"  {registry}.{reserved}: this name is reserved; choose another"
    for registry in ("models", "texts", "tasks"):
        for name, entry in config.get(registry, {}).items():
            if "path" in entry and not Path(entry["path"]).exists():
                yield (
                    f"  {registry}.{name}.path: there is nothing at {entry['path']}; expected a "
                    + ("folder" if registry == "models" else "file")
                    + " (absolute, or relative to the repository)"
                )


def _adaptation_problems(
    name: str, entry: Mapping[str, Any], config: Mapping[str, Any]
) -> Iterator[str]:
    """Yield what does not go together in an entry of `adaptations`.

    Args:
        name: Its key.
        entry: The entry.
        config: The whole of it.
    """
    settings, where = with_defaults(entry, "adaptation"), f"  adaptations.{name}"
    text = config["texts"].get(config["study"]["calibration"]["text"])
    has_documents = isinstance(text, Mapping) and text.get("source") != "tokens"
    if settings["method"] != LEAST_SQUARES:
        yield from _sample_problems(where, settings, config, has_documents)
        if is_searched(settings) and settings["select_on"] == "calibration" and not has_documents:
            yield (
                f"{where}.select_on: candidates are compared on documents that calibration left, "
                "and a `tokens` source has none; expected evaluation, or a text"
            )
    if not is_retraining(settings):
        yield from _reconstruction_problems(where, settings)


def _sample_problems(
    where: str, settings: Mapping[str, Any], config: Mapping[str, Any], has_documents: bool
) -> Iterator[str]:
    """Yield what is wrong with how much an adaptation is trained on."""
    calibration = config["study"]["calibration"]
    length, samples = calibration["length"], settings.get("samples", calibration["samples"])
    step = settings["batch"] * length
    if "budget" in settings:
        if "samples" in settings:
            yield f"{where}: `samples` and `budget` say the same; expected one of them"
        problem = _budget_problem(settings["budget"], config["adaptations"])
        if problem:
            yield f"{where}.budget{problem}"
            return
        tokens = budget_tokens(settings["budget"], config)
        counts = (
            settings["epochs"] if isinstance(settings["epochs"], list) else [settings["epochs"]]
        )
        if tokens < step * max(counts):
            yield (
                f"{where}.budget: found {tokens} tokens; expected at least {step * max(counts)}, "
                f"one step of {settings['batch']} sequences of {length} tokens in each epoch"
            )
        samples = tokens // (length * min(counts))
    elif samples < settings["batch"]:
        yield (
            f"{where}.batch: found {settings['batch']} sequences of a sample of {samples}; "
            "expected no more than it has"
        )
    if settings.get("micro_batch", 0) > settings["batch"]:
        yield (
            f"{where}.micro_batch: found {settings['micro_batch']}; expected at most the batch, "
            f"{settings['batch']}"
        )
    if samples > calibration["samples"] and not has_documents:
        yield (
            f"{where}: {samples} sequences are more than the `tokens` source of the calibration "
            f"has; expected at most {calibration['samples']}, or a text"
        )


def _budget_problem(budget: Mapping[str, Any], adaptations: Mapping[str, Any]) -> str | None:
    """Return what is wrong with what a budget is a multiple of."""
    if "of" not in budget:
        return None
    if budget["of"] not in adaptations:
        return f".of: {budget['of']!r} is not in `adaptations`; expected " + nearest(
            budget["of"], adaptations
        )
    other = adaptations[budget["of"]]
    if other["method"] == LEAST_SQUARES or is_searched(other) or "of" in other.get("budget", {}):
        return (
            f".of: how much {budget['of']!r} sees is not settled; expected an adaptation that "
            "trains, lists no epochs or learning rates and is no multiple itself"
        )
    return None


def _reconstruction_problems(where: str, settings: Mapping[str, Any]) -> Iterator[str]:
    """Yield what does not go together in the settings of a reconstruction."""
    if (settings["inputs"], settings["targets"]) == ("dense", "local"):
        yield (
            f"{where}.targets: with dense inputs the dense window's own outputs are the dense "
            "activations; expected dense, or inputs: sparse"
        )
    if settings["method"] == LEAST_SQUARES:
        return
    trained = trained_by(settings)
    if settings["window"] == MATRIX and trained.norms:
        key, wanted = ("trains", "other") if trained.weights is None else ("train_norms", "false")
        yield (
            f"{where}.{key}: a window of one matrix holds no norm; expected {wanted}, and the same "
            "for the windows it is compared with"
        )
    if settings["window"] == AUTO and "memory_gb" not in settings:
        yield f"{where}.memory_gb: `window: auto` fills a memory budget; expected one, in GB"
    if settings["window"] != AUTO and "memory_gb" in settings:
        yield f"{where}.memory_gb: only `window: auto` has a memory budget; expected no such key"
    trains = settings.get("trains", FULL)
    for name, having in (("rank", LOW_RANK), ("alpha", SCALED)):
        if name in settings and trains not in having:
            yield f"{where}.{name}: `trains: {trains}` has none; expected no such key"
    if trained.weights is None and settings["window"] != MATRIX:
        for name, needed in (("train_norms", trained.norms), ("train_biases", trained.biases)):
            if needed and not settings[name]:
                yield f"{where}.{name}: `trains: {trains}` trains them; expected true"


def _fits(where: str, name: str, criterion: Mapping[str, Any], pattern: Pattern) -> Iterator[str]:
    """Yield what keeps a criterion from pruning in a pattern."""
    structured = is_structured(criterion)
    if structured != pattern.structured:
        kind = "whole units: it takes sNN" if structured else "single weights: it takes uNN or NofM"
        yield (
            f"  {where}: {name!r} prunes {kind}, not {pattern.name}; put it in a grid of its own"
        )
    block = criterion.get("column_block", 0)
    if pattern.group and block % pattern.group:
        fitting = max(block // pattern.group, 1) * pattern.group
        yield (
            f"  criteria.{name}.column_block: found {block}; expected a multiple of "
            f"{pattern.group}, for {pattern.name}, such as {fitting}"
        )


def _drift_problems(config: Mapping[str, Any]) -> Iterator[str]:
    """Yield what is wrong with the text that drift is measured on."""
    study, where = config["study"], "  study.evaluation.drift"
    schema = config_schema()["properties"]["study"]["properties"]
    drift = schema["evaluation"]["properties"]["drift"]["properties"]["samples"]["default"]
    held_out = schema["selection"]["properties"]["samples"]["default"]
    samples = study["evaluation"]["drift"].get("samples", drift)
    there = study.get("selection", {}).get("samples", held_out)
    if samples > there:
        yield (
            f"{where}.samples: found {samples}; expected at most selection.samples, {there}, the "
            "sequences that are held out"
        )
    text = config["texts"].get(study["calibration"]["text"], {})
    if text.get("source") == "tokens":
        yield f"{where}: a `tokens` source has no documents to hold out; expected no such key"
