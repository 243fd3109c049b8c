"""Choose the cells of a new study: windows by the model's family, and as many cells as the machine
computes in about an hour.
"""

from collections.abc import Callable, Iterator
from dataclasses import replace

from freelunch.cli.choices import LEAST_LENGTH, Choices
from freelunch.core.errors import UserError
from freelunch.core.units import duration
from freelunch.costs.checks import checked_plan
from freelunch.costs.fits import lacking, misfits
from freelunch.costs.jobs import jobs_of
from freelunch.costs.machine import Machine
from freelunch.costs.plan import Plan
from freelunch.costs.work import Cost
from freelunch.data.inspect_model import InspectedModel
from freelunch.study.families import has_halves, whole_of
from freelunch.study.methods import RANK
from freelunch.study.study import Study

# If a study takes more than this many seconds on this machine, a smaller one is chosen.
_LONGEST_S = 3600
# Some of the paper's claims need these. Smaller studies leave them out one after another.
_OF_CLAIMS = ("ria", "masklora", "recon_5")
_BLOCKS = 5


def choose_cells(
    lengths: Choices,
    study_of: Callable[[Choices], Study],
    model: InspectedModel,
    machine: Machine | None,
) -> Choices:
    """Return choices with the criteria and adaptations that fit a model and a machine.

    Args:
        lengths: Choices of the samples and windows.
        study_of: Function from choices to the study with them.
        model: The model.
        machine: The machine that runs the study; None to choose without one.

    Raises:
        UserError: A model of this family cannot be used, or not even the smallest study fits the
            machine.
    """
    windows, no_halves = _windows(model)
    retraining, no_adapter = _retraining(checked_plan(study_of(lengths)))
    largest = replace(lengths, adaptations=(*windows, *retraining))
    said = f"windows and retraining are compared for Wanda{no_halves}{no_adapter}"
    if machine is None:
        checked_plan(study_of(largest))
        said += "; chosen for another machine, whatever its speed, memory and disk"
        return replace(largest, why_cells=said)
    plan = checked_plan(study_of(largest), machine.device_bytes)
    if not plan.shapes:
        said += "; the time is unknown until the model is fetched"
        return replace(largest, why_cells=said)
    # Adaptations that do not fit into memory are left out.
    without = {each.name: each.problem for each in misfits(plan, machine)}
    fitting = tuple(name for name in largest.adaptations if name not in without)
    for name in largest.adaptations:
        said += f"; no {name}: it {without[name]}" if name in without else ""
    smallest: Choices | None = None
    problems: list[str] = []
    for choices, what in _smaller(replace(largest, adaptations=fitting), said):
        plan = checked_plan(study_of(choices), machine.device_bytes)
        problems = lacking(plan, machine)
        if not problems:
            costs = [plan.cost(job) or Cost() for job in jobs_of(plan.study)]
            seconds = sum(cost.seconds(machine) for cost in costs)
            took = f"about {duration(seconds)} on this machine, job after job"
            smallest = replace(choices, why_cells=f"{what}; {took}")
            if seconds <= _LONGEST_S:
                return smallest
    if smallest is not None:
        return smallest
    raise UserError(
        "not even a small study of this model fits this machine",
        found="; ".join(problems),
        todo="use a smaller model or a larger machine; `freelunch new --elsewhere` writes a study "
        "for another machine",
    )


def _windows(model: InspectedModel) -> tuple[list[str], str]:
    """Return the windows that a model has, as adaptations, and why half a block is not one."""
    whole, blocks = whole_of(model.config), model.sizes.get("num_hidden_layers")
    halves = has_halves(model.family, whole)
    why = f"the parts of {model.family}'s blocks are not known" if whole is None else whole.because
    windows = ["recon_matrix", *(["recon_attention_mlp"] if halves else []), "recon_block"]
    # With fewer blocks, this window would be the whole model.
    windows += ["recon_5"] if isinstance(blocks, int) and blocks > _BLOCKS else []
    windows += [] if blocks == 1 else ["recon_all"]
    return windows, "" if halves else f"; half a block is not a window here: {why}"


def _retraining(plan: Plan) -> tuple[list[str], str]:
    """Return the retraining methods that a model has, and why MaskLoRA is not one."""
    matrices = [matrix for shapes in plan.shapes.values() for matrix in shapes.matrices]
    if any(min(matrix.inputs, matrix.outputs) < RANK for matrix in matrices):
        return ["full"], f"; no masklora: a matrix is smaller than its rank, {RANK}"
    return ["masklora", "full"], ""


def _smaller(largest: Choices, said: str) -> Iterator[tuple[Choices, str]]:
    """Yield choices from the largest study to the smallest, and each in words."""
    yield largest, said
    cause = "more cells would take over an hour on this machine, or do not fit"
    for count in range(1, len(_OF_CLAIMS) + 1):
        without = _OF_CLAIMS[:count]
        smaller = replace(
            largest,
            criteria=tuple(name for name in largest.criteria if name not in without),
            adaptations=tuple(name for name in largest.adaptations if name not in without),
        )
        untested = f"without {', '.join(without)}, which some of the paper's claims need"
        yield smaller, f"{said}; {untested}; {cause}"
    few = replace(largest, criteria=("magnitude", "wanda"), adaptations=())
    yield few, f"two criteria, with and without reconstruction; {cause}"
    one = replace(few, criteria=("wanda",))
    yield one, f"Wanda, with and without reconstruction; {cause}"
    short = replace(
        one, length=max(LEAST_LENGTH, one.length // 2), windows=max(2, one.windows // 3)
    )
    yield short, f"Wanda, with and without reconstruction, on short sequences; {cause}"
