"""The dense pass: hidden states at every block boundary, statistics of every linear input.

One pass over the calibration sample feeds every criterion and pattern (statistics), and every
reconstruction (hidden states are its inputs and its targets).
"""

from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file

from freelunch.artifact import Artifact, ArtifactWriter
from freelunch.calibration import read_tokens
from freelunch.checkpoint import StreamedModel
from freelunch.hidden import create_hidden, hidden_file, open_hidden
from freelunch.report import Report, silent
from freelunch.statistics import Collector, InputStatistics
from freelunch.streaming import BlockPass

KIND = "dense activations"


def statistics_file(block: int) -> str:
    """Return the name of the file with the statistics of a block's linear inputs."""
    return f"statistics-{block:03d}.safetensors"


def capture_dense(
    model: StreamedModel,
    calibration: Artifact,
    folder: Path,
    fingerprint: str,
    report: Report = silent,
) -> Artifact:
    """Pass the calibration sample through the dense model, block by block.

    Args:
        model: The dense model.
        calibration: Token ids.
        folder: Where hidden states and statistics go.
        fingerprint: Digest of everything the result depends on.
        report: Told of each block.
    """
    input_ids = read_tokens(calibration)
    sequences, length = input_ids.shape
    writer = ArtifactWriter(folder, KIND, fingerprint)
    blocks = BlockPass(model, sequences, length)
    shape = (sequences, length, model.config.hidden_size)

    def embed(path: Path) -> None:
        blocks.embed_(input_ids, create_hidden(path, shape, model.dtype))

    if hidden_file(0) not in writer:
        writer.add(hidden_file(0), embed)
    for index in range(model.num_blocks):
        # Statistics come second: with both there, a block is done.
        if statistics_file(index) not in writer:
            block = model.load_block(index)
            collector = Collector(block)
            hidden = open_hidden(folder / hidden_file(index))
            with collector.watching():
                writer.add(hidden_file(index + 1), _passing(blocks, index, block, hidden, shape))
            tensors = _as_tensors(collector.results())
            writer.add(
                statistics_file(index),
                lambda path, tensors=tensors: save_file(tensors, path),  # type: ignore[misc]
                groups=collector.groups,
            )
        report(index + 1, model.num_blocks, "blocks")
    return writer.finish(
        model=model.artifact.digest,
        calibration=calibration.digest,
        sequences=sequences,
        length=length,
    )


def read_statistics(dense: Artifact, block: int) -> dict[str, InputStatistics]:
    """Return the statistics of each linear layer of a block, shared ones repeated."""
    name = statistics_file(block)
    with safe_open(dense.path(name), framework="pt") as file:
        inputs = {
            group: InputStatistics(
                tokens=int(file.get_tensor(f"{group}.tokens")),
                mean=file.get_tensor(f"{group}.mean"),
                squared_norm=file.get_tensor(f"{group}.squared_norm"),
            )
            for group in set(dense.files[name]["groups"].values())
        }
    return {linear: inputs[group] for linear, group in dense.files[name]["groups"].items()}


def _passing(
    blocks: BlockPass,
    index: int,
    block: torch.nn.Module,
    hidden: torch.Tensor,
    shape: tuple[int, int, int],
) -> Callable[[Path], None]:
    def write(path: Path) -> None:
        blocks.through_(index, block, hidden, create_hidden(path, shape, hidden.dtype))

    return write


def _as_tensors(results: Mapping[str, InputStatistics]) -> dict[str, torch.Tensor]:
    tensors = {}
    for name, statistics in results.items():
        tensors[f"{name}.tokens"] = torch.tensor(statistics.tokens)
        tensors[f"{name}.mean"] = statistics.mean.cpu()
        tensors[f"{name}.squared_norm"] = statistics.squared_norm.cpu()
    return tensors
