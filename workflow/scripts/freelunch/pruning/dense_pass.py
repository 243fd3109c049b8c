"""The dense pass: hidden states at every block boundary, statistics of every linear input.

One pass over the calibration sample serves every criterion and pattern, which use the statistics,
and every reconstruction, which uses the hidden states as inputs and targets.
"""

from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file

from freelunch.core.artifact import Artifact
from freelunch.core.artifact_writer import ArtifactWriter
from freelunch.core.progress import Report, silent
from freelunch.model import hidden_states
from freelunch.model.checkpoint import StreamedModel
from freelunch.model.hidden_file import hidden_file
from freelunch.model.hidden_states import DenseStates
from freelunch.model.token_ids import read_tokens
from freelunch.model.token_loss import check_dense, window_losses
from freelunch.pruning.statistics import Collector, InputStatistics
from freelunch.study.steps import CHECK_SEQUENCES, DENSE_ACTIVATIONS
from freelunch.study.windows import kept_boundaries

KIND = DENSE_ACTIVATIONS
# Fields of InputStatistics with one value per feature.
_VECTORS = ("mean", "variance", "squared_norm")


def statistics_file(block: int) -> str:
    """Return the name of the file with the statistics of a block's linear inputs."""
    return f"statistics-{block:03d}.safetensors"


def capture_dense(
    model: StreamedModel,
    calibration: Artifact,
    dense_limit: float,
    gram: bool,
    keep: str,
    folder: Path,
    hidden_folder: Path,
    fingerprint: str,
    scratch: Path,
    report: Report = silent,
) -> Artifact:
    """Pass the calibration sample through the dense model, block by block.

    Args:
        model: The dense model.
        calibration: Token ids of the calibration sample.
        dense_limit: Largest perplexity on the first sequences that a sound model can have.
        gram: Whether to collect Gram matrices; those of only one block are in memory at a time.
        keep: Which hidden states are kept on disk: `all`, `every_k` or `none`.
        folder: Folder for the statistics.
        hidden_folder: Folder for the hidden states.
        fingerprint: Digest of everything the result depends on.
        scratch: Folder for hidden states that are not kept.
        report: Called after each block.

    Raises:
        UserError: An activation is not finite, or the perplexity is above the limit. A broken model
            or a wrong tokenizer thus ends the study before anything is pruned.
    """
    writer = ArtifactWriter(folder, KIND, fingerprint)
    cache = ArtifactWriter(hidden_folder, hidden_states.KIND, fingerprint)
    states = DenseStates(model, calibration, None, scratch)
    input_ids = read_tokens(calibration)
    kept = {at: hidden_file(at) for at in kept_boundaries(keep, model.num_blocks)}

    def embed(path: Path) -> None:
        states.blocks.embed_(input_ids, states.create(path))

    if 0 in kept and kept[0] not in cache:
        cache.add(kept[0], embed)
    for boundary, name in kept.items():
        if name in cache:
            states.found(boundary, hidden_folder / name)
    missing = [
        index
        for index in range(model.num_blocks)
        if statistics_file(index) not in writer
        or (index + 1 in kept and kept[index + 1] not in cache)
    ]
    blocks = model.load_blocks(missing)
    for index in range(model.num_blocks):
        after = index + 1
        if index in missing:
            _, block = next(blocks)
            collector = Collector(block, model.sharding.name(index, ""), gram)
            work = _passing(states, index, block)
            with collector.watching():
                if after in kept:
                    cache.add(kept[after], work)
                    states.found(after, hidden_folder / kept[after])
                else:
                    states.make(after, work)
            tensors = _as_tensors(collector.results())
            writer.add(
                statistics_file(index),
                lambda path, tensors=tensors: save_file(tensors, path),  # type: ignore[misc]
                groups=collector.groups,
            )
            # Free this block's Gram matrices before the next block's are allocated.
            del collector, tensors
        report(after, model.num_blocks, "blocks")
    last = states.at(model.num_blocks)[:CHECK_SEQUENCES]
    perplexity = float(window_losses(model, input_ids[: len(last)], last).mean().exp())
    check_dense(perplexity, dense_limit, folder)
    belongs = {"model": model.artifact.digest, "calibration": calibration.digest}
    cache.finish(**belongs)
    return writer.finish(
        perplexity=perplexity,
        **belongs,
        gram=gram,
        sequences=states.sequences,
        length=states.length,
    )


def read_statistics(
    dense: Artifact, block: int, device: torch.device | str = "cpu", gram: bool = False
) -> dict[str, InputStatistics]:
    """Return the statistics of each linear layer of a block; layers that share an input share an
    object.

    Args:
        dense: Artifact that `capture_dense` wrote.
        block: Index of the block.
        device: Device for the statistics.
        gram: Whether to read Gram matrices too.
    """
    name = statistics_file(block)
    groups = dense.files[name]["groups"]
    with safe_open(dense.path(name), framework="pt") as file:

        def read(group: str, what: str) -> torch.Tensor:
            tensor: torch.Tensor = file.get_tensor(f"{group}.{what}")
            return tensor.to(device)

        inputs = {
            group: InputStatistics(
                tokens=int(read(group, "tokens")),
                gram=read(group, "gram") if gram else None,
                **{what: read(group, what) for what in _VECTORS},  # type: ignore[arg-type]
            )
            for group in set(groups.values())
        }
    return {linear: inputs[group] for linear, group in groups.items()}


def _passing(states: DenseStates, index: int, block: torch.nn.Module) -> Callable[[Path], None]:
    hidden = states.at(index)

    def write(path: Path) -> None:
        states.blocks.through_(index, block, hidden, states.create(path))

    return write


def _as_tensors(results: Mapping[str, InputStatistics]) -> dict[str, torch.Tensor]:
    tensors = {}
    for name, statistics in results.items():
        tensors[f"{name}.tokens"] = torch.tensor(statistics.tokens)
        for what in _VECTORS:
            tensors[f"{name}.{what}"] = getattr(statistics, what).cpu()
        if statistics.gram is not None:
            tensors[f"{name}.gram"] = statistics.gram.cpu()
    return tensors
