"""A complete config: the registries, the study that takes entries from them, and what follows from
its grids (cells) and budgets (sequences).
"""

from collections.abc import Iterable, Sequence
from itertools import product
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field

from freelunch.study.adaptations import Adaptation, Budget, Precision, Training
from freelunch.study.cell import DENSE, NONE, Cell
from freelunch.study.criteria import CriterionEntry
from freelunch.study.patterns import Pattern
from freelunch.study.retraining import AdaptationEntry
from freelunch.study.search import candidates_of
from freelunch.study.settings import (
    Absent,
    Distinct,
    KeptStates,
    Name,
    Settings,
    Word,
    absent,
    classes_of,
)
from freelunch.study.sources import ModelEntry, TaskEntry, TextEntry
from freelunch.study.steps import WITHIN

# The key of each registry's entries that chooses the class of an entry.
CHOSEN_BY = dict.fromkeys(("models", "texts", "tasks"), "source")
CHOSEN_BY |= {"criteria": "score", "adaptations": "method"}
REGISTRIES = tuple(CHOSEN_BY)
_ENTRIES = (ModelEntry, TextEntry, TaskEntry, CriterionEntry, AdaptationEntry)
# These classes, by the value of that key.
KINDS = dict(zip(REGISTRIES, map(classes_of, _ENTRIES), strict=True))
# The key of a study's file that names a file of registries.
BASE = "base"
# The key of a `study` block that says which part of the study is run.
PART = "part"
SEEDS = 2**32
Seed = Annotated[int, Field(ge=0, lt=SEEDS)]


class Calibration(Settings):
    """The calibration sample, drawn once for each model and seed."""

    text: str
    """A key of `texts`."""
    samples: int = Field(ge=1)
    """Number of sequences."""
    length: int = Field(ge=2)
    """Tokens in a sequence."""


class PerplexitySettings(Settings):
    """Perplexity over windows of a text."""

    text: str
    """A key of `texts`."""
    length: int = Field(ge=2)
    """Tokens in a window."""
    windows: int | None = Field(default=None, ge=2)
    """Number of windows, at least two for a standard error; null: as many as the text has."""
    cut: Literal["documents", "joined"] = WITHIN
    """documents: windows lie within documents and are drawn over all of them, one from each before
    a second from any (seeded, the same for all cells); errors are clustered by document. joined:
    windows are cut from the start of all documents, joined by two newlines, as for published
    numbers; intervals allow for correlated neighbours."""
    stride: int | None = Field(default=None, ge=1)
    """Tokens from the start of a window to the next one's, of which the last as many are scored;
    null: `length`, without overlap. Only with `cut: joined`."""

    def cutting(self) -> dict[str, Any]:
        """Return the settings that decide how the text is cut into windows."""
        return {key: value for key, value in self.as_json().items() if key != "text"}


class DriftSettings(Settings):
    """Activation error (distance of activations from the dense model's) and perplexity of each
    pruned cell, on calibration text that shares no document and no 13 tokens in a row with the
    calibration sample and with `selection`.
    """

    samples: int = Field(default=8, ge=2)
    """Number of sequences."""


class Tasks(Settings):
    """Zero-shot accuracy of each dense model and of the cells in grids with `tasks: true`."""

    names: Distinct[str]
    """Keys of `tasks`."""
    limit: int | None = Field(default=None, ge=2)
    """Number of documents of each task, a seeded sample that all cells share; null: all
    documents."""
    seed: Seed = 0
    """Seed of the sample."""


class Evaluation(Settings):
    """What is measured on each cell."""

    perplexity: PerplexitySettings
    """Perplexity of every cell."""
    drift: Absent[DriftSettings] = absent()
    """Activation error of every pruned cell. Default: not measured."""
    tasks: Absent[Tasks] = absent()
    """Zero-shot tasks. Default: none."""


class Selection(Settings):
    """Held-out calibration text on which learning rates and epochs are chosen: documents that the
    calibration sample does not touch, in sequences of the same length.
    """

    samples: int = Field(default=16, ge=2)
    """Number of sequences."""


class Grid(Settings):
    """The product of these lists, a cell for each combination."""

    models: Distinct[str]
    """Keys of `models`."""
    criteria: Distinct[str]
    """Keys of `criteria`; or dense: controls, which are retrained without pruning and show what
    that gains by learning the text. Each control needs a pruned cell with the same model,
    adaptation and seed."""
    patterns: Distinct[Annotated[str, AfterValidator(lambda name: Pattern.parse(name).name)]]
    """u01 ... u99: percent of the weights, unstructured; NofM: N zeros in each M consecutive inputs
    of a row, such as 2of4; s01 ... s99: percent of the heads and channels, for criteria that prune
    whole units."""
    adaptations: Distinct[str]
    """Keys of `adaptations`, or none."""
    seeds: Distinct[Seed] = Field(default=[0])
    """Each seed draws its own calibration sample and training order."""
    tasks: bool = False
    """Whether these cells are also evaluated on the tasks of `evaluation.tasks`."""
    claims: Absent[Distinct[str]] = absent()
    """Claims that these cells are for, as in `workflow/data/claims.yaml`; `make study CLAIMS=C1`
    runs the grids of a claim alone."""


class Part(Settings):
    """The part of the grids that is run; `MODELS=`, `CLAIMS=` and `SEEDS=` of `make study` and
    `make plan` replace it. Parts of a study share one folder of results, and a cell has the same
    numbers in each.
    """

    models: Absent[Distinct[str]] = absent()
    """Models of the grids. Default: all."""
    claims: Absent[Distinct[str]] = absent()
    """Claims of the grids; grids without `claims` are left out. Default: all grids."""
    seeds: Absent[Distinct[Seed]] = absent()
    """Seeds of the grids. Default: all."""


class StudyBlock(Settings):
    """What a study runs."""

    name: Name
    """Results go to results/<name>/."""
    dense_limit: float = Field(default=1000.0, gt=1)
    """A dense perplexity above this, in the dense pass or on evaluation text, stops the study: the
    model, its tokenizer or the text must be wrong."""
    calibration: Calibration
    """The calibration sample."""
    evaluation: Evaluation
    """What is measured."""
    selection: Selection = Field(default=Selection())
    """The held-out calibration text."""
    precision: Precision = "model"
    """Dtype of the training passes of adaptations that do not say: each model's own (model), or
    bfloat16 if the machine that starts the run is faster with it, else float32 (auto)."""
    keep_hidden_states: KeptStates = "all"
    """Hidden states of the dense model that stay on disk: those at every block boundary (all) or
    every k-th (every_k), or none, so that jobs recompute them. A change takes effect when the dense
    pass next runs; it changes no result and reruns nothing."""
    grids: Annotated[list[Grid], Field(min_length=1)]
    """The cells are the union of these grids. Each model's dense cell is always added."""
    part: Absent[Part] = absent()
    """Part of the grids that is run. Default: all of them."""


class Registries(Settings):
    """Entries that studies take by their names. A name is part of a cell's identity."""

    models: dict[Name, ModelEntry] = Field(default={})
    """Models by name."""
    texts: dict[Name, TextEntry] = Field(default={})
    """Texts and ready-made token ids, by name."""
    tasks: dict[Word, TaskEntry] = Field(default={})
    """Zero-shot tasks, by their names in lm-eval, which has their prompts, choices and metrics."""
    criteria: dict[Word, CriterionEntry] = Field(default={})
    """Pruning criteria by name."""
    adaptations: dict[Word, AdaptationEntry] = Field(default={})
    """Adaptations of pruned models, by name. `none` is always defined."""


class Config(Registries):
    """A study. The file and its `base` together define every name that the study uses."""

    study: StudyBlock
    """What this study runs."""


# --- Cells of grids


def cells_of(grids: Sequence[Grid]) -> list[Cell]:
    """Return the cells of grids: first each model's dense cell, then the others in their order."""
    cells = dict.fromkeys(map(Cell.dense, models_of(grids)))
    for grid in grids:
        pairs = product(grid.criteria, grid.patterns)
        prunings = dict.fromkeys((name, NONE if name == DENSE else of) for name, of in pairs)
        names = product(grid.models, prunings, grid.adaptations, grid.seeds)
        found = (Cell(model, *pruning, *rest) for model, pruning, *rest in names)
        cells |= dict.fromkeys(cell for cell in found if not cell.is_dense)
    return list(cells)


def grids_in(grids: Sequence[Grid], part: Part | None) -> list[Grid]:
    """Return the grids of a part of a study, with only its models and seeds; None for all."""
    part = part or Part()
    chosen = []
    for grid in grids:
        models = [name for name in grid.models if part.models is None or name in part.models]
        seeds = [seed for seed in grid.seeds if part.seeds is None or seed in part.seeds]
        asked = part.claims is None or bool({*part.claims} & {*(grid.claims or [])})
        if models and seeds and asked:
            chosen.append(grid.model_copy(update={"models": models, "seeds": seeds}))
    return chosen


def part_words(part: Part | None) -> str:
    """Return a part of a study as `make` takes it, after a space; empty for the whole study."""
    chosen = part.as_json() if part else {}
    return "".join(f" {key.upper()}={','.join(map(str, chosen[key]))}" for key in sorted(chosen))


def models_of(grids: Iterable[Grid]) -> list[str]:
    """Return the models of grids, each once."""
    return list(dict.fromkeys(name for grid in grids for name in grid.models))


def claims_of(grids: Iterable[Grid]) -> list[str]:
    """Return the claims that grids are for, each once."""
    return list(dict.fromkeys(name for grid in grids for name in grid.claims or []))


# --- Budgets in sequences


def resolve_budgets(config: Config) -> dict[str, Adaptation]:
    """Return the settings of each adaptation and of each of its candidates, by name.

    A budget is replaced by the `samples` that it pays for; for an adaptation that lists epochs,
    this happens in its candidates. `samples` is left out if it equals the calibration sample's.
    """
    entries = dict[str, Adaptation]()
    for name, entry in config.adaptations.items():
        entries |= {name: entry, **candidates_of(name, entry)}
    return {name: _resolved(entry, config) for name, entry in entries.items()}


def _resolved(entry: Adaptation, config: Config) -> Adaptation:
    if not isinstance(entry, Training):
        return entry
    calibration = config.study.calibration
    entry = entry.model_copy(update={"precision": entry.precision or config.study.precision})
    if entry.budget is not None:
        tokens = budget_tokens(entry.budget, config)
        if isinstance(entry.epochs, list):
            # Each candidate has its own `samples`; they share the budget in tokens.
            budget = entry.budget.model_copy(update={"tokens": tokens, "times": None, "of": None})
            entry = entry.model_copy(update={"budget": budget})
        else:
            samples = _paid_for(tokens, entry, calibration.length)
            entry = entry.model_copy(update={"samples": samples, "budget": None})
    if entry.samples == calibration.samples:
        entry = entry.model_copy(update={"samples": None})
    return entry


def budget_tokens(budget: Budget, config: Config) -> int:
    """Return a budget in tokens, rounded to the nearest whole number. The adaptation that it is a
    multiple of lists no alternatives and is not a multiple itself.
    """
    if budget.tokens is not None:
        return budget.tokens
    assert budget.of is not None and budget.times is not None
    other, calibration = config.adaptations[budget.of], config.study.calibration
    assert isinstance(other, Training)
    if other.budget is not None and other.budget.tokens is not None:
        samples = _paid_for(other.budget.tokens, other, calibration.length)
    else:
        samples = other.samples or calibration.samples
    # It sees whole sequences, which may be fewer tokens than its budget has.
    return round(budget.times * (samples * calibration.length * other.passes))


def _paid_for(tokens: int, entry: Training, length: int) -> int:
    """Return how many sequences a budget pays for: whole ones in whole epochs, so never more."""
    return tokens // (length * entry.passes)


def budget_of(settings: Adaptation | None) -> str | None:
    """Return the name of the adaptation that another's budget is a multiple of, if it is one."""
    if isinstance(settings, Training) and settings.budget is not None:
        return settings.budget.of
    return None
