"""Measurements of the checkpoint of a cell, or of one of its candidates."""

from typing import Any

from freelunch.study.cell import Cell
from freelunch.study.search import adaptation_of, compared_by
from freelunch.study.steps import DRIFT, HELD_OUT, IDENTITY, PERPLEXITY, TASKS
from freelunch.study.study import Study


def measurements(study: Study, cell: Cell) -> dict[str, dict[str, Any]]:
    """Return the settings of each measurement, by its name.

    Args:
        study: The study.
        cell: A cell, or one of the candidates that are compared to choose it.
    """
    perplexity = study.perplexity_of(cell.model).cutting()
    adaptation = adaptation_of(cell.adaptation)
    if adaptation != cell.adaptation:
        by = compared_by(study.config.adaptations[adaptation])
        return {by: {} if by == HELD_OUT else perplexity}
    asked: dict[str, dict[str, Any]] = {IDENTITY: {}, PERPLEXITY: perplexity}
    if study.drift is not None and study.measures_drift(cell):
        asked[DRIFT] = study.drift.as_json()
    if study.asks_tasks(cell):
        asked[TASKS] = {key: study.tasks[key] for key in ("limit", "seed")}
    return asked
