"""The model cards of a study: `README.md` beside each checkpoint, for whoever gets it alone.

A card has the form that the Hugging Face hub reads: YAML that describes the model, then Markdown,
which `workflow/report/audit/card.md` lays out. It is a function of the records and of the licences
in the config. Licences are in no record, because they decide no number.
"""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

import yaml

from freelunch.analysis.pairing import Records
from freelunch.audit.layouts import layout
from freelunch.audit.output_files import card_name
from freelunch.records.record import DriftFacts, LossFacts, PerplexityFacts, Record
from freelunch.reporting.formatting import NOT_FINITE, NOTHING, with_error
from freelunch.study import steps
from freelunch.study.cell import NONE, Cell
from freelunch.study.study import Study

Entry = Mapping[str, Any]
# The hub's names of the licences that models mostly have; it calls all others by `license_name`.
_LICENCES = {
    *("apache-2.0", "mit", "bsd-3-clause", "cc0-1.0", "cc-by-4.0", "cc-by-sa-4.0", "cc-by-nc-4.0"),
    *("gemma", "llama2", "llama3", "llama3.1", "llama3.2", "llama3.3", "openrail"),
}


def card_texts(study: Study, records: Records) -> dict[str, str]:
    """Return the card of each checkpoint, by its name below the folder of the results."""
    return {card_name(study, cell): _card(study, records, cell) for cell in study.cells}


def _card(study: Study, records: Records, cell: Cell) -> str:
    # Planning imports this module, and must not wait for a client of the hub.
    from huggingface_hub import ModelCard, ModelCardData

    record = records[cell]
    spec, licence = record["spec"], study.model(cell.model).licence
    hub_licence = licence.lower() if licence and licence.lower() in _LICENCES else None
    texts = list(_texts(study, record))
    of_hub = {entry["repository"] for *_, entry in texts if "repository" in entry}
    data = ModelCardData(
        base_model=spec["model"].get("repository"),
        datasets=sorted(of_hub) or None,
        library_name="transformers",
        license=hub_licence or (licence and "other"),
        license_name=None if hub_licence else licence,
        pipeline_tag="text-generation",
        tags=["research", *(["pruning", cell.criterion, cell.pattern] if cell.is_pruned else [])],
    )
    settings = {key: spec.get(key) for key in ("criterion", "pattern", "adaptation", "seed")}
    text = layout("card.md").render(
        data=data.to_yaml(),
        study=study,
        cell=cell,
        record=record,
        settings=yaml.safe_dump(settings, allow_unicode=True).rstrip(),
        results=_results(records, cell),
        texts=texts,
    )
    # The hub's own reader checks that it can be read.
    return str(ModelCard(text))


def _results(records: Records, cell: Cell) -> dict[str, list[str]]:
    """Return what was measured on a cell, and on its unadapted and dense models if it was.

    Held-out perplexity of the dense model is measured beside each pruned one.
    """
    found = [_measured(records[cell])]
    if not cell.is_dense:
        unadapted = [replace(cell, adaptation=NONE)] if cell.is_pruned else []
        for other in (*unadapted, Cell.dense(cell.model)):
            found.append(_measured(records[other]) if other in records else {})
        if drift := records[cell]["metrics"].get(steps.DRIFT):
            found[-1][_held_out(records[cell], drift)] = _perplexity(drift["dense"])
    return {title: [of.get(title, NOTHING) for of in found] for title in found[0]}


def _measured(record: Record) -> dict[str, str]:
    metrics, perplexity = record["metrics"], record["metrics"][steps.PERPLEXITY]
    text = record["spec"]["evaluation"]["perplexity"]["text"]["name"]
    found = {f"perplexity on `{text}`, {_windows(perplexity)}": _perplexity(perplexity)}
    if drift := metrics.get(steps.DRIFT):
        found[_held_out(record, drift)] = _perplexity(drift)
    for name, task in metrics.get(steps.TASKS, {}).get("tasks", {}).items():
        title = f"accuracy on `{name}`, {task['documents']:,} documents"
        found[title] = with_error(task["accuracy"], task["accuracy_standard_error"])
    return found


def _held_out(record: Record, drift: DriftFacts) -> str:
    text = record["spec"]["calibration"]["text"]["name"]
    return f"perplexity on held-out `{text}`, {_windows(drift)}"


def _perplexity(losses: LossFacts) -> str:
    value, error = losses["perplexity"], losses["perplexity_standard_error"]
    return NOT_FINITE if value is None else with_error(value, error)


def _windows(found: PerplexityFacts | DriftFacts) -> str:
    return f"{found['windows']:,} windows of {found['length']:,} tokens"


def _texts(study: Study, record: Record) -> Iterator[tuple[str, str, str | None, Entry]]:
    """Yield the use, name, licence and entry of the texts and tasks of a cell."""
    spec, config = record["spec"], study.config
    if calibration := spec.get("calibration"):
        text, samples = calibration["text"], {"calibration": calibration["samples"]}
        if record["adaptation"]:
            samples["adaptation"] = record["adaptation"]["samples"]
        for use, count in samples.items():
            what = f"{use}: {count:,} sequences of {calibration['length']:,} tokens"
            # The parts of a mixture are texts.
            parts = text.get("parts", {text["name"]: text})
            for name, entry in parts.items():
                share = f", {100 * entry['share']:g} % of them" if "parts" in text else ""
                yield f"{what}{share}", name, config.texts[name].licence, entry
    text = spec["evaluation"]["perplexity"]["text"]
    use = f"evaluation: {_windows(record['metrics'][steps.PERPLEXITY])}"
    yield use, text["name"], config.texts[text["name"]].licence, text
    for name, task in spec["evaluation"].get("tasks", {}).get("tasks", {}).items():
        yield "evaluation: zero-shot task", name, config.tasks[name].licence, task
