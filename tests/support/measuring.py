"""Take one measurement at a time; `evaluate_cell` takes all of them together."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from freelunch.core.artifact import Artifact
from freelunch.evaluation.drift import Drift
from freelunch.evaluation.identity import Identity
from freelunch.evaluation.likelihood import LikelihoodRequest, Likelihoods, LogLikelihood
from freelunch.evaluation.perplexity import Perplexity
from freelunch.model.checkpoint import StreamedModel
from freelunch.model.hidden_states import pass_through


def metrics_of(model: StreamedModel, measurement: Any) -> dict[str, Any]:
    """Return the metrics of a measurement, which passes through a model alone."""
    pass_through(model, [measurement])
    found: dict[str, Any] = measurement.result().metrics
    return found


def perplexity_of(
    model: StreamedModel, input_ids: Tensor, scratch: Path, stride: int | None = None
) -> dict[str, Any]:
    """Return the perplexity of a model on windows, (windows, length), int64."""
    return metrics_of(model, Perplexity(model, input_ids, scratch, stride))


def identity_of(model: StreamedModel) -> dict[str, Any]:
    """Return the identity of a checkpoint: its zeros, digest and stored size."""
    return metrics_of(model, Identity(model))


def drift_of(
    dense: StreamedModel, checkpoint: StreamedModel, input_ids: Tensor, scratch: Path
) -> dict[str, Any]:
    """Return the drift of a checkpoint from a dense model that runs on the same tokens."""
    return metrics_of(checkpoint, Drift(checkpoint, dense, input_ids, {}, scratch))


def likelihoods_of(
    model: StreamedModel, requests: Sequence[LikelihoodRequest], scratch: Path
) -> Likelihoods:
    """Return the log-likelihoods of requests."""
    measurement = LogLikelihood(model, requests, scratch)
    pass_through(model, [measurement])  # type: ignore[list-item]
    return measurement.values()


def accuracy_of(
    model: StreamedModel,
    tasks: Mapping[str, Artifact],
    limit: int | None,
    seed: int,
    scratch: Path,
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the accuracy of a model on tasks, and its answers."""
    import gzip
    import json

    from freelunch.evaluation.tasks import TaskAccuracy

    measurement = TaskAccuracy(model, tasks, limit, seed, scratch)
    metrics = metrics_of(model, measurement)
    return metrics, json.loads(gzip.decompress(measurement.result().files["answers.json.gz"]))
