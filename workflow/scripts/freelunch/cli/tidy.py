"""`freelunch tidy`: give back the disk that the candidates of finished cells take."""

from collections import Counter
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from freelunch.core.checked import SUFFIX
from freelunch.core.files import remove_path
from freelunch.costs.fits import amount
from freelunch.records.read import load_finished
from freelunch.study.cell import Cell
from freelunch.study.study import Study


def tidy(study: Study, dry_run: bool = False) -> str:
    """Remove the adapted blocks and the checkpoints of the candidates of finished cells.

    A cell keeps its own, which are those of the candidate that was chosen, and the measurements by
    which it was chosen. Nothing runs again because of what is removed. The study may be running:
    cells without a record, or with one of other settings, keep their candidates.

    Args:
        study: The study, or a part of it.
        dry_run: Whether to remove nothing, and only say what would be removed.

    Returns:
        What was removed, in words.

    Raises:
        UserError: A record is damaged, or no pruned cell has finished.
    """
    known = load_finished(study)
    cells, candidates, folders = set(), set(), []
    for cell in [*known.records, *known.waiting]:
        for candidate in study.candidates(cell):
            for folder in _folders(study, candidate):
                cells.add(cell)
                candidates.add(candidate)
                folders.append(folder)
    freed = amount(freed_bytes(folders))
    if not dry_run:
        for folder in folders:
            _remove(folder)
    if not folders:
        return "Nothing to remove: no finished cell has candidates on disk."
    done = "Would remove" if dry_run else "Removed"
    return (
        f"{done} the adapted blocks and checkpoints of {_count(len(candidates), 'candidate')} of "
        f"{_count(len(cells), 'finished cell')}: {freed}."
    )


def freed_bytes(folders: Iterable[Path]) -> int:
    """Return the bytes that removing folders gives back. A file with a hard link elsewhere, as the
    chosen candidate's have, gives none.
    """
    files = [path.lstat() for folder in folders for path in folder.rglob("*") if path.is_file()]
    links = Counter((file.st_dev, file.st_ino) for file in files)
    each = {(file.st_dev, file.st_ino): file for file in files}
    return sum(file.st_size for at, file in each.items() if links[at] == file.st_nlink)


def _folders(study: Study, candidate: Cell) -> list[Path]:
    """Return what is there of a candidate, also what an interrupted removal left."""
    made = (study.paths.windows(candidate, "all").parent, study.paths.checkpoint(candidate))
    return [path for each in made for path in (each, _removing(each)) if path.is_dir()]


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


def _count(number: int, what: str) -> str:
    return f"{number:,} {what}{'' if number == 1 else 's'}"
