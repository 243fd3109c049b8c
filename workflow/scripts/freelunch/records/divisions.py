"""In how many jobs the windows of a study's finished reconstructions were adapted."""

from collections.abc import Iterator
from pathlib import Path

from freelunch.core.artifact import MANIFEST
from freelunch.core.digest import unsealed
from freelunch.study.adaptations import Windowed
from freelunch.study.cell import Cell
from freelunch.study.steps import RECONSTRUCT_WINDOW
from freelunch.study.study import Study


def finished_groups(study: Study) -> int | None:
    """Return how many jobs shared the windows of each reconstruction; None if none is finished.

    A study stays with it. With another number, finished cells would run again whenever the study is
    continued with other GPUs or another executor, or earlier jobs have taught another rate. Of
    several numbers, the latest counts. All parts of a study have the same, since they share cells.
    """
    found = [each for cell in study.of_part(None).cells for each in _of_cell(study, cell)]
    return max(found)[1] if found else None


def _of_cell(study: Study, cell: Cell) -> Iterator[tuple[float, int]]:
    """Yield when windows of a cell were finished, and in how many jobs."""
    for each in study.candidates(cell) or [cell]:
        settings = study.adaptation(each.adaptation)
        if not isinstance(settings, Windowed) or settings.is_sequential:
            return
        for first in study.paths.windows(each, "").glob(f"1-of-*/{MANIFEST}"):
            parts = _parts(first)
            if all(path.is_file() for path in parts):
                yield max(path.stat().st_mtime for path in parts), len(parts)
    record = study.paths.record(cell)
    # A clone that took over the results may have the records alone, and `tidy` removes candidates.
    if record.is_file():
        cost = (unsealed(record.read_bytes()) or {}).get("cost", {})
        if jobs := cost.get(RECONSTRUCT_WINDOW, {}).get("jobs"):
            yield record.stat().st_mtime, jobs


def _parts(first: Path) -> list[Path]:
    """Return the manifests of all groups of a division, from that of its first group."""
    groups = int(first.parent.name.removeprefix("1-of-"))
    folder = first.parents[1]
    return [folder / f"{group}-of-{groups}" / first.name for group in range(1, groups + 1)]
