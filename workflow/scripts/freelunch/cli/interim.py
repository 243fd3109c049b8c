"""`freelunch interim`: the results of the finished cells of an unfinished study."""

from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from freelunch.audit.output_files import PAGE
from freelunch.audit.page import page_text
from freelunch.audit.rebuild_docs import SUMMARY, write_results
from freelunch.cli.summary import verdicts_text
from freelunch.core.errors import first_of
from freelunch.core.files import write_atomically
from freelunch.core.lock import remove_lock, wait_for_lock
from freelunch.records.read import SoFar, load_finished
from freelunch.reporting.results import Results
from freelunch.study.study import Study


def interim_text(study: Study) -> str:
    """Write tables, figures, verdicts and a page of the cells that have finished, and return what
    was found, what is missing, and where all is.

    Raises:
        UserError: A record is damaged, or there is no pruned cell to compare with its dense model.
    """
    known, folder = load_finished(study), study.paths.interim
    lock = wait_for_lock(folder.with_name(f".{folder.name}.lock"))
    try:
        # An earlier look stays until this one is whole.
        with TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}-") as made:
            new = Path(made) / "new"
            audit = _write(known, study.paths.records, new)
            if folder.exists():
                folder.rename(Path(made) / "old")
            new.rename(folder)
    finally:
        remove_lock(lock)
    return "\n".join(_lines(study, known, audit))


def _write(known: SoFar, records: Path, folder: Path) -> dict[str, Any]:
    audit = write_results(known.study, known.records, records, folder, [".png", ".svg"])
    results = Results(known.study, known.records, records)
    page = page_text(results, audit, folder, records="../../records")
    write_atomically(folder / PAGE, page)
    return audit.as_json()


def _lines(study: Study, known: SoFar, audit: dict[str, Any]) -> Iterator[str]:
    part = f" of the part{study.part_words}" if study.part_words else ""
    yield (
        f"{len(known.records)} of the {len(study.cells)} cells{part} of the study `{study.name}` "
        f"({study.source}) have finished."
    )
    if known.outdated:
        first, (key, found, asked) = next(iter(known.outdated.items()))
        yield (
            "Finished with other settings, so that they run again: "
            f"{', '.join(first_of(known.outdated))}. For {first}, {key} was {found} and is {asked}."
        )
    if known.waiting:
        yield f"Finished before their dense models: {', '.join(first_of(known.waiting))}."
    others = {*known.records, *known.outdated, *known.waiting}
    if missing := [cell for cell in study.cells if cell not in others]:
        yield f"Not yet: {', '.join(first_of(missing))}."
    yield audit["answer"]
    yield f"Scope: {audit['scope']}"
    yield f"The paper's claims here: {verdicts_text(audit['claims'])}"
    if known.study.is_unfinished:
        yield "Verdicts may change with each cell that finishes."
    yield f"page    {study.paths.interim / PAGE}"
    yield f"tables  {study.paths.interim / SUMMARY}, and more beside it"
