"""Published numbers beside ours.

A published number is compared with cells of the same model, criterion, pattern, adaptation and
metric: a perplexity on the same text in windows of the same length, an accuracy on all documents of
the same tasks.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from operator import attrgetter
from pathlib import Path
from statistics import fmean
from typing import Any

from freelunch.analysis.pairing import mean_over_seeds, measured_perplexity, seed_groups
from freelunch.audit.claim_verdicts import command, snakemake
from freelunch.audit.claims import REPOSITORY
from freelunch.audit.evidence import Evidence
from freelunch.audit.protocol import text_identity
from freelunch.audit.published_file import TEXTS, TOLERANCES, Published
from freelunch.study.cell import DENSE, NONE, Cell
from freelunch.study.paths import Paths
from freelunch.study.pins import pin_command
from freelunch.study.sources import Hub
from freelunch.study.steps import EVALUATE_CELL, JOINED
from freelunch.study.study import Study

# What the names of models, criteria, adaptations and texts mean, and the study that runs them.
STUDY = Path("studies/paper.yaml")
# The keys of a registry entry that have to be equal for its name to mean the same.
IDENTITY = {
    "models": ("repository",),
    "criteria": ("score", "scope", "exponent", "swaps"),
    "adaptations": (
        *("method", "window", "inputs", "targets", "lost_residual", "model_dropout"),
        *("loss", "trains", "rank", "alpha"),
    ),
}
AGREES, DIFFERS, NOT_RUN = "agrees", "differs", "not run"
# What a cell and a published number of it share.
_place = attrgetter("model", "criterion", "pattern", "adaptation")


@dataclass(frozen=True, kw_only=True)
class ComparedNumber:
    """A published number beside ours; without a cell it is `not run`, and `command` would run it.

    The first eleven attributes are those of the published number.
    """

    source: str
    reference: str
    model: str
    criterion: str
    pattern: str
    adaptation: str
    metric: str
    seqlen: int | None
    value: float
    trust: str
    note: str
    tolerance: float
    verdict: str
    reason: str
    ours: float | None = None
    ours_standard_error: float | None = None
    difference: float | None = None
    command: str | None = None
    cells: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class PublishedValue:
    """What one source says of a number that others published, too."""

    source: str
    reference: str
    value: float
    trust: str


@dataclass(frozen=True)
class Contradiction:
    """A number on which sources differ by more than the tolerance of the less trusted one."""

    model: str
    criterion: str
    pattern: str
    adaptation: str
    metric: str
    seqlen: int | None
    numbers: list[PublishedValue]


def audit_published(
    evidence: Evidence, published: Sequence[Published], meaning: Study
) -> list[ComparedNumber]:
    """Return, for each published number, our number, the difference and the verdict."""
    cells = {_place(of_seeds[0]): of_seeds for of_seeds in seed_groups(evidence.records)}
    return [_compared(each, cells.get(_place(each), []), evidence, meaning) for each in published]


def contradictions(published: Sequence[Published]) -> list[Contradiction]:
    """Return the numbers on which several sources contradict each other."""
    sources: dict[tuple[Any, ...], list[Published]] = {}
    for each in published:
        sources.setdefault((*_place(each), each.metric, each.length), []).append(each)
    found = []
    for numbers in sources.values():
        values = [each.value for each in numbers]
        tolerance = max(TOLERANCES[each.trust] for each in numbers)
        if max(values) > (1 + tolerance) * min(values):
            said = [PublishedValue(it.source, it.reference, it.value, it.trust) for it in numbers]
            one = numbers[0]
            place = (one.model, one.criterion, one.pattern, one.adaptation)
            found.append(Contradiction(*place, one.metric, one.length, said))
    return found


def load_meaning() -> Study:
    """Return the study that says what the names of published numbers mean."""
    return Study.load(STUDY, REPOSITORY)


def _compared(
    published: Published, cells: list[Cell], evidence: Evidence, meaning: Study
) -> ComparedNumber:
    facts = {key: value for key, value in vars(published).items() if key != "length"}
    facts |= {"seqlen": published.length, "tolerance": TOLERANCES[published.trust]}
    if missing := _why_not_run(published, cells, evidence, meaning):
        todo = _running(published, meaning)
        return ComparedNumber(**facts, verdict=NOT_RUN, reason=missing, command=todo)
    records = [evidence.records[cell] for cell in cells]
    if published.tasks:
        ours, error = _accuracy(published.tasks, records)
    else:
        ours, error, _ = mean_over_seeds([measured_perplexity(record) for record in records])
    difference = ours - published.value
    share = abs(difference) / published.value
    agrees = abs(difference) <= TOLERANCES[published.trust] * published.value
    reason = f"ours is {share:.1%} {'above' if difference > 0 else 'below'}"
    if not cells[0].is_dense:
        sample = evidence.study.calibration_of(published.model)
        reason += (
            f"; calibrated on {sample.samples:,} sequences of {sample.length:,} tokens of "
            f"{text_identity(evidence.study.text(sample.text))}"
        )
    if published.note:
        reason += f"; the published number: {published.note}"
    return ComparedNumber(
        **facts,
        verdict=AGREES if agrees else DIFFERS,
        reason=reason if math.isfinite(difference) else "ours is not finite",
        ours=_finite(ours),
        ours_standard_error=_finite(error),
        difference=_finite(difference),
        cells=[str(cell) for cell in cells],
        command=command(evidence.study, cells, EVALUATE_CELL),
    )


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _accuracy(tasks: Sequence[str], records: Sequence[Mapping[str, Any]]) -> tuple[float, float]:
    """Return the mean over tasks and seeds in percent, and its error over the documents.

    Seeds share the documents, so the error is not smaller for several of them.
    """
    measured = [record["metrics"]["tasks"]["tasks"] for record in records]
    mean = fmean(of[task]["accuracy"] for of in measured for task in tasks)
    errors = [fmean(of[task]["accuracy_standard_error"] for of in measured) for task in tasks]
    return 100 * mean, 100 * math.hypot(*errors) / len(tasks)


def _why_not_run(
    published: Published, cells: list[Cell], evidence: Evidence, meaning: Study
) -> str | None:
    """Return why no cell can be compared with a number; None if the given cells can."""
    if unnamed := _unnamed(published, meaning):
        return unnamed
    if not cells:
        return "there is no such cell"
    study = evidence.study
    for registry, name in _names(published).items():
        one, other = (getattr(of.config, registry)[name].as_json() for of in (meaning, study))
        unlike = [key for key in IDENTITY[registry] if one.get(key) != other.get(key)]
        if unlike:
            return f"{name} means something else here: its {', '.join(unlike)} differ"
    if published.tasks:
        return _unlike_tasks(published, cells, evidence)
    return _unlike_windows(published, study, meaning)


def _names(published: Published) -> dict[str, str]:
    """Return the names in a row, by registry."""
    names = {"models": published.model}
    if published.criterion != DENSE:
        names["criteria"] = published.criterion
    if published.adaptation != NONE:
        names["adaptations"] = published.adaptation
    return names


def _unnamed(published: Published, meaning: Study) -> str | None:
    """Return which name of a row has no meaning; None if all have one."""
    for registry, name in _names(published).items():
        if name not in getattr(meaning.config, registry):
            return f"{meaning.source} has no {name} among its {registry}"
    return None


def _unlike_windows(published: Published, study: Study, meaning: Study) -> str | None:
    """Return why a perplexity of the study cannot be compared with a number; None if it can."""
    settings, text = study.perplexity_of(published.model), meaning.text(TEXTS[published.metric])
    if settings.length != published.length:
        return f"windows of {settings.length} tokens, not of {published.length}"
    if settings.cut != JOINED:
        return "windows lie within documents, which are not joined"
    if settings.stride not in (None, settings.length):
        return "windows overlap"
    if settings.windows is not None:
        return f"{settings.windows} windows, not the whole text"
    ours = study.text(settings.text)
    one, other = ours.as_json(), text.as_json()
    if any(one.get(key) != other.get(key) for key in ("repository", "member", "format")):
        return (
            f"measured on `{settings.text}` ({text_identity(ours)}), not on {text_identity(text)}"
        )
    return None


def _unlike_tasks(published: Published, cells: Sequence[Cell], evidence: Evidence) -> str | None:
    """Return why the accuracies of cells cannot be compared with a number; None if they can."""
    for cell in cells:
        measured = evidence.records[cell]["metrics"].get("tasks", {}).get("tasks", {})
        if lacking := [task for task in published.tasks if task not in measured]:
            return f"not asked: {', '.join(lacking)}"
        for task in published.tasks:
            asked, whole = (measured[task][key] for key in ("documents", "documents_in_all"))
            if asked != whole:
                return f"{asked} documents of {task}, not all {whole:,}"
    return None


def _running(published: Published, meaning: Study) -> str:
    """Return how to run a number: a command, and any preparation that it needs."""
    if _unnamed(published, meaning):
        return f"describe it in {meaning.source} first"
    criterion = published.criterion
    pruning = DENSE if criterion == DENSE else f"{criterion}-{published.pattern}"
    cell = Cell.parse(f"{published.model}/{pruning}/{published.adaptation}/seed0")
    source, name, before = meaning.source, meaning.name, ""
    if published.tasks:
        if not meaning.asks_tasks(cell):
            before = (
                f"put `tasks` of studies/zero_shot.yaml into {source}, and `tasks: true` into its "
                "grid; then: "
            )
    elif published.length != meaning.perplexity_of(published.model).length:
        length, other = meaning.perplexity.length, f"{name}_{published.length}"
        changes = f"s/length: {length}/length: {published.length}/; s/name: {name}/name: {other}/"
        source = source.replace(name, other)
        before, name = f"sed '{changes}' {meaning.source} > {source} && ", other
    if isinstance(meaning.model(cell.model), Hub):
        before += f"{pin_command(source)} MODELS={cell.model} && "
    # The other models of the study may have no pins.
    return f"{before}{snakemake(source)} models={cell.model} -- {Paths(name).record(cell)}"
