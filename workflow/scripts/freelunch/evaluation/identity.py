"""The identity of a checkpoint: the zeros of its matrices, counted by block, and its digest."""

import hashlib
import json
import math
from pathlib import Path

from safetensors import safe_open
from torch import nn

from freelunch.core.artifact import Artifact
from freelunch.evaluation.measurements import Measured, MeasurementSpec
from freelunch.model.blocks import block_linears
from freelunch.model.checkpoint import StreamedModel


class Identity:
    """Count the zeros of each matrix, in the blocks that are loaded for other measurements."""

    def __init__(self, model: StreamedModel) -> None:
        self._model = model
        self._matrices: dict[str, dict[str, int]] = {}

    def through_(self, index: int, block: nn.Module) -> None:
        """Count the zeros of a block's matrices."""
        for name, linear in block_linears(block).items():
            rows, columns = linear.weight.shape
            counts = {"rows": rows, "columns": columns, "zeros": int((linear.weight == 0).sum())}
            self._matrices[self._model.sharding.name(index, name)] = counts

    def result(self) -> Measured:
        """Return `matrices` (rows, columns and zeros of each), `checkpoint_digest` and the stored
        size.
        """
        checkpoint = self._model.artifact
        digest = {"checkpoint_digest": checkpoint_digest(checkpoint)}
        return Measured({"matrices": self._matrices, **digest, **stored(checkpoint)})


def begin(model: StreamedModel, spec: MeasurementSpec, scratch: Path) -> Identity:
    """Return the measurement."""
    return Identity(model)


def stored(checkpoint: Artifact) -> dict[str, int]:
    """Return the size of a checkpoint's weights: `stored_bytes` on disk, including shards that
    other checkpoints share, and the number of `parameters`.
    """
    shards = [path for path in checkpoint.files if path.endswith(".safetensors")]
    parameters = 0
    for shard in shards:
        with safe_open(checkpoint.path(shard), framework="pt") as tensors:
            for name in tensors.keys():  # noqa: SIM118 (safe_open is no mapping)
                parameters += math.prod(tensors.get_slice(name).get_shape())
    sizes = (checkpoint.files[shard]["bytes"] for shard in shards)
    return {"stored_bytes": sum(sizes), "parameters": parameters}


def checkpoint_digest(checkpoint: Artifact) -> str:
    """Return one digest of all weights of a checkpoint."""
    shards = sorted(name for name in checkpoint.files if name.endswith(".safetensors"))
    digests = {name: checkpoint.files[name]["sha256"] for name in shards}
    return hashlib.sha256(json.dumps(digests).encode()).hexdigest()
