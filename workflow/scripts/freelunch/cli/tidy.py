"""`freelunch tidy`: give back the disk that the candidates of finished cells take."""

from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path

from freelunch.core.artifact import MANIFEST
from freelunch.core.digest import SUFFIX
from freelunch.core.files import remove_path
from freelunch.core.lock import remove_lock, wait_for_lock
from freelunch.core.units import amount
from freelunch.costs.capacity import files_in
from freelunch.records.read import finished_records
from freelunch.study.cell import Cell
from freelunch.study.study import Study


def tidy(study: Study, dry_run: bool = False) -> str:
    """Remove the adapted blocks and the checkpoints of the candidates of finished cells.

    A cell keeps its own, which are those of the candidate that was chosen, and the measurements by
    which it was chosen. Nothing runs again because of what is removed, as long as the candidates
    need not be measured or compared again. The study may be running: a cell keeps its candidates
    if it has no record, or one of other settings, or if a candidate was made or measured after the
    record.

    Args:
        study: The study, or a part of it.
        dry_run: Whether to remove nothing, and only say what would be removed.

    Returns:
        What was removed, in words.

    Raises:
        UserError: A record is damaged.
    """
    found: dict[Cell, list[Path]] = {}
    cells, freed = 0, 0
    if study.paths.records.is_dir():
        lock = wait_for_lock(study.paths.root / ".tidy.lock")
        try:
            for cell in finished_records(study, study.paths.records)[0]:
                if _is_settled(study, cell):
                    of_cell = {each: _folders(study, each) for each in study.candidates(cell)}
                    cells += any(of_cell.values())
                    found |= {each: folders for each, folders in of_cell.items() if folders}
            folders = [folder for of_candidate in found.values() for folder in of_candidate]
            freed = freed_bytes(folders)
            for folder in () if dry_run else folders:
                _remove(folder)
        finally:
            remove_lock(lock)
    if not found:
        return "Nothing to remove: no finished cell has candidates on disk."
    return (
        f"{'Would remove' if dry_run else 'Removed'} the adapted blocks and checkpoints of "
        f"{len(found):,} candidate(s) of {cells:,} finished cell(s): {amount(freed)}."
    )


def freed_bytes(folders: Iterable[Path]) -> int:
    """Return the bytes that removing folders gives back. A file with a hard link elsewhere, as the
    chosen candidate's have, gives none.
    """
    files = [status for folder in folders for status in files_in(folder)]
    links = Counter((file.st_dev, file.st_ino) for file in files)
    each = {(file.st_dev, file.st_ino): file for file in files}
    return sum(file.st_size for at, file in each.items() if links[at] == file.st_nlink)


def _is_settled(study: Study, cell: Cell) -> bool:
    """Return whether the candidates of a cell were made and measured before its record. Otherwise
    they are being made again, and the cell is about to choose among them.
    """
    made = [path for each in study.candidates(cell) for path in _manifests(study, each)]
    # A running study removes manifests and records before it makes them again.
    with suppress(FileNotFoundError):
        recorded = study.paths.record(cell).stat().st_mtime
        return all(path.stat().st_mtime <= recorded for path in made)
    return False


def _manifests(study: Study, candidate: Cell) -> Iterator[Path]:
    """Yield the manifests of what is there of a candidate, and that of its measurements."""
    yield study.paths.metrics(candidate) / MANIFEST
    windows, checkpoint = study.paths.windows(candidate, ""), study.paths.checkpoint(candidate)
    for folder in [*windows.glob("[!.]*"), *([checkpoint] if checkpoint.is_dir() else [])]:
        yield folder / MANIFEST


def _folders(study: Study, candidate: Cell) -> list[Path]:
    """Return where a candidate's blocks and checkpoint are, what an interrupted run left first."""
    own = (study.paths.windows(candidate, ""), study.paths.checkpoint(candidate))
    return [path for folder in own for path in (_removing(folder), folder) if path.is_dir()]


def _removing(folder: Path) -> Path:
    """Return where a folder is while it is removed. Half a folder would look damaged."""
    return folder.with_name(f".{folder.name}.removing")


def _remove(folder: Path) -> None:
    if not folder.name.startswith("."):
        folder = folder.rename(_removing(folder))
    remove_path(folder)
    folder.with_name(f"{folder.stem}{SUFFIX}").unlink(missing_ok=True)
    # The folder of all seeds of the candidate, once it is empty.
    with suppress(OSError):
        folder.parent.rmdir()
