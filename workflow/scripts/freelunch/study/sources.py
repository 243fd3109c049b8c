"""Models, texts and tasks: where they come from, and what is in them."""

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import Field

from freelunch.study.settings import (
    Absent,
    Commit,
    Repository,
    Settings,
    Sha256,
    absent,
    chosen_by,
    reader,
)

WHEEL, HUB, PATH, TOKENS = "wheel", "hub", "path", "tokens"
DocumentFormat = Literal["lines", "doc_tags", "plain", "jsonl", "parquet"]
TaskFormat = Literal[
    "arrow",
    "parquet",
    "jsonl",
    "boolq_requests",
    "arc_requests",
    "openbookqa_requests",
    "lambada_requests",
]
Dtype = Literal["float32", "bfloat16", "float16"]
_SOURCE = "Where it comes from."
_PATH = "Absolute, or relative to the repository."


class Source(Settings):
    """Where something comes from."""

    source: str = Field(description=_SOURCE)
    licence: Absent[str] = absent("SPDX identifier or a phrase; it is written into the manifest.")

    def deciding(self) -> dict[str, Any]:
        """Return what decides a number, as JSON has it: not the licence, not announced shapes."""
        written = self.as_json()
        return {key: value for key, value in written.items() if key not in _DESCRIPTIVE}


_DESCRIPTIVE = ("licence", "architecture")


class Wheel(Source):
    """A member of a wheel on the Python package index."""

    source: Literal["wheel"] = Field(description=_SOURCE)
    package: str = Field(description="Name on the package index.")
    version: str = Field(description="Exactly this one.")
    sha256: Sha256 = Field(description="Of the wheel.")
    member: str = Field(description="A file in the wheel.")


class Hub(Source):
    """A repository on the Hugging Face hub."""

    source: Literal["hub"] = Field(description=_SOURCE)
    repository: Repository = Field(description="owner/name")
    revision: Commit = Field(description="A full commit: a branch moves.")


class HubFile(Hub):
    """A file of a dataset repository on the Hugging Face hub."""

    member: str = Field(description="A file in the repository.")


class Local(Source):
    """A file or folder of your own."""

    source: Literal["path"] = Field(description=_SOURCE)
    path: str = Field(description=_PATH)


class Architecture(Settings):
    """Shapes of a model, under the names of its config.json: what the plan assumes before the model
    is on disk. The fetched model must agree.
    """

    model_type: Absent[str] = absent("Family, such as llama.")
    num_hidden_layers: int = Field(ge=1, description="Decoder blocks.")
    hidden_size: int = Field(ge=1, description="Width of the residual stream.")
    intermediate_size: int = Field(ge=1, description="Channels of the MLP.")
    num_attention_heads: int = Field(ge=1, description="Query heads.")
    num_key_value_heads: Absent[int] = absent("Key heads. Not given: the query heads.", ge=1)
    head_dim: Absent[int] = absent("Size of a head. Not given: hidden size by query heads.", ge=1)
    vocab_size: int = Field(ge=1, description="Rows of the embedding.")
    tie_word_embeddings: Absent[bool] = absent("Whether the head is the embedding.")


class Weights(Settings):
    """What every model has, wherever it comes from."""

    dtype: Absent[Dtype] = absent(
        "Precision of the stored model and of all passes through it; sums and statistics are "
        "float32 in any case. Not given: the checkpoint's own, and float32 for a GGUF file."
    )
    architecture: Absent[Architecture] = absent(
        "Shapes of the model, which the plan needs before the model is on disk."
    )


class WheelModel(Wheel, Weights):
    """A GGUF file in a wheel on the Python package index, dequantised once."""

    member: str = Field(description="A GGUF file in the wheel; dequantised once.")


class HubModel(Hub, Weights):
    """A model repository on the Hugging Face hub."""


class LocalModel(Local, Weights):
    """A model folder of your own."""

    path: str = Field(
        description=f"A folder with config.json, a tokenizer and safetensors files. {_PATH}"
    )


class Documents(Settings):
    """How a file holds the documents of a text."""

    format: DocumentFormat = Field(
        description="How the file holds documents. lines: one a line. doc_tags: between <doc ...> "
        "and </doc>. plain: the file is one. jsonl: one JSON object a line, the text under "
        "`field`. parquet: one a row, under `field`, blank ones included. A file whose name ends "
        "in .gz is decompressed, unless it is parquet."
    )
    field: str = Field(
        default="text",
        description="The key or column that holds the text, for jsonl and parquet.",
    )


class WheelText(Wheel, Documents):
    """A text file in a wheel on the Python package index."""


class HubText(HubFile, Documents):
    """A text file in a dataset repository on the Hugging Face hub."""


class LocalText(Local, Documents):
    """A text file of your own."""


class Tokens(Source):
    """Ready token ids, for exactly one tokenizer."""

    source: Literal["tokens"] = Field(description=_SOURCE)
    path: str = Field(
        description="A safetensors file with `input_ids`, integers of shape (samples, length). "
        + _PATH
    )


class TaskDocuments(Settings):
    """How a file holds the documents of a task, and how many."""

    format: TaskFormat = Field(
        description="How the file holds documents. arrow (a stream), parquet, jsonl: rows with the "
        "fields of the stock task's own dataset. The others: OLMo's request files of these tasks, "
        "put into that form."
    )
    documents: int = Field(ge=1, description="How many the task has; another number is refused.")


class WheelTask(Wheel, TaskDocuments):
    """Documents of a task in a wheel on the Python package index."""


class HubTask(HubFile, TaskDocuments):
    """Documents of a task in a dataset repository on the Hugging Face hub."""

    member: str = Field(
        description="A file in the repository, of the split that the task is evaluated on."
    )


class LocalTask(Local, TaskDocuments):
    """Documents of a task in a file of your own."""


Model = WheelModel | HubModel | LocalModel
DocumentText = WheelText | HubText | LocalText
Text = DocumentText | Tokens
Task = WheelTask | HubTask | LocalTask
ModelEntry = chosen_by("source", "models", {WHEEL: WheelModel, HUB: HubModel, PATH: LocalModel})
TextEntry = chosen_by(
    "source", "texts", {WHEEL: WheelText, HUB: HubText, PATH: LocalText, TOKENS: Tokens}
)
TaskEntry = chosen_by("source", "tasks", {WHEEL: WheelTask, HUB: HubTask, PATH: LocalTask})


def read_model(entry: Mapping[str, Any]) -> Model:
    """Return an entry of `models` that is written as JSON."""
    found: Model = reader(ModelEntry)(entry)
    return found


def read_text(entry: Mapping[str, Any]) -> Text:
    """Return an entry of `texts` that is written as JSON."""
    found: Text = reader(TextEntry)(entry)
    return found


def read_task(entry: Mapping[str, Any]) -> Task:
    """Return an entry of `tasks` that is written as JSON."""
    found: Task = reader(TaskEntry)(entry)
    return found
