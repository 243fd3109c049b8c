"""What `freelunch new` chooses: samples and windows that fit a model and its texts, and as many
cells as the machine computes in about an hour. Each choice comes with its reason, for the file.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from freelunch.core.errors import UserError
from freelunch.core.units import duration
from freelunch.costs.checks import checked_plan, lacking, misfits
from freelunch.costs.cost import Cost
from freelunch.costs.jobs import jobs_of
from freelunch.costs.machine import Machine
from freelunch.data.inspect_model import InspectedModel
from freelunch.data.inspect_text import Amounts
from freelunch.study.families import has_halves, whole_of
from freelunch.study.methods import RANK
from freelunch.study.steps import JOINED
from freelunch.study.study import Study

# As in the default study, for which the learning rates were tuned; the preferred number first.
_SAMPLES, _WINDOWS, _LENGTH = (32, 16, 8), 48, 256
_HELD_OUT = 16
# Shorter sequences say nothing about a model.
_LEAST_LENGTH = 8
# The fewest documents that windows are drawn from, one from each, and the fewest windows of joined
# documents that have an interval.
_FEWEST_DOCUMENTS, _FEWEST_WINDOWS = 24, 8
# The share of estimated tokens that is relied on.
_SURE = 0.7
# If a study takes more than this many seconds on this machine, a smaller one is chosen.
_LONGEST_S = 3600
_CRITERIA = ("magnitude", "wanda", "ria", "sparsegpt")
# Some of the paper's claims need these. Smaller studies leave them out one after another.
_OF_CLAIMS = ("ria", "masklora", "recon_5")
_BLOCKS = 5


# A block of a study's file without the name of the text.
Block = dict[str, Any]


def choose_lengths(
    model: InspectedModel, calibration: tuple[str, Amounts], evaluation: tuple[str, Amounts]
) -> tuple[Block, Block | None, Block, str, str]:
    """Return the calibration sample and the held-out one (None if the text has no documents to hold
    out), the windows of the perplexity, and why the first and the last, for two texts, each given
    with what names it in messages; UserError if a text is too short.
    """
    longest = min(_LENGTH, model.positions or _LENGTH)
    # Each half of the one before.
    lengths = [longest >> at for at in range(longest.bit_length())]
    lengths = [length for length in lengths if length >= _LEAST_LENGTH]
    samples, length, held_out, why_calibration = _samples(*calibration, lengths)
    perplexity, why_perplexity = _windows(*evaluation, lengths)
    sample = {"samples": samples, "length": length}
    kept = {"samples": _HELD_OUT} if held_out else None
    return sample, kept, perplexity, why_calibration, why_perplexity


def _samples(where: str, text: Amounts, lengths: Sequence[int]) -> tuple[int, int, bool, str]:
    """Return sequences, tokens in each, whether documents are held out, and why."""
    sure = text if text.exact else Amounts([int(_SURE * n) for n in text.lengths], exact=False)
    for samples in _SAMPLES:
        for length in lengths:
            count = sure.longer_than(length)
            # A sample leaves documents to hold out.
            if count and sure.left_after(samples, length, seed=0) >= max(2, count / 4):
                return samples, length, True, f"{count:,} of its documents are long enough"
    for samples in _SAMPLES:
        for length in lengths:
            # Sequences of one document overlap unless there is room for all of them.
            if sure.longer_than(length) and sure.tokens >= samples * length:
                why = "too few documents are longer to hold some out; drift is left out"
                return samples, length, False, why
    raise UserError(
        "the text is too short",
        where=where,
        found=f"{_about(text)} tokens, in documents of at most {max(text.lengths):,}",
        expected=f"at least {_SAMPLES[-1]} sequences of {_LEAST_LENGTH} tokens, and a longer "
        "document; some thousand tokens are better",
        todo="use a longer text",
    )


def _windows(where: str, text: Amounts, lengths: Sequence[int]) -> tuple[dict[str, Any], str]:
    sure = 1 if text.exact else _SURE
    for length in lengths:
        count = text.longer_than(math.ceil(length / sure) - 1)
        if count >= _FEWEST_DOCUMENTS:
            windows = {"length": length, "windows": min(_WINDOWS, count)}
            return windows, f"of different documents, {count:,} of which are long enough"
    for length in lengths:
        count = min(_WINDOWS, int(text.tokens * sure) // length)
        if count >= _FEWEST_WINDOWS:
            why = f"{_about(text)} tokens are in too few documents for a window of each"
            few = "; so few windows hardly decide a claim: a longer text would"
            why += few if count < _FEWEST_DOCUMENTS else ""
            return {"length": length, "windows": count, "cut": JOINED}, why
    raise UserError(
        "the text is too short to evaluate on",
        where=where,
        found=f"{_about(text)} tokens",
        expected=f"at least {_FEWEST_WINDOWS} windows of {_LEAST_LENGTH} tokens; some thousand "
        "tokens are better",
        todo="use a longer text",
    )


def _about(text: Amounts) -> str:
    return f"{'' if text.exact else 'about '}{text.tokens:,}"


# --- Cells

Grids = list[dict[str, Any]]


def choose_grids(
    name: str,
    model: InspectedModel,
    machine: Machine | None,
    study_of: Callable[[Grids], Study],
) -> tuple[Grids, str]:
    """Return the grids of a study that fit a model and a machine, if one is given, and why.

    `study_of` returns the study with some grids. UserError: a model of this family cannot be used,
    or not even the smallest study fits the machine.
    """
    device = machine.device_bytes if machine else None
    shapes = checked_plan(study_of(_grids(name, ("wanda",), ())), device).shapes.values()
    compared, why = adaptations_of(model)
    if any(min(each.inputs, each.outputs) < RANK for of in shapes for each in of.matrices):
        compared.remove("masklora")
        why += f"; no masklora: a matrix is smaller than its rank, {RANK}"
    plan = checked_plan(study_of(_grids(name, _CRITERIA, compared)), device)
    if machine is None or not plan.shapes:
        why += (
            "; chosen for another machine, whatever its speed, memory and disk"
            if machine is None
            else "; the time is unknown until the model is fetched"
        )
        return _grids(name, _CRITERIA, compared), why
    for adaptation, problem in {each.name: each.problem for each in misfits(plan, machine)}.items():
        if adaptation in compared:
            compared.remove(adaptation)
            why += f"; no {adaptation}: it {problem}"
    fitting: tuple[Grids, str] | None = None
    problems: list[str] = []
    for criteria, adaptations, said in smaller_cells(compared):
        grids = _grids(name, criteria, adaptations)
        plan = checked_plan(study_of(grids), device)
        if problems := lacking(plan, machine):
            continue
        seconds = sum((plan.cost(job) or Cost()).seconds(machine) for job in jobs_of(plan.study))
        time = f"; about {duration(seconds)} on this machine, job after job"
        fitting = grids, f"{why}{said}{time}"
        if seconds <= _LONGEST_S:
            break
    if fitting is None:
        raise UserError(
            "not even a small study of this model fits this machine",
            found="; ".join(problems),
            todo="use a smaller model or a larger machine; `freelunch new --elsewhere` writes a "
            "study for another machine",
        )
    return fitting


def adaptations_of(model: InspectedModel) -> tuple[list[str], str]:
    """Return the windows that a model has, as adaptations, with ways of retraining, and why."""
    whole, blocks = whole_of(model.config), model.sizes.get("num_hidden_layers")
    windows, why = ["recon_matrix"], "windows and retraining are compared for Wanda"
    if has_halves(model.family, whole):
        windows.append("recon_attention_mlp")
    else:
        unknown = f"the parts of {model.family}'s blocks are not known"
        why += f"; half a block is not a window here: {whole.because if whole else unknown}"
    windows.append("recon_block")
    # With fewer blocks, a window of several would be the whole model.
    windows += ["recon_5"] if isinstance(blocks, int) and blocks > _BLOCKS else []
    windows += [] if blocks == 1 else ["recon_all"]
    return [*windows, "masklora", "full"], why


def smaller_cells(compared: Sequence[str]) -> Iterator[tuple[Sequence[str], Sequence[str], str]]:
    """Yield criteria, adaptations that are compared for Wanda, and words, from the largest study to
    the smallest.
    """
    yield _CRITERIA, compared, ""
    cause = "more cells would take over an hour on this machine, or do not fit"
    for count in range(1, len(_OF_CLAIMS) + 1):
        without = _OF_CLAIMS[:count]
        criteria, adaptations = (
            [name for name in names if name not in without] for names in (_CRITERIA, compared)
        )
        untested = f"without {', '.join(without)}, which some of the paper's claims need"
        yield criteria, adaptations, f"; {untested}; {cause}"
    for criteria in (["magnitude", "wanda"], ["wanda"]):
        yield criteria, [], f"; only {', '.join(criteria)}, and no other windows; {cause}"


def _grids(name: str, criteria: Sequence[str], compared: Sequence[str]) -> Grids:
    grids = [(criteria, ["none", "recon_block"])]
    grids += [(["wanda"], list(compared))] if compared else []
    common = {"models": [name], "patterns": ["u50"]}
    return [{**common, "criteria": [*of], "adaptations": adapted} for of, adapted in grids]
