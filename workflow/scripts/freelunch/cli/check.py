"""Check what a study finds on this machine, before it runs.

If small files show that a step would stop minutes or hours later, the check refuses the study now.
It reads no tensor, but the headers of weights.
"""

from collections import deque
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from freelunch.cli.pin import ask_for_all
from freelunch.core.errors import UserError
from freelunch.costs.capacity import lacking
from freelunch.costs.checks import SELECTION, checked_plan, samples_drawn
from freelunch.costs.machine import Machine
from freelunch.costs.plan import Plan
from freelunch.data.hub import check_download, is_offline
from freelunch.data.inspect_model import (
    TOKENIZER,
    InspectedModel,
    check_as_fetched,
    inspect_path,
    read_tokenizer,
)
from freelunch.data.inspect_text import Amounts, read_documents
from freelunch.data.mixture import documents_of_parts
from freelunch.data.tasks import stock_task
from freelunch.records.read import is_finished
from freelunch.study.fetched import fetched_model, fetched_task, fetched_text
from freelunch.study.pins import hub_entries, pin_command, unpinned
from freelunch.study.sources import LocalModel, LocalTask, LocalText, Tokens
from freelunch.study.steps import DOCUMENTS
from freelunch.study.study import Study

# The share of the needed tokens below which a text is refused. A count misses the tokens that join
# documents; an estimate from characters can be far off.
_COUNTED, _ESTIMATED = 0.98, 0.5


def check_study(study: Study, machine: Machine | None, *, fetches: bool) -> str:
    """Check a study and what it needs: files, models, texts, the hub, memory and disk.

    Args:
        study: The study.
        machine: The machine whose memory and disk it takes; None for one that cannot be asked here.
        fetches: Whether this machine fetches what is not there yet, so that it asks the hub for it.

    Returns:
        One line that says that all is well.

    Raises:
        UserError: Something in the study, or in what it needs, would stop a run.
    """
    plan = checked_plan(study, machine.device_bytes if machine else None)
    seen = {name: model for name in study.models if (model := _look_at(study, name))}
    documents = {name: each for name in study.texts if (each := _documents(study, name))}
    _check_mixture(study, documents)
    for name in study.tasks.get("tasks", {}):
        task = study.config.tasks[name]
        stock_task(name)
        if isinstance(task, LocalTask):
            _check_is_file(task.path, f"tasks.{name}.path")
    if problems := list(dict.fromkeys(_too_short(study, seen, documents))):
        raise UserError("there is too little text\n" + "\n".join(problems), where=study.source)
    for name in seen:
        entry = study.model(name)
        if isinstance(entry, LocalModel) and not fetched_model(study, name):
            check_as_fetched(Path(entry.path), f"models.{name}.path")
    # A finished study needs nothing more; one that was edited since is not finished.
    finished = is_finished(study)
    if fetches and not finished:
        _check_downloads(study)
    if machine is not None and not finished:
        _check_room(plan, machine)
    return _all_is_well(study, plan, machine is not None)


def _look_at(study: Study, name: str) -> InspectedModel | None:
    """Look at a model on this machine; None if the study downloads it."""
    entry = study.model(name)
    if not isinstance(entry, LocalModel):
        return None
    seen = inspect_path(Path(entry.path), f"models.{name}.path")
    if seen.dtype is None and entry.dtype is None:
        raise UserError(
            "the model's config.json states no dtype that can be used here",
            where=f"models.{name}.dtype",
            found=seen.config.get("dtype") or seen.config.get("torch_dtype") or "none",
            expected="float32, bfloat16 or float16",
            todo=f"set `dtype` in the entry of {name}",
        )
    return seen


def _check_is_file(path: str, where: str) -> None:
    if not Path(path).is_file():
        raise UserError(
            "this must be one file", where=where, found=f"the folder {path}", todo="name the file"
        )


def _documents(study: Study, name: str) -> tuple[list[str], bool] | None:
    """Return the documents of a text, and whether they are all; None if they are not here yet."""
    entry, where = study.text(name), f"texts.{name}.path"
    if isinstance(entry, LocalText):
        return read_documents(Path(entry.path), entry.format, entry.field, where)
    if isinstance(entry, Tokens):
        _check_is_file(entry.path, where)
        return None
    fetched = fetched_text(study, name)
    if not fetched or not (fetched / DOCUMENTS).is_file():
        return None
    return read_documents(fetched / DOCUMENTS, "jsonl", "text", f"texts.{name}", is_fetched=True)


def _check_mixture(study: Study, documents: dict[str, tuple[list[str], bool]]) -> None:
    """Refuse a mixture whose parts overlap, if all of them are here."""
    parts = list(mixture.parts) if (mixture := study.mixture) else []
    if all(part in documents and documents[part][1] for part in parts):
        read = ((part, documents[part][0]) for part in parts)
        deque(documents_of_parts(study.calibration.text, read), maxlen=0)


class _Need(NamedTuple):
    """What a setting needs of a text.

    Attributes:
        where: The setting.
        text: The text's name.
        sequences: Sequences of token ids.
        length: Tokens in each.
        tokens: Tokens in all.
        times: How often each may be drawn.
    """

    where: str
    text: str
    sequences: int
    length: int
    tokens: float
    times: int = 1


def _needs(study: Study, model: str) -> Iterator[_Need]:
    """Yield what the settings of a model need of the texts. The jobs that draw samples check more,
    such as how many documents are long enough.
    """
    asked = study.perplexity_of(model)
    windows = asked.windows or 2
    tokens = asked.length + (windows - 1) * (asked.stride or asked.length)
    yield _Need("study.evaluation.perplexity", asked.text, windows, asked.length, tokens)
    sample = study.calibration_of(model)
    if mixture := study.mixture:
        most = study.most_samples
        for part, share in mixture.parts.items():
            needed = share * most * sample.length / (1 - mixture.held_out)
            yield _Need(f"texts.{sample.text}.parts.{part}", part, most, sample.length, needed)
        return
    held_out = any(map(study.needs_held_out, study.cells))
    for key, samples, times in samples_drawn(study):
        if key != SELECTION or held_out:
            tokens = samples * sample.length
            yield _Need(key, sample.text, samples, sample.length, tokens, times)


def _too_short(
    study: Study, seen: dict[str, InspectedModel], documents: dict[str, tuple[list[str], bool]]
) -> Iterator[str]:
    """Yield the settings for which a text is too short, by each model's tokenizer."""
    for model in study.models:
        fetched = fetched_model(study, model)
        tokenizer = seen[model].tokenizer if model in seen else None
        if model not in seen and fetched and (fetched / TOKENIZER).is_file():
            tokenizer = read_tokenizer(fetched / TOKENIZER, f"models.{model}")
        # From the beginning of a text, nothing follows.
        amounts = {
            name: Amounts.of(texts, tokenizer)
            for name, (texts, is_all) in documents.items()
            if is_all
        }
        for need in _needs(study, model):
            text = amounts.get(need.text)
            if text is None:
                continue
            if need.times * text.tokens < need.tokens * (_COUNTED if text.exact else _ESTIMATED):
                often = (
                    "" if need.times == 1 else f", each of which may be drawn {need.times} times"
                )
                yield (
                    f"  {need.where}: found {need.sequences:,} sequences of {need.length} tokens, "
                    f"which need {need.tokens:,.0f}; the text {need.text} has about "
                    f"{text.tokens:,}{often}"
                )


def _check_downloads(study: Study) -> None:
    """Ask the hub whether it would give what the study has not fetched yet."""
    fetched = {"models": fetched_model, "texts": fetched_text, "tasks": fetched_task}
    waiting = {
        where: entry
        for where, entry in hub_entries(study).items()
        for registry, _, name in (where.partition("."),)
        if not fetched[registry](study, name)
    }
    # Offline, the hub's cache may have it, which only the download can tell.
    if not waiting or is_offline():
        return
    ask_for_all(waiting, check_download, "sources cannot be downloaded", study.source)


def _check_room(plan: Plan, machine: Machine) -> None:
    if problems := lacking(plan, machine):
        raise UserError(
            "the study does not fit this machine\n" + "\n".join(f"  {each}" for each in problems),
            where=plan.study.source,
            todo="remove what does not fit from study.grids, use shorter or fewer sequences, or "
            "another machine; `freelunch run --elsewhere` runs the study here all the same",
        )


def _all_is_well(study: Study, plan: Plan, here: bool) -> str:
    later = [name for name in study.models if not isinstance(study.model(name), LocalModel)]
    later = [name for name in later if not fetched_model(study, name)]
    later += sorted(
        name
        for name in study.texts
        if not isinstance(study.text(name), LocalText | Tokens) and not fetched_text(study, name)
    )
    checked = "settings, files and texts" + (", memory and disk" if here else "")
    if set(study.models) - plan.shapes.keys():
        checked = "settings, files and texts"
    downloads = f"; still to be downloaded: {', '.join(later)}" if later else ""
    pins = f"{pin_command(study.source)}{study.part_words}"
    pinning = f"; still to be pinned: `{pins}`" if unpinned(study) else ""
    return f"{study.source}: all is well ({checked}; {len(study.cells)} cells{downloads}{pinning})."
