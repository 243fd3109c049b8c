"""Settings of models, texts and tasks: where they come from, and how they are stored."""

import math
import re
from typing import Annotated, Any, Final, Literal

from pydantic import AfterValidator, Field
from pydantic_core import PydanticCustomError

from freelunch.study.model_limits import LARGEST
from freelunch.study.settings import (
    COMMIT,
    Absent,
    Entry,
    Member,
    Name,
    Package,
    Repository,
    Revision,
    Searched,
    Settings,
    Sha256,
    Tags,
    Version,
    absent,
    read_entry,
)

WHEEL, WHEELS, HUB, PATH, TOKENS = "wheel", "wheels", "hub", "path", "tokens"
WHEEL_FILES, MIXTURE = "wheel_files", "mixture"
REFUSE: Final = "refuse"
# Parts of a document that would be too long to be the only one.
PARAGRAPHS: Final = "paragraphs"
DocumentFormat = Literal[
    "lines", "doc_tags", "plain", "paragraphs", "jsonl", "parquet", "parquet_rows"
]
# Every row counts, blank and equal ones included.
ROWS = "parquet_rows"
# Formats of compressed tables.
TABLES = ("parquet", ROWS)
# Ending of files that are decompressed.
PACKED = ".gz"
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
# Nothing is trained in float16: why, and what is expected instead.
UNTRAINED = "float16"
NO_GRADIENTS, TRAINED = f"gradients vanish in {UNTRAINED}", "bfloat16 or float32"
_SOURCE = "Kind of source."
Share = Annotated[float, Field(gt=0, lt=1)]
_PATH = "A relative path begins at the folder in which the study is run."


class Source(Settings):
    """The source of a model, text or task."""

    source: str = Field(description=_SOURCE)
    licence: Absent[str] = absent()
    """SPDX identifier or a phrase, for the audit; it decides no number."""

    @property
    def place(self) -> str:
        """Where the source is, which tells it from others."""
        keys = ("package", "repository", "path", "member", "members")
        return ": ".join(str(getattr(self, key)) for key in keys if hasattr(self, key))

    def fetched(self) -> dict[str, Any]:
        """Return, as JSON, the settings whose edit fetches again."""
        return {key: value for key, value in self.as_json().items() if key not in _UNFETCHED}

    def deciding(self) -> dict[str, Any]:
        """Return the settings that decide a number, as JSON: no licence or terms, no announced
        shapes, no tags of a wheel, whose SHA-256 says all, no `max_length`, which shows in the
        lengths of samples and windows, and no `bos`, which `Weights.beginning` has.
        """
        written = self.as_json()
        return {key: value for key, value in written.items() if key not in _DESCRIPTIVE}


_UNFETCHED = ("licence", "terms", "max_length", "bos")
_DESCRIPTIVE = (*_UNFETCHED, "architecture", "tags")


class InWheel(Source):
    """Anything in a wheel on the Python Package Index."""

    package: Package
    """Name on the Python Package Index."""
    version: Version
    """Exact version."""
    sha256: Sha256
    """SHA-256 of the wheel."""
    tags: Absent[Tags] = absent()
    """Compatibility tags in the wheel's file name, if there are wheels for several machines.
    Default: the wheel that fits this machine."""


class Wheel(InWheel):
    """A file in a wheel on the Python Package Index."""

    source: Literal["wheel"] = Field(description=_SOURCE)
    member: Member
    """A file in the wheel."""


class Hub(Source):
    """A repository on the Hugging Face Hub."""

    source: Literal["hub"] = Field(description=_SOURCE)
    repository: Repository
    """Owner and name on the hub."""
    revision: Revision
    """A full commit; or a branch or a tag, whose commit `make pin` writes into `pins.yaml`."""

    @property
    def is_commit(self) -> bool:
        """Whether the revision is a commit, which never moves, and no branch or tag."""
        return re.fullmatch(COMMIT, self.revision) is not None


class HubFile(Hub):
    """A file in a dataset repository on the Hugging Face Hub."""

    member: Member
    """A file in the repository."""


class LocalSource(Source):
    """A file or folder of your own."""

    source: Literal["path"] = Field(description=_SOURCE)
    path: Searched[str] = Field(description=_PATH)

    @property
    def place(self) -> str:
        return ", ".join([self.path] if isinstance(self.path, str) else self.path)


def _shape(key: str) -> Any:
    return Field(ge=1, le=LARGEST[key])


def _known_shape(key: str) -> Any:
    return absent(ge=1, le=LARGEST[key])


class Architecture(Settings):
    """Shapes of a model, named as in Llama's config.json, for a plan before the model is on disk;
    the fetched model must have the same.
    """

    model_type: Absent[str] = absent()
    """Model family, such as llama."""
    num_hidden_layers: int = _shape("num_hidden_layers")
    """Number of decoder blocks."""
    hidden_size: int = _shape("hidden_size")
    """Width of the residual stream."""
    intermediate_size: int = _shape("intermediate_size")
    """Number of channels in the MLP."""
    num_attention_heads: int = _shape("num_attention_heads")
    """Number of query heads."""
    num_key_value_heads: Absent[int] = _known_shape("num_key_value_heads")
    """Number of key heads. Default: as many as query heads."""
    head_dim: Absent[int] = _known_shape("head_dim")
    """Width of a head. Default: the family's, or else `hidden_size` / `num_attention_heads`."""
    vocab_size: int = _shape("vocab_size")
    """Number of rows of the embedding."""
    tie_word_embeddings: Absent[bool] = absent()
    """Whether the head shares the embedding's weights. Default: as in most models of the family."""


class Weights(Settings):
    """Settings of every model, whatever its source."""

    dtype: Absent[Dtype] = absent()
    """Precision of the stored model and of all passes; sums and statistics are always float32.
    Default: the checkpoint's own; float32 for a GGUF file."""
    architecture: Absent[Architecture] = absent()
    """Shapes of the model, for a plan before the model is on disk."""
    max_length: Absent[int] = absent(ge=2)
    """Most tokens in this model's sequences, where `length` of the calibration or of the evaluation
    is larger. Default: no limit."""
    bos: Literal["auto", "always", "never"] = Field(
        default="auto", exclude_if=lambda setting: setting == "auto"
    )
    """Whether sequences and windows within documents have the tokenizer's beginning-of-sequence
    token as their first token; prompts of tasks get it in front, and windows with `cut: joined`
    stay those of published numbers. auto: as the tokenizer does, unless the dense model's loss on
    calibration text is lower the other way by more than two standard errors."""
    terms: Absent[str] = absent()
    """Where the terms are that users of the model and of what is made from it have to accept, if
    its licence is not an open one. They decide no number."""

    @property
    def terms_text(self) -> str:
        """What is to be said of the model's terms; empty if it has none."""
        return f"not under an open licence, see {self.terms}" if self.terms else ""

    @property
    def beginning(self) -> dict[str, str]:
        """The setting `bos` if it is not the default: it decides numbers, not what is fetched."""
        return {} if self.bos == "auto" else {"bos": self.bos}


class WheelModel(Wheel, Weights):
    """A GGUF file in a wheel on the Python Package Index, dequantised once."""

    member: Member
    """A GGUF file in the wheel."""


class FilePart(Wheel):
    """A part of a file, in a wheel of its own, with the settings of the source `wheel`."""

    source: Literal["wheel"] = Field(default="wheel", description=_SOURCE)


class JoinedModel(Source, Weights):
    """A GGUF file in parts, each in a wheel of its own on the Python Package Index."""

    source: Literal["wheels"] = Field(description=_SOURCE)
    parts: list[FilePart] = Field(min_length=2)
    """The parts, in their order in the file."""
    sha256: Sha256
    """SHA-256 of the whole file."""

    @property
    def place(self) -> str:
        return ", ".join(f"{part.package} {part.version}" for part in self.parts)


class HubModel(Hub, Weights):
    """A model repository on the Hugging Face Hub."""


class LocalModel(LocalSource, Weights):
    """A model of your own."""

    path: str = Field(
        description="A folder with config.json, a tokenizer and safetensors files; or a GGUF file, "
        f"or a folder with one. {_PATH}"
    )


class Documents(Settings):
    """How a file stores the documents of a text."""

    format: DocumentFormat
    """Where documents are: one per line (lines), between <doc ...> and </doc> (doc_tags), the whole
    file (plain), the file cut at blank lines into parts of 2,000 characters or more (paragraphs; at
    any line end from 4,000 on), or `field` of a JSON object per line (jsonl) or of a row (parquet),
    without blank and repeated ones; parquet_rows keeps every row, as is customary for WikiText-2. A
    file whose name ends in .gz is decompressed, unless it is parquet."""
    field: str = "text"
    """Key (jsonl) or column (parquet) that holds the text."""


class WheelText(Wheel, Documents):
    """A text file in a wheel on the Python Package Index."""


class HubText(HubFile, Documents):
    """A text file in a dataset repository on the Hugging Face Hub."""


class LocalText(LocalSource, Documents):
    """Text files of your own."""

    path: Searched[str] = Field(
        description="A file, a folder of files, or a list of these. Their documents are one text, "
        f"in the order of the list and of the names in a folder. {_PATH}"
    )


class Tokens(Source):
    """Ready-made token ids, for exactly one tokenizer."""

    source: Literal["tokens"] = Field(description=_SOURCE)
    path: str = Field(
        description="A safetensors file with `input_ids`, integers of shape (samples, length). "
        + _PATH
    )


class WheelFiles(InWheel):
    """Text files in a wheel on the Python Package Index, each of which is one document."""

    source: Literal["wheel_files"] = Field(description=_SOURCE)
    members: Member
    """The files in the wheel, in the order of their names, as a pattern with * and ?, such as
    data/*.txt."""


def _whole(parts: dict[str, float]) -> dict[str, float]:
    total = sum(parts.values())
    if len(parts) < 2 or not math.isclose(total, 1, abs_tol=1e-6):
        raise PydanticCustomError(
            "shares", f"expected two or more shares that add up to 1, not to {total:.9g}"
        )
    return parts


class Mixture(Source):
    """Several texts to calibrate on, each with a share of the tokens. Sequences never overlap, so a
    part that is too short is refused; a document that several parts hold is kept once.
    """

    source: Literal["mixture"] = Field(description=_SOURCE)
    parts: Annotated[dict[Name, Share], AfterValidator(_whole)] = Field(
        json_schema_extra={"minProperties": 2}
    )
    """Share of the tokens of each of two or more parts, which are keys of `texts`. The shares add
    up to 1, and every sample has them, to within a sequence."""
    evaluation_text: Literal["refuse", "leave_out"] = REFUSE
    """What becomes of documents that share 13 tokens in a row with an evaluation window. refuse:
    the study stops and says their share of the part; leave_out: they are left out, which is needed
    if the evaluation text is a part itself."""
    held_out: float = Field(default=0.1, gt=0, lt=1)
    """Share of each part's documents that is set aside for held-out text: half for
    `study.selection`, half for `study.evaluation.drift`."""


class TaskDocuments(Settings):
    """How a file stores the documents of a task, and how many there are."""

    format: TaskFormat
    """Rows with the fields of the dataset that lm-eval's own task uses (arrow, a stream; parquet;
    jsonl), or OLMo's request files of a task, which are converted to such rows."""
    documents: int = Field(ge=1)
    """Number of documents in the task; any other number is refused."""


class WheelTask(Wheel, TaskDocuments):
    """Documents of a task in a wheel on the Python Package Index."""


class HubTask(HubFile, TaskDocuments):
    """Documents of a task in a dataset repository on the Hugging Face Hub."""

    member: Member
    """A file in the repository, with the split that the task is evaluated on."""


class LocalTask(LocalSource, TaskDocuments):
    """Documents of a task in a file of your own."""

    path: str = Field(description=f"The file. {_PATH}")


Model = WheelModel | JoinedModel | HubModel | LocalModel
DocumentText = (
    WheelText
    | HubText
    # Other kinds: docs/recipes/text_source.md.
    | LocalText
)
# A text that comes as one file.
Text = DocumentText | Tokens
AnyText = Text | WheelFiles | Mixture
Task = WheelTask | HubTask | LocalTask
ModelEntry = Annotated[Model, Field(discriminator="source")]
TextEntry = Annotated[AnyText, Field(discriminator="source")]
TaskEntry = Annotated[Task, Field(discriminator="source")]


def read_model(entry: Entry) -> Model:
    """Return an entry of `models` from JSON."""
    settings: Model = read_entry(ModelEntry, entry)
    return settings


def read_text(entry: Entry) -> Text | WheelFiles:
    """Return an entry of `texts` that is fetched, from JSON."""
    settings: Text | WheelFiles = read_entry(TextEntry, entry)
    return settings


def read_task(entry: Entry) -> Task:
    """Return an entry of `tasks` from JSON."""
    settings: Task = read_entry(TaskEntry, entry)
    return settings
