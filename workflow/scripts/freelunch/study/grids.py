"""The cells of a study's grids, whole and in part."""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from freelunch.core.errors import nearest
from freelunch.study.cell import Cell
from freelunch.study.config import Grid, Part


def cells_of(grids: Sequence[Grid]) -> list[Cell]:
    """Return the cells of grids: first each model's dense cell, then the others in their order."""
    found = dict.fromkeys(Cell.dense(model) for grid in grids for model in grid.models)
    for grid in grids:
        for model in grid.models:
            for criterion in grid.criteria:
                for pattern in grid.patterns:
                    for adaptation in grid.adaptations:
                        for seed in grid.seeds:
                            found.setdefault(Cell(model, criterion, pattern, adaptation, seed))
    return list(found)


def grids_in(grids: Sequence[Grid], part: Part | None) -> list[Grid]:
    """Return the grids of a part of a study, with only its models and seeds; without a part, all
    grids.
    """
    part = part or Part()
    found = []
    for grid in grids:
        models = [name for name in grid.models if part.models is None or name in part.models]
        seeds = [seed for seed in grid.seeds if part.seeds is None or seed in part.seeds]
        asked = part.claims is None or bool({*part.claims} & {*(grid.claims or [])})
        if models and seeds and asked:
            found.append(grid.model_copy(update={"models": models, "seeds": seeds}))
    return found


def part_words(part: Part | None) -> str:
    """Return a part of a study as `make` takes it, after a space; empty for the whole study."""
    given = part.as_json() if part else {}
    return "".join(
        f" {key.upper()}={','.join(map(str, names))}" for key, names in sorted(given.items())
    )


def models_of(grids: Iterable[Grid]) -> list[str]:
    """Return the models of grids, each once."""
    return list(dict.fromkeys(name for grid in grids for name in grid.models))


def claims_of(grids: Iterable[Grid]) -> list[str]:
    """Return the claims that grids are for, each once."""
    return list(dict.fromkeys(name for grid in grids for name in grid.claims or []))


def part_problems(grids: Sequence[Grid], part: Part | None) -> Iterator[str]:
    """Yield what is wrong with the part of the grids that is asked for."""
    if part is None:
        return
    defined: dict[str, list[Any]] = {
        "models": models_of(grids),
        "claims": claims_of(grids),
        "seeds": sorted({seed for grid in grids for seed in grid.seeds}),
    }
    if part.claims is not None and not defined["claims"]:
        yield (
            f"study.part.claims: no grid says which claims it is for, so none is for "
            f"{', '.join(part.claims)}; run the whole study, or add `claims` to its grids"
        )
        return
    unknown = [
        f"study.part.{key}: no grid is for {name!r}; expected {nearest(str(name), map(str, names))}"
        for key, names in defined.items()
        for name in getattr(part, key) or ()
        if name not in names
    ]
    yield from unknown
    if not unknown and not grids_in(grids, part):
        yield f"study.part: no grid is for all of{part_words(part)}"
