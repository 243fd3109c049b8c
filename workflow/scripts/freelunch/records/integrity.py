"""What a study makes, each output with its own check: it is there, and it is what was made.

An artifact is intact if its files are those of its manifest. What belongs to a cell must also have
the cell's settings, and be made from what is on disk: of two that disagree the later one is wrong.
"""

import json
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from freelunch.core.artifact import MANIFEST, Artifact, manifest_digest, united_digest
from freelunch.core.artifact_writer import FINISHED_JOURNAL, JOURNAL
from freelunch.core.digest import unsealed
from freelunch.core.errors import UserError
from freelunch.core.files import remove_path
from freelunch.records.read import differences, record_of
from freelunch.study import steps
from freelunch.study.cell import NONE, Cell
from freelunch.study.paths import RUN, read_run
from freelunch.study.search import finds_rate
from freelunch.study.sources import Mixture, WheelFiles
from freelunch.study.study import Study
from freelunch.study.windows import MODEL

# Groups of adapted blocks, by name, that no job of a reconstruction makes.
_RULES_OF_GROUPS = {"chosen": steps.CHOOSE_CANDIDATE, MODEL: steps.RETRAIN_MODEL}
# Steps whose run facts are in no folder of an artifact, or whose artifact is made on the side.
_WITHOUT_RUN = ("tasks", "checkpoints", "hidden")


@dataclass(frozen=True)
class Output:
    """Something that a rule makes.

    Attributes:
        what: What it is, in the plural: the name of the folder that holds all of them.
        rule: The rule that makes it.
        target: The file whose removal makes the rule run again: a manifest, a record, digests.
        check: Raises UserError if it is damaged; reads all of it if its argument is true.
        needed: Whether a finished study must have it, or steps that need it make it again.
    """

    what: str
    rule: str
    target: Path
    check: Callable[[bool], None]
    needed: bool = True

    @property
    def is_cache(self) -> bool:
        """Whether the rule makes it on the side, and nobody reads it without its manifest."""
        return self.what == "hidden"

    def is_removed(self) -> bool:
        """Return whether nothing of it is there."""
        if self.target.name == MANIFEST and not self.is_cache:
            return not any(self.target.parent.glob("[!.]*"))
        return not self.target.exists()

    def problem(self, anew: bool) -> str | None:
        """Return what is wrong with it, in one line, or None; read all files if `anew`."""
        made_by = f"(made by {self.rule})"
        if self.is_removed():
            return f"{self.target}: missing {made_by}" if self.needed else None
        try:
            self.check(anew)
        except (UserError, OSError) as error:
            return f"{str(error).splitlines()[0]} {made_by}"
        return None

    def remove(self) -> None:
        """Remove the files without which Snakemake runs the rule again, or a cache ends."""
        remove_path(self.target)
        if self.target.name == MANIFEST:
            remove_path(self.target.with_name(RUN))


def step_outputs(study: Study) -> Iterator[Output]:
    """Yield what the steps of a study make, in the order of the data, records last."""
    paths = study.paths
    for model in study.models:
        yield _artifact("models", steps.FETCH_MODEL, paths.model(model), needed=True, beside=())
    sampled = dict.fromkeys((cell.model, cell.seed) for cell in study.cells if not cell.is_dense)
    passed = {(cell.model, cell.seed) for cell in study.cells if study.needs_dense_pass(cell)}
    fetching = {Mixture: steps.MIX_TEXT, WheelFiles: steps.FETCH_TEXT_FILES}
    texts = [*study.texts, study.calibration.text] if sampled else [study.perplexity.text]
    for text in dict.fromkeys(texts):
        rule = fetching.get(type(study.text(text)), steps.FETCH_TEXT)
        yield _artifact("texts", rule, paths.text(text), needed=True)
    for task in study.tasks.get("tasks", {}):
        yield _artifact("tasks", steps.FETCH_TASKS, paths.task(task), needed=True)
    for model in study.models:
        yield _artifact("bos", steps.DECIDE_BOS, paths.bos(model))
        yield _artifact("text_windows", steps.CUT_WINDOWS, paths.text_windows(model))
    for of_model in sampled:
        extended = sorted(paths.extended(*of_model, "").glob("[!.]*"))
        samples, dense = paths.calibration(*of_model), paths.dense(*of_model)
        yield _artifact("calibration", steps.SAMPLE_CALIBRATION, samples, needed=True)
        yield _artifact("held_out", steps.SAMPLE_HELD_OUT, paths.held_out(*of_model))
        yield from (_artifact("extended", steps.EXTEND_CALIBRATION, each) for each in extended)
        yield _artifact("dense", steps.CAPTURE_DENSE, dense, needed=of_model in passed)
        yield _artifact("hidden", steps.CAPTURE_DENSE, paths.hidden(*of_model))
    masks = {_masks(study, cell): cell for cell in study.cells if cell.is_pruned}
    for folder, cell in masks.items():
        made_from = {"calibration": paths.calibration(cell.model, cell.seed)}
        if study.criterion(cell.criterion).statistics == "dense":
            made_from["dense"] = paths.dense(cell.model, cell.seed)
        yield _artifact("pruned", steps.PRUNE_MODEL, folder, study.spec(cell), made_from)
    candidates = dict.fromkeys(each for cell in study.cells for each in study.candidates(cell))
    for cell in [*candidates, *study.cells]:
        yield from _of_cell(study, cell, is_candidate=cell in candidates)
    for cell in study.cells:
        yield _record(study, cell)


def _of_cell(study: Study, cell: Cell, is_candidate: bool) -> Iterator[Output]:
    paths, checkpoint, windows = study.paths, study.paths.checkpoint(cell), None
    masks = {"masks": _masks(study, cell) if cell.is_pruned else None}
    if cell.adaptation != NONE:
        start, windows = study.start_of(cell), paths.windows(cell, MODEL).parent
        before = {**masks, **({"start": paths.checkpoint(start)} if start else {})}
        for folder in _groups(checkpoint, windows):
            rule = _RULES_OF_GROUPS.get(folder.name, steps.RECONSTRUCT_WINDOW)
            yield _artifact("windows", rule, folder, study.spec(cell), before)
        if finds_rate(study.adaptation(cell.adaptation)):
            yield _artifact("rates", steps.FIND_RATE, paths.rate(cell), study.spec(cell), before)
    made_from = {**masks, "model": paths.model(cell.model), "adapted": windows}
    # Candidates may be removed, and have no cards.
    yield _artifact(
        "checkpoints",
        steps.EVALUATE_CELL,
        checkpoint,
        made_from=made_from,
        needed=not is_candidate,
        beside=() if is_candidate else (steps.MODEL_CARD,),
    )
    folder, made_from = paths.metrics(cell), {"checkpoint": checkpoint}
    yield _artifact("metrics", steps.EVALUATE_CELL, folder, made_from=made_from)


def _groups(checkpoint: Path, windows: Path) -> list[Path]:
    """Return the folders of a cell's adapted blocks, not those left by other numbers of jobs."""
    manifest, divisions = checkpoint / MANIFEST, _divisions(windows)
    content = unsealed(manifest.read_bytes()) if manifest.is_file() else None
    named = {*content["facts"]["adapted"]} if content else set()
    of_checkpoint = [folders for folders, digests in divisions if named & digests]
    return next(iter(of_checkpoint), [folder for folders, _ in divisions for folder in folders])


def _divisions(windows: Path) -> list[tuple[list[Path], set[str | None]]]:
    """Return, for each way in which a cell was adapted (by so many jobs, or by a search), its
    folders and the digests by which a checkpoint names them: of all together or, where an earlier
    version made it, of each.
    """
    divisions: dict[str, list[Path]] = {}
    for folder in sorted(windows.glob("[!.]*")):
        # What a search chose is no part of what was trained before it was one.
        kind = folder.name.partition("-of-")[2] or folder.name
        divisions.setdefault(kind, []).append(folder)
    return [
        (folders, {united_digest(folders), *map(manifest_digest, folders)} - {None})
        for folders in divisions.values()
    ]


def _masks(study: Study, cell: Cell) -> Path:
    return study.paths.pruned(cell.model, cell.pruning, cell.seed)


def _artifact(
    what: str,
    rule: str,
    folder: Path,
    spec: dict[str, Any] | None = None,
    made_from: Mapping[str, Path | None] | None = None,
    *,
    needed: bool = False,
    beside: Collection[str] | None = None,
) -> Output:
    """Return an artifact that a step makes; its settings should be those of `spec`.

    In a checkpoint there may be only files of the step, and those `beside` them that other steps
    add: `from_pretrained` reads some files by their name alone.
    """

    def check(anew: bool) -> None:
        artifact = Artifact(folder, None)
        artifact.verify(anew)
        if what not in _WITHOUT_RUN:
            read_run(folder)
        _check_made_from(folder, artifact.facts, made_from or {})
        settings = artifact.facts["settings"] if spec else {}
        expected = {key: (spec or {}).get(key) for key in settings}
        for key, found, other in differences(settings, expected):
            raise UserError(
                f"this was made with other settings than the study's: {key} = "
                f"{json.dumps(found)}, not {json.dumps(other)}",
                where=folder,
            )
        own = {MANIFEST, RUN, JOURNAL, FINISHED_JOURNAL, *artifact.files, *(beside or ())}
        for path in sorted(folder.iterdir()) if beside is not None else ():
            if path.name not in own and not path.name.startswith("."):
                raise UserError("this file does not belong to the checkpoint", where=path)

    return Output(what, rule, folder / MANIFEST, check, needed)


def _record(study: Study, cell: Cell) -> Output:
    path, paths = study.paths.record(cell), study.paths
    made_from = {"model": paths.model(cell.model), "checkpoint": paths.checkpoint(cell)}

    def check(anew: bool) -> None:
        record = record_of(cell, path)
        _check_made_from(path, record["provenance"]["digests"], made_from)

    return Output("records", steps.COLLECT_RECORDS, path, check)


def _check_made_from(
    where: Path, facts: dict[str, Any], made_from: Mapping[str, Path | None]
) -> None:
    """Refuse what was made from other artifacts than those on disk; those removed are passed over.

    `made_from` has the folder of each artifact whose digest the facts have, or None if there must
    be none; `adapted` is the folder of all groups of adapted blocks.
    """
    for name, folder in made_from.items():
        digests = {*facts[name]} if name == "adapted" else {facts.get(name)} - {None}
        on_disk = {folder and manifest_digest(folder)} - {None}
        if folder is not None and name == "adapted":
            # Groups of another division may be left from earlier runs.
            on_disk = {digest for _, known in _divisions(folder) for digest in known}
        if bool(digests) != (folder is not None) or (on_disk and not digests <= on_disk):
            raise UserError(f"this was not made from what is on disk ({name})", where=where)
