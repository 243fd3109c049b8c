"""Checks of a study's cells against the shapes of their models, before anything runs."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

from freelunch.core.errors import UserError
from freelunch.costs.adapters import trained_matrices
from freelunch.costs.model_shapes import dtype_of
from freelunch.costs.shapes import Shapes
from freelunch.study.adaptations import Local, Reconstruction, Training
from freelunch.study.cell import Cell
from freelunch.study.criteria import Criterion, OfUnits
from freelunch.study.families import FAMILIES, biases_of, check_dropout, halves_of, units_of
from freelunch.study.methods import FULL, LOW_RANK, Trained
from freelunch.study.patterns import Pattern
from freelunch.study.sources import NO_GRADIENTS, TRAINED, UNTRAINED
from freelunch.study.windows import HALVES, MODEL, blocks_in

if TYPE_CHECKING:
    from freelunch.costs.plan import Plan


def check_cells(plan: "Plan") -> None:
    """Refuse cells that do not fit their model, if its shapes are known.

    Raises:
        UserError: A model cannot be pruned or adapted as a cell requires, e.g. a pattern does not
            divide the width of a matrix.
    """
    problems = {
        f"  {cell.model}/{cell.pruning}: {problem}"
        for cell in plan.study.cells
        if not cell.is_dense and cell.model in plan.shapes
        for problem in _problems(plan, cell)
    }
    if problems:
        count = "1 problem" if len(problems) == 1 else f"{len(problems)} problems"
        raise UserError(
            f"{count} in the grids\n" + "\n".join(sorted(problems)), where=plan.study.source
        )


def _problems(plan: "Plan", cell: Cell) -> Iterator[str]:
    shapes, pattern = plan.shapes[cell.model], Pattern.parse(cell.pattern)
    criterion = plan.study.criterion(cell.criterion)
    for width in dict.fromkeys(shapes.inputs):
        if not pattern.divides(width):
            yield f"a linear layer has {width} inputs; expected a multiple of {pattern.group}"
    yield from filter(None, _shares_of_nothing(shapes, pattern, criterion))
    settings = plan.study.adaptation(cell.adaptation)
    if settings is not None:
        yield from _window_problems(plan, cell, shapes)
    if isinstance(settings, Training):
        trained = settings.trained
        if dtype_of(plan.study, cell.model) == UNTRAINED:
            yield (
                f"models.{cell.model}.dtype: the checkpoint's own is {UNTRAINED}, but "
                f"{NO_GRADIENTS}; expected {TRAINED}"
            )
        if trained.weights is None and not trained.norms and shapes.biases is False:
            yield (
                f"adaptations.{cell.adaptation}: it trains biases alone, and no linear layer of "
                "this model has one; expected a method that trains norms or weights"
            )
        yield from _unnamed(cell.adaptation, trained, shapes)
        matrices = trained_matrices(shapes, trained) or shapes.matrices
        smallest = min(min(of.inputs, of.outputs) for of in matrices)
        if trained.weights in LOW_RANK and trained.rank > smallest:
            yield (
                f"adaptations.{cell.adaptation}.rank: found {trained.rank}; expected at most "
                f"{smallest}, the smaller dimension of a matrix of this model"
            )
        if trained.head and trained.weights != FULL and shapes.tied:
            yield (
                f"adaptations.{cell.adaptation}.train_head: the head of this model is tied to its "
                f"embedding, so it has no adapter of its own; expected false, or the method {FULL}"
            )
    if not shapes.model_type:
        # The family is not known yet: pruning checks it.
        return
    try:
        if pattern.structured:
            units_of(shapes.model_type)
        if isinstance(criterion, OfUnits) and criterion.bias_compensation:
            biases_of(shapes.model_type)
    except UserError as error:
        yield str(error)


def _window_problems(plan: "Plan", cell: Cell, shapes: Shapes) -> Iterator[str]:
    """Yield why a model does not have the window that an adaptation asks for."""
    try:
        window = plan.window(cell.model, cell.adaptation)[0]
        if window == MODEL:
            plan.streamed(cell.model, cell.adaptation)
        else:
            blocks_in(window, shapes.blocks)
        # What is not known yet, the job checks.
        settings = plan.study.adaptation(cell.adaptation)
        by_halves = isinstance(settings, Local) and settings.lost_residual
        if shapes.model_type and (window == HALVES or by_halves):
            halves_of(shapes.model_type, shapes.whole)
        drops = isinstance(settings, Reconstruction) and settings.model_dropout
        if drops and shapes.dropout is not None:
            check_dropout(shapes.dropout, shapes.model_type)
    except UserError as error:
        yield f"adaptations.{cell.adaptation}: {error}"


def _shares_of_nothing(
    shapes: Shapes, pattern: Pattern, criterion: Criterion
) -> Iterator[str | None]:
    """Yield, for each set within which a criterion compares, what is wrong if none is pruned."""
    if criterion.scope == "row" and pattern.group is None:
        for width in dict.fromkeys(shapes.inputs):
            yield pattern.nothing_of(width, "weights of a row", "scope: matrix")
    if isinstance(criterion, OfUnits) and criterion.scope == "block":
        other = ["scope: model"] if criterion.statistics == "dense" else []
        yield pattern.nothing_of(shapes.intermediate, "channels of a block", *other)
        if criterion.attention_unit == "head":
            yield pattern.nothing_of(shapes.heads, "heads of a block", *other)
            return
        if pattern.zeros_in_group(shapes.heads):
            other = ["attention_unit: head", *other]
        yield pattern.nothing_of(shapes.key_heads, "key heads of a block", *other)


def _unnamed(adaptation: str, trained: Trained, shapes: Shapes) -> Iterator[str]:
    """Yield each of an adaptation's `linears` that names no linear layer of a known family."""
    family = FAMILIES.get(shapes.model_type)
    for end, expected in trained.unknown(family.linears) if family else ():
        yield (
            f"adaptations.{adaptation}.linears: {end!r} names no linear layer of this model; "
            f"expected {expected}"
        )
