"""Check what a study finds on this machine, before it runs.

If small files show that a step would stop minutes or hours later, the check refuses the study now.
It reads no tensor, but the headers of weights.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path

from freelunch.core.errors import UserError
from freelunch.costs.checks import checked_plan, lacking
from freelunch.costs.machine import Machine
from freelunch.data.hub import check_download, is_offline
from freelunch.data.inspect_model import (
    TOKENIZER,
    InspectedModel,
    check_as_fetched,
    inspect_path,
    read_tokenizer,
)
from freelunch.data.inspect_text import Amounts, read_documents
from freelunch.data.tasks import stock_task
from freelunch.records.read import is_finished
from freelunch.study.cell import NONE
from freelunch.study.pins import hub_entries, pin_command, unpinned
from freelunch.study.source_files import files_at
from freelunch.study.sources import LocalModel, LocalTask, LocalText, Tokens
from freelunch.study.steps import DOCUMENTS
from freelunch.study.study import Study

# The share of the needed tokens below which a text is refused. A count misses the tokens that join
# documents; an estimate from characters can be far off.
_COUNTED, _ESTIMATED = 0.98, 0.5
# How often the sample of an adaptation may draw each token of its text.
_MOST_DRAWS = 10
# The documents of a text, and whether they are all.
Documents = tuple[list[str], bool]


def check_study(study: Study, machine: Machine | None, *, fetches: bool) -> str:
    """Check a study and what it needs, and return a line that says that all is well.

    It needs files, models and texts; also memory and disk of the machine, unless this cannot be
    asked here; and if this machine fetches what is not there yet, the hub. UserError: something in
    the study, or in what it needs, would stop a run.
    """
    plan = checked_plan(study, machine.device_bytes if machine else None)
    models = {name: model for name in study.models if (model := _look_at(study, name))}
    of_models = [
        f"; {name}: {text}" for name in study.models if (text := study.model(name).terms_text)
    ]
    for name, beginning in ((name, model.beginning) for name, model in models.items()):
        if beginning is not None:
            setting = study.model(name).bos
            beginning.check(setting, f"models.{name}.bos")
            of_models.append(f"; {name}: `bos: {setting}`, the tokenizer {beginning.text}")
    documents = {name: each for name in study.texts if (each := _documents(study, name))}
    tasks = study.tasks.get("tasks", {})
    for name in tasks:
        task = study.config.tasks[name]
        stock_task(name)
        if isinstance(task, LocalTask):
            _check_is_file(task.path, f"tasks.{name}.path")
    if problems := list(dict.fromkeys(_too_short(study, models, documents))):
        raise UserError("there is too little text\n" + "\n".join(problems), where=study.source)
    for name in models:
        entry = study.model(name)
        if isinstance(entry, LocalModel) and not study.fetched("models", name):
            check_as_fetched(Path(entry.path), f"models.{name}.path")
    named = {"models": study.models, "texts": sorted(study.texts), "tasks": tasks}
    entries = [(registry, name) for registry, names in named.items() for name in names]
    waiting = [".".join(entry) for entry in entries if not study.fetched(*entry)]
    # A finished study needs nothing more; one that was edited since is not finished.
    finished = is_finished(study)
    # Offline, the hub's cache may have what is waiting, which only the download can tell.
    if fetches and not finished and not is_offline():
        for where, source in hub_entries(study).items():
            if where in waiting:
                check_download(where, source)
    if machine is not None and not finished and (problems := lacking(plan, machine)):
        raise UserError(
            "the study does not fit this machine\n" + "\n".join(f"  {each}" for each in problems),
            where=study.source,
            todo="remove what does not fit from study.grids, use shorter or fewer sequences, or "
            "another machine; `freelunch run --elsewhere` runs the study here all the same",
        )
    known = machine is not None and not set(study.models) - plan.shapes.keys()
    said = f"settings, files and texts{', memory and disk' if known else ''}; "
    said += f"{len(study.cells)} cells"
    config, local = study.config, LocalModel | LocalText | Tokens
    later = [
        name
        for registry, _, name in (where.partition(".") for where in waiting)
        if registry != "tasks" and not isinstance(getattr(config, registry)[name], local)
    ]
    said += f"; still to be downloaded: {', '.join(later)}" if later else ""
    said += "".join(of_models)
    if unpinned(study):
        said += f"; still to be pinned: `{pin_command(study.source)}{study.part_words}`"
    return f"{study.source}: all is well ({said})."


def _look_at(study: Study, name: str) -> InspectedModel | None:
    """Look at a model on this machine; None if the study downloads it."""
    entry = study.model(name)
    if not isinstance(entry, LocalModel):
        return None
    model = inspect_path(Path(entry.path), f"models.{name}.path")
    if model.dtype is None and entry.dtype is None:
        raise UserError(
            "the model's config.json states no dtype that can be used here",
            where=f"models.{name}.dtype",
            found=model.config.get("dtype") or model.config.get("torch_dtype") or "none",
            expected="float32, bfloat16 or float16",
            todo=f"set `dtype` in the entry of {name}",
        )
    return model


def _check_is_file(path: str, where: str) -> None:
    if not Path(path).is_file():
        raise UserError(
            "this must be one file", where=where, found=f"the folder {path}", todo="name the file"
        )


def _documents(study: Study, name: str) -> Documents | None:
    """Return the documents of a text; None if they are not here yet."""
    entry, where = study.text(name), f"texts.{name}.path"
    if isinstance(entry, LocalText):
        paths = [Path(file) for file in files_at(entry.path)]
        return read_documents(paths or [Path(entry.place)], entry.format, entry.field, where)
    if isinstance(entry, Tokens):
        _check_is_file(entry.path, where)
        return None
    fetched = study.fetched("texts", name)
    if not fetched or not (fetched / DOCUMENTS).is_file():
        return None
    return read_documents([fetched / DOCUMENTS], "jsonl", "text", f"texts.{name}", is_fetched=True)


def _too_short(
    study: Study, models: Mapping[str, InspectedModel], documents: Mapping[str, Documents]
) -> Iterator[str]:
    """Yield the settings for which a text is too short, by each model's tokenizer."""
    for model in study.models:
        fetched = study.fetched("models", model)
        tokenizer = models[model].tokenizer if model in models else None
        if model not in models and fetched and (fetched / TOKENIZER).is_file():
            tokenizer = read_tokenizer(fetched / TOKENIZER, f"models.{model}")
        # From the beginning of a text, nothing follows.
        amounts = {
            name: Amounts.of(texts, tokenizer)
            for name, (texts, is_all) in documents.items()
            if is_all
        }
        for where, name, sequences, length, tokens, times in _needs(study, model):
            text = amounts.get(name)
            if text is None:
                continue
            if times * text.tokens < tokens * (_COUNTED if text.exact else _ESTIMATED):
                often = f", each of which may be drawn {times} times" if times > 1 else ""
                yield (
                    f"  {where}: found {sequences:,} sequences of {length} tokens, which need "
                    f"{tokens:,.0f}; the text {name} has about {text.tokens:,}{often}"
                )


def _needs(study: Study, model: str) -> Iterator[tuple[str, str, int, int, float, int]]:
    """Yield what the settings of a model need of the texts: the setting, the text, sequences,
    tokens in each, tokens in all, and how often each may be drawn. The jobs that draw samples check
    more, such as how many documents are long enough.
    """
    asked = study.perplexity_of(model)
    windows = asked.windows or 2
    tokens = asked.length + (windows - 1) * (asked.stride or asked.length)
    yield "study.evaluation.perplexity", asked.text, windows, asked.length, tokens, 1
    sample = study.calibration_of(model)
    if mixture := study.mixture:
        most = study.most_samples
        for part, share in mixture.parts.items():
            needed = share * most * sample.length / (1 - mixture.held_out)
            yield f"texts.{sample.text}.parts.{part}", part, most, sample.length, needed, 1
        return
    drawn = [("study.calibration.samples", study.calibration.samples, 1)]
    if any(map(study.needs_held_out, study.cells)):
        drawn.append(("study.selection.samples", study.block.selection.samples, 1))
    for name in dict.fromkeys(cell.adaptation for cell in study.cells):
        if name != NONE:
            drawn.append((f"adaptations.{name}", max(study.sizes(name), default=0), _MOST_DRAWS))
    for key, samples, times in drawn:
        yield key, sample.text, samples, sample.length, samples * sample.length, times
