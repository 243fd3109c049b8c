"""Whether a study on disk is whole: every step and record is there and is what was made."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from freelunch.core.artifact import MANIFEST, Artifact
from freelunch.core.digest import file_digest, unsealed
from freelunch.core.errors import UserError
from freelunch.records.read import answers_beside, read_record
from freelunch.study import steps
from freelunch.study.adaptations import Adaptation
from freelunch.study.cell import NONE, Cell
from freelunch.study.paths import RUN, read_run
from freelunch.study.search import is_searched
from freelunch.study.sources import Tokens
from freelunch.study.study import Study
from freelunch.study.windows import MODEL

Check = Callable[[bool], None]


@dataclass(frozen=True)
class Made:
    """Something that a rule makes.

    Attributes:
        what: What it is, in the plural, for people.
        rule: The rule that makes it.
        target: The file by which Snakemake knows it, whose removal makes the rule run again; None
            if the rule makes it on the side, as it does a cache.
        needed: Whether a finished study must have it. If not, it may be removed as a whole, and
            steps that need it make it again.
        check: Raises UserError if it is damaged; reads all of it if its argument is true.
        place: The folder or file itself.
    """

    what: str
    rule: str
    target: Path | None
    needed: bool
    check: Check
    place: Path

    def is_removed(self) -> bool:
        """Return whether nothing of it is there."""
        if not self.place.is_dir():
            return not self.place.exists()
        return all(path.name.startswith(".") for path in self.place.iterdir())


class _OfOthers(UserError):
    """A record was made from other artifacts than those on disk; either may be wrong.

    Attributes:
        manifests: The manifests of those on disk.
    """

    def __init__(self, problem: str, *, where: Path, manifests: tuple[Path, ...]) -> None:
        super().__init__(problem, where=where)
        self.manifests = manifests


@dataclass(frozen=True)
class Problem:
    """Something that is damaged or missing.

    Attributes:
        made: What it is.
        said: What is wrong with it.
        others: Manifests of other steps that have to be made again too, since nothing says whether
            they or what was made from them is wrong.
    """

    made: Made
    said: str
    others: tuple[Path, ...] = ()

    def __str__(self) -> str:
        return f"{self.said} (made by {self.made.rule})"


def problem_of(made: Made, anew: bool) -> Problem | None:
    """Return what is wrong with something that a rule makes; None if nothing is.

    Args:
        made: What the rule makes.
        anew: Whether to read all files, even those whose digests are known.
    """
    if made.is_removed():
        return Problem(made, f"{made.place}: missing") if made.needed else None
    try:
        made.check(anew)
    except (UserError, OSError) as error:
        others = error.manifests if isinstance(error, _OfOthers) else ()
        return Problem(made, str(error).splitlines()[0], others)
    return None


def made_by_steps(study: Study) -> Iterator[Made]:
    """Yield what the steps of a study make, in the order of the data, records last."""
    yield from _fetched(study)
    for model, seed in _pruned_models(study):
        yield from _samples(study, model, seed)
    for model in dict.fromkeys(cell.model for cell in study.cells):
        yield _step("windows of text", steps.CUT_WINDOWS, study.paths.text_windows(model), False)
    yield from _of_cells(study)
    for cell in study.cells:
        yield _record(study, cell)


def _fetched(study: Study) -> Iterator[Made]:
    paths = study.paths
    for model in dict.fromkeys(cell.model for cell in study.cells):
        yield _step("models", steps.FETCH_MODEL, paths.model(model), True)
    names = [study.perplexity.text]
    names += [study.calibration.text] if _pruned_models(study) else []
    for name in dict.fromkeys(names):
        ready = isinstance(study.text(name), Tokens)
        kind = steps.READY_TOKENS if ready else steps.TEXT
        yield _step("texts", steps.FETCH_TEXT, paths.text(name), True, kind)
    for name in study.tasks.get("tasks", {}):
        # The run facts of all tasks are in a folder of their own.
        yield _step("tasks", steps.FETCH_TASKS, paths.task(name), True, has_run=False)


def _samples(study: Study, model: str, seed: int) -> Iterator[Made]:
    paths = study.paths
    cells = [c for c in study.cells if not c.is_dense and (c.model, c.seed) == (model, seed)]
    folder = paths.calibration(model, seed)
    yield _step("calibration samples", steps.SAMPLE_CALIBRATION, folder, True)
    if any(map(study.needs_held_out, cells)):
        folder = paths.held_out(model, seed)
        yield _step("held-out samples", steps.SAMPLE_HELD_OUT, folder, False)
    for samples in sorted({size for cell in cells for size in study.sizes(cell.adaptation)}):
        folder = paths.extended(model, seed, samples)
        yield _step("extended samples", steps.EXTEND_CALIBRATION, folder, False)
    yield _step("statistics", steps.CAPTURE_DENSE, paths.dense(model, seed), True)
    yield _cache(paths.hidden(model, seed), steps.CAPTURE_DENSE)
    if any(map(study.measures_drift, cells)):
        folder = paths.reference(model, seed)
        yield _step("references of drift", steps.CAPTURE_REFERENCE, folder, False)
        yield _cache(paths.reference_hidden(model, seed), steps.CAPTURE_REFERENCE)


def _of_cells(study: Study) -> Iterator[Made]:
    paths = study.paths
    for model, pruning, seed in dict.fromkeys(
        (cell.model, cell.pruning, cell.seed) for cell in study.cells if not cell.is_dense
    ):
        folder = paths.pruned(model, pruning, seed)
        yield _step("masks", steps.PRUNE_MODEL, folder, False)
    of_candidates = [each for cell in study.cells for each in study.candidates(cell)]
    for cell in [*of_candidates, *study.cells]:
        needed = cell not in of_candidates
        if cell.adaptation != NONE:
            settings = study.adaptation(cell.adaptation)
            assert settings is not None  # Only `none` has no settings.
            rule = steps.CHOOSE_CANDIDATE if is_searched(settings) else settings.rule
            for folder in _adapted(study, cell, settings):
                yield _step("adapted blocks", rule, folder, False)
        yield _step(
            "checkpoints", steps.EVALUATE_CELL, paths.checkpoint(cell), needed, has_run=False
        )
        yield _step("measurements", steps.EVALUATE_CELL, paths.metrics(cell), False)


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
}


def _step(
    what: str,
    rule: str,
    folder: Path,
    needed: bool,
    kind: str | None = None,
    has_run: bool = True,
) -> Made:
    if rule == steps.EVALUATE_CELL:
        kind = steps.METRICS if has_run else steps.CHECKPOINT
    expected = kind or _KINDS[rule]

    def check(anew: bool) -> None:
        artifact = Artifact(folder, expected)
        if anew:
            artifact.verify()
        if has_run:
            read_run(folder)

    return Made(what, rule, folder / MANIFEST, needed, check, folder)


def _cache(folder: Path, rule: str) -> Made:
    def check(anew: bool) -> None:
        # Without a manifest, nobody reads it.
        if (folder / MANIFEST).is_file():
            artifact = Artifact(folder, steps.HIDDEN_STATES)
            if anew:
                artifact.verify()

    return Made("hidden states (a cache)", rule, None, False, check, folder)


def _record(study: Study, cell: Cell) -> Made:
    path, paths = study.paths.record(cell), study.paths
    folders = {"model": paths.model(cell.model), "checkpoint": paths.checkpoint(cell)}
    if not cell.is_dense:
        folders["masks"] = paths.pruned(cell.model, cell.pruning, cell.seed)

    def check(anew: bool) -> None:
        record = read_record(path)
        if record["cell"] != str(cell):
            raise UserError("this is the record of another cell", where=path)
        if steps.TASKS in record["metrics"]:
            expected = record["metrics"][steps.TASKS]["answers_sha256"]
            answers = answers_beside(path)
            if not answers.is_file() or file_digest(answers) != expected:
                raise UserError("the answers differ from what the record says", where=answers)
        made_from = record["provenance"]["digests"]
        others = {
            what: manifest
            for what, folder in folders.items()
            if (manifest := folder / MANIFEST).is_file()
            and file_digest(manifest) != made_from.get(what)
        }
        if others:
            raise _OfOthers(
                f"the record does not belong to what is on disk ({', '.join(others)})",
                where=path,
                manifests=tuple(others.values()),
            )

    return Made("records", steps.COLLECT_RECORDS, path, True, check, path)


def files_to_remove(problem: Problem) -> list[Path]:
    """Return the files whose removal makes Snakemake run the rule again, or ends a cache."""
    made = problem.made
    if made.target is None:
        return [made.place / MANIFEST]
    run = [made.place / RUN] if made.target.name == MANIFEST else []
    return [made.target, *run, *problem.others]
