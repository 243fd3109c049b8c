"""A complete config: the registries, and the study that takes entries from them."""

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field

from freelunch.study.criteria import CriterionEntry
from freelunch.study.patterns import Pattern
from freelunch.study.retraining import AdaptationEntry
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

# The classes of each registry's entries, by the value of the key that chooses the class.
KINDS = {
    "models": classes_of(ModelEntry),
    "texts": classes_of(TextEntry),
    "tasks": classes_of(TaskEntry),
    "criteria": classes_of(CriterionEntry),
    "adaptations": classes_of(AdaptationEntry),
}
REGISTRIES = tuple(KINDS)
# That key.
CHOSEN_BY = {
    "models": "source",
    "texts": "source",
    "tasks": "source",
    "criteria": "score",
    "adaptations": "method",
}
# The key of a study's file that names a file of registries.
BASE = "base"
# The key of a `study` block that says which part of the study is run.
PART = "part"
SEEDS = 2**32
Seed = Annotated[int, Field(ge=0, lt=SEEDS)]


class Calibration(Settings):
    """The calibration sample, drawn once for each model and seed."""

    text: str = Field(description="A key of `texts`.")
    samples: int = Field(ge=1, description="Number of sequences.")
    length: int = Field(ge=2, description="Tokens in a sequence.")


class PerplexitySettings(Settings):
    """Perplexity over windows of a text."""

    text: str = Field(description="A key of `texts`.")
    length: int = Field(ge=2, description="Tokens in a window.")
    windows: int | None = Field(
        default=None,
        ge=2,
        description="Number of windows; null: as many as the text has. At least two, for a "
        "standard error.",
    )
    cut: Literal["documents", "joined"] = Field(
        default=WITHIN,
        description="How windows are cut. `documents`: each lies within a document, and they are "
        "drawn over all documents (seeded, the same for all cells): one from each document that is "
        "long enough before a second from any. Errors are clustered by document. `joined`: all "
        "documents are joined by two newlines and cut from their start, as for published numbers; "
        "neighbours are not independent, which the intervals take into account.",
    )
    stride: int | None = Field(
        default=None,
        ge=1,
        description="Tokens from the start of a window to the next one's, at most `length`; null: "
        "`length`, so that windows do not overlap. The last `stride` tokens of each window are "
        "scored. Only with `cut: joined`.",
    )

    def cutting(self) -> dict[str, Any]:
        """Return the settings that decide how the text is cut into windows."""
        return {key: value for key, value in self.as_json().items() if key != "text"}


class DriftSettings(Settings):
    """Distance of each pruned cell's activations from the dense model's, and the cell's perplexity,
    on calibration text that is apart from the calibration sample and from `selection`: it shares no
    document and no 13 tokens in a row with them.
    """

    samples: int = Field(default=8, ge=2, description="Number of sequences.")


class Tasks(Settings):
    """Zero-shot accuracy of each dense model and of the cells in grids with `tasks: true`."""

    names: Distinct[str] = Field(description="Keys of `tasks`.")
    limit: int | None = Field(
        default=None,
        ge=2,
        description="Number of documents of each task: a seeded sample, the same for all cells; "
        "null: all documents.",
    )
    seed: Seed = Field(default=0, description="Seed of the sample.")


class Evaluation(Settings):
    """What is measured on each cell."""

    perplexity: PerplexitySettings = Field(description="Perplexity of every cell.")
    drift: Absent[DriftSettings] = absent(
        "Activation drift of every pruned cell. Default: not measured."
    )
    tasks: Absent[Tasks] = absent("Zero-shot tasks. Default: none.")


class Selection(Settings):
    """Held-out calibration text on which adaptations that list several learning rates or epochs
    choose among them: documents that the calibration sample does not touch, in sequences of the
    same length.
    """

    samples: int = Field(default=16, ge=2, description="Number of sequences.")


def _pattern(name: str) -> str:
    return Pattern.parse(name).name


class Grid(Settings):
    """The product of these lists, a cell for each combination."""

    models: Distinct[str] = Field(description="Keys of `models`.")
    criteria: Distinct[str] = Field(description="Keys of `criteria`.")
    patterns: Distinct[Annotated[str, AfterValidator(_pattern)]] = Field(
        description="u01 ... u99: percent of the weights, unstructured. NofM: N zeros in each M "
        "consecutive inputs of a row, such as 2of4. s01 ... s99: percent of the heads and "
        "channels, for criteria that prune whole units.",
    )
    adaptations: Distinct[str] = Field(description="Keys of `adaptations`, or none.")
    seeds: Distinct[Seed] = Field(
        default=[0],
        description="Each seed draws its own calibration sample and training order.",
    )
    tasks: bool = Field(
        default=False,
        description="Whether these cells are also evaluated on the tasks of `evaluation.tasks`.",
    )
    claims: Absent[Distinct[str]] = absent(
        "Claims that these cells are for, such as C1 (`workflow/data/claims.yaml`). `make study "
        "CLAIMS=C1` runs the grids of a claim alone."
    )


class Part(Settings):
    """The part of the grids that is run. `MODELS=`, `CLAIMS=` and `SEEDS=` of `make study` and
    `make plan` replace it. The parts of a study share one folder of results, and a cell has
    the same numbers in a part as in the whole study.
    """

    models: Absent[Distinct[str]] = absent("Models of the grids. Default: all.")
    claims: Absent[Distinct[str]] = absent(
        "Claims of the grids; a grid without `claims` is then left out. Default: all grids."
    )
    seeds: Absent[Distinct[Seed]] = absent("Seeds of the grids. Default: all.")


class StudyBlock(Settings):
    """What a study runs."""

    name: Name = Field(description="Results go to results/<name>/.")
    dense_limit: float = Field(
        default=1000.0,
        gt=1,
        description="A dense perplexity above this, on the calibration sample or in the "
        "evaluation, stops the study, since the model, its tokenizer or the text must be wrong.",
    )
    calibration: Calibration = Field(description="The calibration sample.")
    evaluation: Evaluation = Field(
        description="What is measured: perplexity always, drift and tasks if they are asked for."
    )
    selection: Selection = Field(default=Selection(), description="The held-out calibration text.")
    keep_hidden_states: KeptStates = Field(
        default="all",
        description="Hidden states of the dense model that stay on disk. all: those at every block "
        "boundary. every_k: those at every k-th. none: each job that needs them recomputes them. A "
        "change takes effect when the dense pass next runs; it changes no result and reruns "
        "nothing.",
    )
    grids: Annotated[list[Grid], Field(min_length=1)] = Field(
        description="The cells are the union of these grids. Each model's dense cell is always "
        "added.",
    )
    part: Absent[Part] = absent("Part of the grids that is run. Default: all of them.")


class Registries(Settings):
    """Entries that studies take by their names. A name is part of a cell's identity."""

    models: dict[Name, ModelEntry] = Field(default={}, description="Models by name.")
    texts: dict[Name, TextEntry] = Field(
        default={}, description="Texts and ready-made token ids, by name."
    )
    tasks: dict[Word, TaskEntry] = Field(
        default={},
        description="Zero-shot tasks, by their names in lm-eval. Prompts, choices and metrics are "
        "lm-eval's; only the documents come from here.",
    )
    criteria: dict[Word, CriterionEntry] = Field(
        default={}, description="Pruning criteria by name."
    )
    adaptations: dict[Word, AdaptationEntry] = Field(
        default={}, description="Adaptations of pruned models, by name. `none` is always defined."
    )


class Config(Registries):
    """A study. The file and its `base` together define every name that the study uses."""

    study: StudyBlock = Field(description="What this study runs.")
