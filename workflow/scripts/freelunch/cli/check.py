"""Check what a study finds on this machine, before it runs.

If small files show that a step would stop minutes or hours later, the check refuses the study now.
It reads no tensor, but the headers of weights.
"""

import math
from collections import deque
from collections.abc import Iterator
from pathlib import Path

from freelunch.cli.pin import ask_for_all
from freelunch.core.devices import memory_bytes
from freelunch.core.errors import UserError
from freelunch.costs.checks import SELECTION, checked_plan, samples_drawn
from freelunch.costs.fits import lacking
from freelunch.costs.machine import Machine
from freelunch.costs.plan import Plan
from freelunch.data.hub_lookup import check_download, is_offline
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
from freelunch.study.config import Calibration, PerplexitySettings
from freelunch.study.fetched import fetched_model, fetched_task, fetched_text
from freelunch.study.pins import hub_entries, pin_command, unpinned
from freelunch.study.sources import LocalModel, LocalTask, LocalText, Mixture, Tokens
from freelunch.study.steps import DOCUMENTS, JOINED
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
    seen = {name: found for name in study.models if (found := _seen(study, name)) is not None}
    documents = {
        name: each for name in study.texts if (each := _documents(study, name)) is not None
    }
    _check_mixture(study, documents)
    for name in study.tasks.get("tasks", {}):
        task = study.config.tasks[name]
        stock_task(name)
        if isinstance(task, LocalTask) and not Path(task.path).is_file():
            raise UserError(
                "the documents of a task must be in one file",
                where=f"tasks.{name}.path",
                found=f"the folder {task.path}",
                todo="name the file",
            )
    if problems := list(dict.fromkeys(_amounts(study, seen, documents))):
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


def this_machine(device_bytes: int | None) -> Machine:
    """Return this machine as far as memory goes; its rates are not measured."""
    return Machine(1.0, 1.0, 1.0, memory_bytes(), device_bytes)


def _seen(study: Study, name: str) -> InspectedModel | None:
    """Look at a model on this machine; None if the study downloads it."""
    entry = study.model(name)
    if not isinstance(entry, LocalModel):
        return None
    found = inspect_path(Path(entry.path), f"models.{name}.path")
    if found.dtype is None and entry.dtype is None:
        raise UserError(
            "the model's config.json states no dtype that can be used here",
            where=f"models.{name}.dtype",
            found=found.config.get("dtype") or found.config.get("torch_dtype") or "none",
            expected="float32, bfloat16 or float16",
            todo=f"set `dtype` in the entry of {name}",
        )
    return found


def _documents(study: Study, name: str) -> tuple[list[str], bool] | None:
    """Return the documents of a text, and whether they are all; None if they are not here yet."""
    entry, where = study.text(name), f"texts.{name}.path"
    if isinstance(entry, LocalText):
        return read_documents(Path(entry.path), entry.format, entry.field, where)
    if isinstance(entry, Tokens) and not Path(entry.path).is_file():
        raise UserError(
            "token ids must be in one file",
            where=where,
            found=f"the folder {entry.path}",
            todo="name the file",
        )
    fetched = fetched_text(study, name)
    if isinstance(entry, Tokens) or not fetched or not (fetched / DOCUMENTS).is_file():
        return None
    return read_documents(fetched / DOCUMENTS, "jsonl", "text", f"texts.{name}", is_fetched=True)


def _check_mixture(study: Study, documents: dict[str, tuple[list[str], bool]]) -> None:
    """Refuse a mixture whose parts overlap, if all of them are here."""
    parts = list(mixture.parts) if (mixture := study.mixture) else []
    if all(part in documents and documents[part][1] for part in parts):
        read = ((part, documents[part][0]) for part in parts)
        deque(documents_of_parts(study.calibration.text, read), maxlen=0)


def _amounts(
    study: Study, seen: dict[str, InspectedModel], documents: dict[str, tuple[list[str], bool]]
) -> Iterator[str]:
    """Yield the settings for which a text is too short, by each model's tokenizer."""
    for model in study.models:
        fetched = fetched_model(study, model)
        tokenizer = seen[model].tokenizer if model in seen else None
        if model not in seen and fetched and (fetched / TOKENIZER).is_file():
            tokenizer = read_tokenizer(fetched / TOKENIZER, f"models.{model}")
        counted = {
            name: Amounts.of(found, tokenizer, complete)
            for name, (found, complete) in documents.items()
        }
        if (text := counted.get(study.perplexity.text)) and text.complete:
            yield from _evaluated(study.perplexity_of(model), text)
        sample = study.calibration_of(model)
        if mixture := study.mixture:
            yield from _mixed(study, sample, mixture, counted)
        elif (text := counted.get(sample.text)) and text.complete:
            yield from _drawn(study, sample, text)


def _evaluated(asked: PerplexitySettings, text: Amounts) -> Iterator[str]:
    windows = asked.windows or 2
    if asked.cut != JOINED:
        yield from _within_documents(asked, text, windows)
        return
    needed = asked.length + (windows - 1) * (asked.stride or asked.length)
    if text.tokens < needed * (_COUNTED if text.exact else _ESTIMATED):
        yield (
            f"  study.evaluation.perplexity.windows: found {windows} windows of {asked.length} "
            f"tokens, {needed:,} in all; the text {asked.text} has about {text.tokens:,}"
        )


def _within_documents(asked: PerplexitySettings, text: Amounts, windows: int) -> Iterator[str]:
    sure = 1 if text.exact else _ESTIMATED
    counts = [int(tokens / sure) // asked.length for tokens in text.lengths]
    if sum(counts) < windows:
        yield (
            f"  study.evaluation.perplexity.windows: found {windows} windows of {asked.length} "
            f"tokens; the documents of the text {asked.text} have about {sum(counts)}"
        )
    elif sum(count > 0 for count in counts) < 2:
        yield (
            f"  study.evaluation.perplexity.cut: found documents; the text {asked.text} has a "
            f"single document of {asked.length} tokens, and errors over windows need several; "
            "expected joined, or a text with more documents"
        )


def _drawn(study: Study, asked: Calibration, text: Amounts) -> Iterator[str]:
    least = asked.length * (1 if text.exact else _ESTIMATED)
    if not any(length > least for length in text.lengths):
        yield (
            f"  study.calibration.length: found {asked.length}; the longest document of the text "
            f"{asked.text} has about {max(text.lengths):,} tokens, and a sequence needs a longer "
            "one"
        )
        return
    held_out = any(map(study.needs_held_out, study.cells))
    for key, samples, times in samples_drawn(study):
        if key == SELECTION and not held_out:
            continue
        drawn = samples * asked.length
        if times * text.tokens < drawn * (_COUNTED if text.exact else _ESTIMATED):
            often = "" if times == 1 else f", each of which may be drawn {times} times"
            yield (
                f"  {key}: found {samples} sequences of {asked.length} tokens, {drawn:,} in all; "
                f"the text {asked.text} has about {text.tokens:,}{often}"
            )
    if not text.longer_than(asked.length):
        return
    seeds = {cell.seed for cell in study.cells if study.needs_held_out(cell)}
    for seed in sorted(seeds):
        # An estimate can only tell whether there is a second document at all.
        left = text.left_after(asked.samples, asked.length, seed) if text.exact else None
        if left == 0 or len(text.lengths) == 1:
            yield (
                f"  study.selection.samples: the calibration sample of seed {seed} touches all of "
                f"the {text.longer_than(asked.length)} documents of the text {asked.text} that have"
                f" more than {asked.length} tokens, and held-out text (for drift, searches and "
                "larger samples) needs others; expected more documents, or a smaller "
                "study.calibration.samples"
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


def _mixed(
    study: Study, asked: Calibration, mixture: Mixture, counted: dict[str, Amounts]
) -> Iterator[str]:
    """Yield the parts that are too short for their shares of the largest sample."""
    length, most = asked.length, study.most_samples
    for part, share in mixture.parts.items():
        text = counted.get(part)
        if text is None or not text.complete:
            continue
        long = text.longer_than(int(length * (1 if text.exact else _ESTIMATED)))
        if long <= 2 * math.ceil(long * mixture.held_out / 2):
            yield (
                f"  texts.{asked.text}.parts.{part}: {long} documents of more than {length} tokens;"
                " expected at least 3: one to train on, and two that are held out"
            )
            continue
        whole = (1 - mixture.held_out) * sum(tokens // length for tokens in text.lengths) * length
        needed = share * most * length
        if whole < needed * (_COUNTED if text.exact else _ESTIMATED):
            yield (
                f"  texts.{asked.text}.parts.{part}: {share:g} of {most:,} sequences of {length} "
                f"tokens come from it, {needed:,.0f} tokens; without the held-out documents, it "
                f"has about {whole:,.0f} in whole sequences, and none is drawn twice; expected a "
                "smaller share, fewer sequences, or several epochs on them"
            )


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
