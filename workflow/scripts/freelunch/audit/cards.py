"""The model cards of a study: `README.md` beside each checkpoint, for whoever gets it alone.

A card has the form that the Hugging Face hub reads: YAML that describes the model, then Markdown,
which `workflow/report/audit/card.md` lays out. It is a function of the records and of the licences
in the config. Licences are in no record, because they decide no number.
"""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import yaml
from jinja2 import Template

from freelunch.analysis.pairing import Records
from freelunch.audit.layouts import layout
from freelunch.audit.output_files import card_name
from freelunch.audit.page_card import pattern_in_words
from freelunch.reporting.formatting import NOT_FINITE, NOTHING, with_error
from freelunch.study import steps
from freelunch.study.cell import NONE, Cell
from freelunch.study.patterns import Pattern
from freelunch.study.study import Study

if TYPE_CHECKING:
    from huggingface_hub import EvalResult

NOT_STATED = "licence not stated"
# The hub's names of the licences that models mostly have; it calls all others by `license_name`.
_LICENCES = {
    *("apache-2.0", "mit", "bsd-3-clause", "cc0-1.0", "cc-by-4.0", "cc-by-sa-4.0", "cc-by-nc-4.0"),
    *("gemma", "llama2", "llama3", "llama3.1", "llama3.2", "llama3.3", "openrail"),
}


def card_texts(study: Study, records: Records) -> dict[str, str]:
    """Return the card of each checkpoint, by its name below the folder of the results."""
    card = layout("card.md")
    return {card_name(study, cell): _card(study, records, cell, card) for cell in study.cells}


def _card(study: Study, records: Records, cell: Cell, card: Template) -> str:
    # Planning imports this module, and must not wait for a client of the hub.
    from huggingface_hub import ModelCard, ModelCardData

    record = records[cell]
    spec, licence = record["spec"], study.model(cell.model).licence
    hub_licence = licence.lower() if licence and licence.lower() in _LICENCES else None
    adaptation = study.adaptation(cell.adaptation)
    texts = list(_texts(study, cell, record))
    pruning = [] if cell.is_dense else ["pruning", cell.criterion, cell.pattern]
    data = ModelCardData(
        base_model=spec["model"].get("repository"),
        datasets=sorted({it["entry"]["repository"] for it in texts if "repository" in it["entry"]})
        or None,
        eval_results=list(_evaluated(record)) or None,
        library_name="transformers",
        license=hub_licence or (licence and "other"),
        license_name=None if hub_licence else licence,
        model_name=str(cell),
        pipeline_tag="text-generation",
        tags=["research", *pruning],
    )
    settings = {key: spec.get(key) for key in ("criterion", "pattern", "adaptation", "seed")}
    text = card.render(
        data=data.to_yaml(),
        study=study,
        cell=cell,
        record=record,
        spec=spec,
        dtype=spec["model"].get("dtype"),
        identity=record["identity"],
        adaptation=record["adaptation"],
        retrained=adaptation is not None and adaptation.is_retraining,
        dense_again=adaptation is not None and adaptation.becomes_dense,
        pattern="" if cell.is_dense else pattern_in_words(Pattern.parse(cell.pattern)),
        settings=yaml.safe_dump(settings, allow_unicode=True).rstrip(),
        results=list(_results(records, cell)),
        texts=texts,
        licence=licence,
    )
    # The hub's own reader checks that it can be read.
    return str(ModelCard(text))


def _results(records: Records, cell: Cell) -> Iterator[dict[str, str]]:
    """Yield what was measured on a cell, and on its dense and unadapted models if it was.

    Held-out perplexity of the dense model is measured beside each pruned one.
    """
    unadapted = records.get(replace(cell, adaptation=NONE))
    dense = records.get(Cell.dense(cell.model))
    found = {"own": _measured(records[cell]), "unadapted": {}, "dense": {}}
    if not cell.is_dense:
        found["unadapted"] = _measured(unadapted) if unadapted else {}
        found["dense"] = _measured(dense) if dense else {}
        if drift := records[cell]["metrics"].get(steps.DRIFT):
            found["dense"][_held_out(records[cell])] = _perplexity(drift["dense"])
    for measure in found["own"]:
        yield {
            "measure": measure,
            **{whose: values.get(measure, NOTHING) for whose, values in found.items()},
        }


def _measured(record: Mapping[str, Any]) -> dict[str, str]:
    """Return the results of a record with their standard errors, by what was measured."""
    metrics, perplexity = record["metrics"], record["metrics"][steps.PERPLEXITY]
    text = record["spec"]["evaluation"]["perplexity"]["text"]["name"]
    found = {f"perplexity on `{text}`, {_windows(perplexity)}": _perplexity(perplexity)}
    if steps.DRIFT in metrics:
        found[_held_out(record)] = _perplexity(metrics[steps.DRIFT])
    for name, task in metrics.get(steps.TASKS, {}).get("tasks", {}).items():
        measure = f"accuracy on `{name}`, {task['documents']:,} documents"
        found[measure] = with_error(task["accuracy"], task["accuracy_standard_error"])
    return found


def _held_out(record: Mapping[str, Any]) -> str:
    text = record["spec"]["calibration"]["text"]["name"]
    return f"perplexity on held-out `{text}`, {_windows(record['metrics'][steps.DRIFT])}"


def _windows(found: Mapping[str, Any]) -> str:
    return f"{found['windows']:,} windows of {found['length']:,} tokens"


def _perplexity(found: Mapping[str, Any]) -> str:
    if found["perplexity"] is None:
        return NOT_FINITE
    return with_error(found["perplexity"], found["perplexity_standard_error"])


def _evaluated(record: Mapping[str, Any]) -> Iterator["EvalResult"]:
    """Yield the results in the hub's form, which has no place for a number that is not finite."""
    from huggingface_hub import EvalResult

    spec, metrics = record["spec"], record["metrics"]
    texts = [(spec["evaluation"]["perplexity"]["text"], "", metrics[steps.PERPLEXITY])]
    if steps.DRIFT in metrics:
        texts.append((spec["calibration"]["text"], "held out", metrics[steps.DRIFT]))
    found = [
        (text, split, "perplexity", each["perplexity"], _windows(each))
        for text, split, each in texts
    ]
    for name, task in metrics.get(steps.TASKS, {}).get("tasks", {}).items():
        documents = f"{task['documents']:,} documents"
        found.append(({"name": name}, "", "accuracy", task["accuracy"], documents))
    for data, split, metric, value, amount in found:
        if value is not None:
            yield EvalResult(
                task_type="text-generation",
                dataset_type=data.get("repository", data["name"]),
                dataset_name=data["name"],
                dataset_split=split or None,
                metric_type=metric,
                metric_name=f"{metric}, {amount}",
                metric_value=value,
            )


def _texts(study: Study, cell: Cell, record: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield the texts and tasks of a cell, with what each was used for."""
    spec, metrics, config = record["spec"], record["metrics"], study.config
    perplexity = spec["evaluation"]["perplexity"]["text"]
    if not cell.is_dense:
        calibration = spec["calibration"]
        use = f"calibration: {_sequences(calibration['samples'], calibration['length'])}"
        yield from _sampled(use, config.texts, calibration["text"])
        if record["adaptation"]:
            samples = record["adaptation"]["samples"]
            use = f"adaptation: {_sequences(samples, calibration['length'])}"
            yield from _sampled(use, config.texts, calibration["text"])
    yield _used(f"evaluation: {_windows(metrics[steps.PERPLEXITY])}", config.texts, perplexity)
    for name, task in spec["evaluation"].get("tasks", {}).get("tasks", {}).items():
        yield _used("evaluation: zero-shot task", config.tasks, {**task, "name": name})


def _sampled(
    use: str, texts: Mapping[str, Any], entry: Mapping[str, Any]
) -> Iterator[dict[str, Any]]:
    """Yield a text that samples are drawn from, or each part of a mixture."""
    if "parts" not in entry:
        yield _used(use, texts, entry)
    for part, settings in entry.get("parts", {}).items():
        yield _used(
            f"{use}, {100 * settings['share']:g} % of them", texts, {**settings, "name": part}
        )


def _sequences(samples: int, length: int) -> str:
    return f"{samples:,} sequences of {length:,} tokens"


def _used(use: str, registry: Mapping[str, Any], entry: Mapping[str, Any]) -> dict[str, Any]:
    licence = registry[entry["name"]].licence or NOT_STATED
    return {"use": use, "name": entry["name"], "entry": entry, "licence": licence}
