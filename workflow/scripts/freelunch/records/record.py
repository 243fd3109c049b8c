"""What a record holds, as types, as far as the library reads it.

`workflow/schemas/record.schema.json` has all facts and says what they mean. A key that a record may
lack is `NotRequired`: read it by `get`. Numbers that were not finite are null in JSON, None here.
"""

from collections.abc import Mapping
from typing import Any, NotRequired, TypedDict

from freelunch.study.beginnings import BosFacts
from freelunch.study.cell import Cell


class LossFacts(TypedDict):
    """A perplexity and the losses that it is the mean of, in nats per token."""

    perplexity: float | None
    perplexity_standard_error: float | None
    loss: float | None
    loss_standard_error: float | None
    window_losses: list[float | None]


class PerplexityFacts(LossFacts):
    """The perplexity on the evaluation text."""

    documents: NotRequired[list[int]]
    windows: int
    length: int
    stride: int
    tokens: int
    token_ids_sha256: str


class DriftFacts(LossFacts):
    """The drift on held-out calibration text: `drift` is by kind, block, matrix and statistic."""

    drift: dict[str, list[dict[str, dict[str, float | None]]]]
    dense: LossFacts
    windows: int
    length: int
    token_ids_sha256: str


class TaskFacts(TypedDict):
    """The answers to one zero-shot task, in sum."""

    accuracy: float
    accuracy_standard_error: float
    documents: int
    documents_in_all: int
    version: float | str
    prompts_sha256: str
    sample_sha256: str
    task: str


class TasksFacts(TypedDict):
    """The answers to all zero-shot tasks, in sum."""

    tasks: dict[str, TaskFacts]
    accuracy: float
    accuracy_standard_error: float
    truncated: dict[str, int]
    sequences: int
    answers_sha256: str


class MetricsFacts(TypedDict):
    """All that was measured of a cell, by measurement."""

    perplexity: PerplexityFacts
    drift: NotRequired[DriftFacts]
    tasks: NotRequired[TasksFacts]


class IdentityFacts(TypedDict):
    """The sparsity and the size of a checkpoint, as the evaluation counted them."""

    sparsity: float
    zeros: int
    weights: int
    parameters: int
    stored_bytes: int
    # The `rows`, `columns` and `zeros` of each matrix.
    matrices: dict[str, dict[str, int]]
    checkpoint_sha256: str


class CandidateFacts(TypedDict):
    """A candidate of a search."""

    learning_rate: float
    epochs: int
    samples: NotRequired[int]
    # Of a probe, the loss of its windows instead.
    perplexity: NotRequired[float | None]
    perplexity_standard_error: NotRequired[float | None]
    relative_loss: NotRequired[float | None]
    windows_kept_pruned: int


class ChoiceFacts(TypedDict):
    """A search over learning rates and epochs."""

    selected_on: str
    chosen: str
    candidates: dict[str, CandidateFacts]


class AdaptationFacts(TypedDict):
    """What an adaptation saw, trained and reached."""

    window: int | str
    windows: int
    windows_kept_pruned: int
    samples: int
    distinct_tokens: int
    steps: int
    trained_parameters: int
    # The loss of each window, `before` and `after`.
    losses: dict[str, dict[str, float]]
    choice: ChoiceFacts | None


class CostFacts(TypedDict):
    """What a step cost in all its jobs."""

    jobs: int
    wall_s: float
    cpu_s: float
    peak_bytes: int
    peak_work_bytes: NotRequired[int]
    tokens: NotRequired[int]
    flops: NotRequired[int]
    dense_flops: NotRequired[int]


class ProvenanceFacts(TypedDict):
    """Where the numbers come from; environments are those of `freelunch.core.job`, by step."""

    environments: dict[str, dict[str, Any]]
    other_environments: NotRequired[dict[str, list[dict[str, Any]]]]
    finished: dict[str, str]
    digests: dict[str, str]
    model_origin: dict[str, Any]
    text_origins: dict[str, dict[str, Any]]
    task_origins: NotRequired[dict[str, dict[str, Any]]]
    bos: NotRequired[BosFacts]
    seed: int


class Spec(TypedDict):
    """Every setting that decides a cell's numbers; a dense cell has the first three alone."""

    cell: str
    model: dict[str, Any]
    # By measurement.
    evaluation: dict[str, dict[str, Any]]
    seed: NotRequired[int]
    calibration: NotRequired[dict[str, Any]]
    criterion: NotRequired[dict[str, Any]]
    pattern: NotRequired[str]
    adaptation: NotRequired[dict[str, Any] | None]
    selection: NotRequired[dict[str, Any]]


class Record(TypedDict):
    """The record of a cell; the last two are None for a cell without them."""

    cell: str
    spec: Spec
    fingerprint: str
    sha256: str
    metrics: MetricsFacts
    identity: IdentityFacts
    cost: dict[str, CostFacts]
    provenance: ProvenanceFacts
    # `notes`: the criterion's notes, by matrix.
    pruning: dict[str, dict[str, dict[str, float]]] | None
    adaptation: AdaptationFacts | None


Records = Mapping[Cell, Record]


def adaptation_facts(record: Record) -> AdaptationFacts:
    """Return what the adaptation of a cell reached, which was adapted."""
    facts = record["adaptation"]
    assert facts is not None  # The collector writes it for each cell that is adapted.
    return facts
