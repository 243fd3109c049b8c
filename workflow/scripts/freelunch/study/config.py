"""A whole config: the registries, and the study that takes from them."""

from typing import Annotated

from pydantic import Field

from freelunch.study.adaptations import AdaptationEntry
from freelunch.study.criteria import CriterionEntry
from freelunch.study.settings import Absent, Distinct, KeptStates, Name, Settings, Word, absent
from freelunch.study.sources import ModelEntry, TaskEntry, TextEntry

REGISTRIES = ("models", "texts", "tasks", "criteria", "adaptations")
# The key of a study's file that names a file of registries.
BASE = "base"
Seed = Annotated[int, Field(ge=0)]


class Calibration(Settings):
    """The calibration sample, drawn once for each model and seed."""

    text: str = Field(description="A key of `texts`.")
    samples: int = Field(ge=1, description="Sequences.")
    length: int = Field(ge=2, description="Tokens in a sequence.")


class Perplexity(Settings):
    """Perplexity over windows of a text's documents, joined by two newlines."""

    text: str = Field(description="A key of `texts`.")
    length: int = Field(ge=2, description="Tokens in a window.")
    windows: int | None = Field(
        default=None,
        ge=2,
        description="The first so many windows; null is the whole text. At least two, for a "
        "standard error.",
    )
    stride: int | None = Field(
        default=None,
        ge=1,
        description="Tokens from the start of a window to the next, at most `length`; null is "
        "`length`: windows do not overlap. Of each window the last `stride` tokens are scored.",
    )


class Drift(Settings):
    """How far the activations of each pruned cell are from the dense model's, and its perplexity,
    on the first sequences of the held-out calibration text (`selection`).
    """

    samples: int = Field(default=8, ge=2, description="Sequences.")


class Tasks(Settings):
    """Zero-shot accuracy: of each dense model, and of the cells of grids with `tasks: true`."""

    names: Distinct[str] = Field(description="Keys of `tasks`.")
    limit: int | None = Field(
        default=None,
        ge=2,
        description="So many documents of each task, a seeded sample, the same for all cells; null "
        "is all of them.",
    )
    seed: Seed = Field(default=0, description="Of the sample.")


class Evaluation(Settings):
    """What is measured."""

    perplexity: Perplexity = Field(description="Perplexity of every cell.")
    drift: Absent[Drift] = absent("Drift of every pruned cell. Not given: it is not measured.")
    tasks: Absent[Tasks] = absent("Zero-shot tasks. Not given: none is asked.")


class Selection(Settings):
    """Held-out calibration text, for adaptations that list several learning rates or epochs and for
    `evaluation.drift`: documents that the calibration sample does not touch, in sequences of its
    length.
    """

    samples: int = Field(default=16, ge=2, description="Sequences.")


class Grid(Settings):
    """The cells of a product."""

    models: Distinct[str] = Field(description="Keys of `models`.")
    criteria: Distinct[str] = Field(description="Keys of `criteria`.")
    patterns: Distinct[str] = Field(
        description="u01 ... u99: percent of the weights, unstructured. NofM: N zeros in each M "
        "consecutive inputs of a row, such as 2of4. s01 ... s99: percent of the heads and "
        "channels, for criteria of units.",
    )
    adaptations: Distinct[str] = Field(description="Keys of `adaptations`, or none.")
    seeds: Distinct[Seed] = Field(
        default=[0],
        description="Each draws its own calibration sample and order of training.",
    )
    tasks: bool = Field(
        default=False,
        description="Whether these cells are also evaluated on the tasks of `evaluation.tasks`.",
    )


class StudyBlock(Settings):
    """What a study runs."""

    name: Name = Field(description="Results go to results/<name>/.")
    dense_limit: float = Field(
        default=1000.0,
        gt=1,
        description="A dense perplexity above this, on the calibration sample or in the "
        "evaluation, stops the study: the model, its tokenizer or the text is not what it should "
        "be.",
    )
    calibration: Calibration = Field(description="The calibration sample.")
    evaluation: Evaluation = Field(description="What is measured of each cell.")
    selection: Selection = Field(default=Selection(), description="The held-out calibration text.")
    keep_hidden_states: KeptStates = Field(
        default="all",
        description="Which hidden states of the dense model stay on disk. all: at each block "
        "boundary. every_k: at each k-th. none: each job that needs them computes them again. A "
        "change takes effect when the dense pass runs next; it changes no result and makes nothing "
        "run again.",
    )
    grids: Annotated[list[Grid], Field(min_length=1)] = Field(
        description="The cells are the union of these products. The dense cell of each model is "
        "always added.",
    )


class Config(Settings):
    """A study, complete: every name that it uses is defined here."""

    models: dict[Name, ModelEntry] = Field(
        description="Models by name. A name is part of a cell's identity."
    )
    texts: dict[Name, TextEntry] = Field(description="Texts, and ready token ids, by name.")
    tasks: dict[Word, TaskEntry] = Field(
        default={},
        description="Zero-shot tasks by the names that lm-eval has for them. Prompts, choices and "
        "metrics are its own; only the documents come from here.",
    )
    criteria: dict[Word, CriterionEntry] = Field(
        description="Pruning criteria by name. A name is part of a cell's identity."
    )
    adaptations: dict[Word, AdaptationEntry] = Field(
        description="What is done after pruning, by name. A name is part of a cell's identity. "
        "`none` is always there."
    )
    study: StudyBlock = Field(description="What this study runs.")
