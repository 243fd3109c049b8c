"""Checks of a study before anything runs: cells against the shapes of their models, and numbers
that a model, a text or time cannot hold.
"""

from collections.abc import Iterable, Iterator

from freelunch.core.errors import UserError
from freelunch.costs.jobs import PlannedJob
from freelunch.costs.known_inputs import bytes_of, characters_of, config_of, dtype_of
from freelunch.costs.plan import Plan
from freelunch.costs.shapes import Shapes
from freelunch.study.adaptations import Local, Reconstruction, Training
from freelunch.study.cell import NONE, Cell
from freelunch.study.criteria import Criterion, OfUnits
from freelunch.study.families import biases_of, check_dropout, halves_of, units_of
from freelunch.study.methods import FULL, LOW_RANK
from freelunch.study.model_limits import check_supported
from freelunch.study.patterns import Pattern
from freelunch.study.sources import NO_GRADIENTS, TRAINED, UNTRAINED, LocalText
from freelunch.study.study import Study
from freelunch.study.windows import HALVES, MODEL, blocks_in

# How often the sample of an adaptation may draw each token of its text.
MOST_DRAWS = 10
SELECTION = "study.selection.samples"
# A year at 300 PFLOP/s, more than the training of any published model.
MOST_OPERATIONS = 1e25
# Documents are joined by two characters, and each may consist of one.
_WITH_SEPARATORS = 3


def checked_plan(study: Study, device_bytes: int | None = None, device: str = "") -> Plan:
    """Return the plan of a study that can be run.

    Raises:
        UserError: A model is of a kind that is not supported, or cannot be pruned or adapted as a
            cell requires; or a number is beyond what a model, a text or time can hold.
    """
    for model in sorted(study.models):
        check_supported(config_of(study, model), f"models.{model}")
    plan = Plan.of(study, device_bytes, device)
    known = [cell for cell in study.cells if not cell.is_dense and cell.model in plan.shapes]
    problems = {
        f"{cell.model}/{cell.pruning}: {problem}"
        for cell in known
        for problem in _cell_problems(plan, cell)
    }
    _refuse(study, sorted(problems), "problem{} in the grids")
    _refuse(study, _number_problems(plan), "number{} in the study cannot be meant")
    return plan


def _refuse(study: Study, problems: Iterable[str], what: str) -> None:
    lines = [f"  {problem}" for problem in dict.fromkeys(problems)]
    if lines:
        head = f"{len(lines)} {what.format('s' if len(lines) > 1 else '')}"
        raise UserError("\n".join([head, *lines]), where=study.source)


# --- Cells


def _cell_problems(plan: Plan, cell: Cell) -> Iterator[str]:
    shapes, pattern = plan.shapes[cell.model], Pattern.parse(cell.pattern)
    criterion = plan.study.criterion(cell.criterion)
    for width in dict.fromkeys(shapes.inputs):
        if not pattern.divides(width):
            yield f"a linear layer has {width} inputs; expected a multiple of {pattern.group}"
    yield from filter(None, _unpruned_sets(shapes, pattern, criterion))
    settings, entry = plan.study.adaptation(cell.adaptation), f"adaptations.{cell.adaptation}"
    if settings is not None:
        try:
            _check_window(plan, cell, shapes)
        except UserError as error:
            yield f"{entry}: {error}"
    if isinstance(settings, Training):
        if dtype_of(plan.study, cell.model) == UNTRAINED:
            yield (
                f"models.{cell.model}.dtype: the checkpoint's own is {UNTRAINED}, but "
                f"{NO_GRADIENTS}; expected {TRAINED}"
            )
        for problem in _training_problems(settings, shapes):
            yield f"{entry}{problem}"
    # If the family is not known yet, pruning checks it.
    if shapes.model_type:
        try:
            if pattern.structured:
                units_of(shapes.model_type)
            if isinstance(criterion, OfUnits) and criterion.bias_compensation:
                biases_of(shapes.model_type)
        except UserError as error:
            yield str(error)


def _unpruned_sets(shapes: Shapes, pattern: Pattern, criterion: Criterion) -> Iterator[str | None]:
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


def _check_window(plan: Plan, cell: Cell, shapes: Shapes) -> None:
    """Check that a model has the window asked for. What is not known yet, the job checks."""
    settings = plan.study.adaptation(cell.adaptation)
    window, _ = plan.window(cell.model, cell.adaptation)
    if window == MODEL:
        plan.streamed(cell.model, cell.adaptation)
    elif window is not None:
        blocks_in(window, shapes.blocks)
    by_halves = isinstance(settings, Local) and settings.lost_residual
    if shapes.model_type and (window == HALVES or by_halves):
        halves_of(shapes.model_type, shapes.whole)
    drops = isinstance(settings, Reconstruction) and settings.model_dropout
    if drops and shapes.dropout is not None:
        check_dropout(shapes.dropout, shapes.model_type)


def _training_problems(settings: Training, shapes: Shapes) -> Iterator[str]:
    """Yield which parameters of an adaptation a model lacks, each after the key."""
    trained = settings.trained
    if trained.weights is None and not trained.norms and shapes.biases is False:
        yield (
            ": it trains biases alone, and no linear layer of this model has one; expected a "
            "method that trains norms or weights"
        )
    smallest = min(min(matrix.inputs, matrix.outputs) for matrix in shapes.matrices)
    if trained.weights in LOW_RANK and trained.rank > smallest:
        yield (
            f".rank: found {trained.rank}; expected at most {smallest}, the smaller dimension of a "
            "matrix of this model"
        )
    if trained.head and trained.weights != FULL and shapes.tied:
        yield (
            ".train_head: the head of this model is tied to its embedding, so it has no adapter of "
            f"its own; expected false, or the method {FULL}"
        )


# --- Numbers that cannot be meant


def _number_problems(plan: Plan) -> Iterator[str]:
    """Yield each length beyond the positions of a model, each number that needs more text than
    there is, and each adaptation that no machine finishes.
    """
    study = plan.study
    for model in study.models:
        config = config_of(study, model)
        part = config.get("text_config")
        most = (part if isinstance(part, dict) else config).get("max_position_embeddings")
        for key, length in (
            ("study.calibration.length", study.calibration_of(model).length),
            ("study.evaluation.perplexity.length", study.perplexity_of(model).length),
        ):
            if isinstance(most, int) and length > most:
                yield (
                    f"{key}: found {length}; expected at most {most}, since the model {model} has "
                    f"no more positions (max_position_embeddings); `models.{model}.max_length` "
                    "shortens the sequences of this model alone"
                )
    yield from _text_problems(study)
    cells = {(cell.model, cell.adaptation, cell.pattern): cell for cell in study.cells}
    for cell in cells.values():
        for each in study.candidates(cell) or [cell]:
            settings = study.adaptation(each.adaptation)
            cost = plan.cost(PlannedJob(settings.rule, each)) if settings else None
            if cost is not None and cost.flops > MOST_OPERATIONS:
                yield (
                    f"adaptations.{cell.adaptation}: its samples and epochs take {cost.flops:.1e} "
                    f"operations of the model {cell.model}; expected at most "
                    f"{MOST_OPERATIONS:.0e}, a year at 300 PFLOP/s"
                )


def _text_problems(study: Study) -> Iterator[str]:
    """Yield each number that needs more text than there is; a token is at least a byte of it."""
    evaluated = max(map(study.perplexity_of, study.models), key=lambda settings: settings.length)
    # The sample of the model whose sequences are longest.
    sample = max(map(study.calibration_of, study.models), key=lambda sample: sample.length)
    steps = (evaluated.windows or 2) - 1
    needed = evaluated.length + steps * (evaluated.stride or evaluated.length)
    most = _most_tokens(study, evaluated.text)
    if most is not None and needed > most > 0:
        yield (
            f"study.evaluation.perplexity.windows: found {evaluated.windows}, {needed:,} tokens in "
            f"all; the text {evaluated.text} holds at most {most:,}"
        )
    for text in (evaluated.text, sample.text):
        if _most_tokens(study, text) == 0:
            yield f"texts.{text}: the file is empty"
    if most := _most_tokens(study, sample.text):
        if sample.length > most:
            yield (
                f"study.calibration.length: found {sample.length}; the text {sample.text} holds at "
                f"most {most:,} tokens"
            )
        for key, samples, times in samples_drawn(study):
            if samples * sample.length > times * most:
                yield (
                    f"{key}: {samples:,} sequences draw {samples * sample.length:,} tokens from "
                    f"the text {sample.text}, which holds at most {most:,}; expected at most "
                    f"{'' if times == 1 else f'{times} times '}as many"
                )
    # Each part of a mixture has to be long enough for its share of the largest sample.
    drawn = study.most_samples * sample.length
    for part, share in study.mixture.parts.items() if study.mixture else ():
        most = _most_tokens(study, part)
        if most is not None and share * drawn > most:
            yield (
                f"texts.{study.calibration.text}.parts.{part}: {share:g} of {drawn:,} tokens are "
                f"drawn from it, each once; it holds at most {most:,}"
            )


def samples_drawn(study: Study) -> Iterator[tuple[str, int, int]]:
    """Yield each number of sequences that is drawn from the calibration text: its key, the number,
    and how often a token may be drawn.
    """
    yield "study.calibration.samples", study.calibration.samples, 1
    yield SELECTION, study.block.selection.samples, 1
    for name in dict.fromkeys(cell.adaptation for cell in study.cells):
        if name != NONE:
            yield f"adaptations.{name}", max(study.sizes(name), default=0), MOST_DRAWS


def _most_tokens(study: Study, text: str) -> int | None:
    entry = study.config.texts.get(text)
    if isinstance(entry, LocalText):
        size = bytes_of(entry)
        return None if size is None else _WITH_SEPARATORS * size
    characters = characters_of(study, text)
    # A character has at most 4 bytes in UTF-8.
    return None if characters is None else _WITH_SEPARATORS * 4 * characters
