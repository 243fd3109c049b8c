"""The dense pass: hidden states at every block boundary, statistics of every linear input.

One pass over the calibration sample serves every criterion and pattern, which use the statistics,
and every reconstruction, which uses the hidden states as inputs and targets.
"""

from collections.abc import Mapping
from functools import partial
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import nn

from freelunch.core.artifact import Artifact
from freelunch.core.artifact_writer import ArtifactWriter
from freelunch.core.progress import Report, silent
from freelunch.model import hidden_states
from freelunch.model.checkpoint import StreamedModel
from freelunch.model.hidden_states import DenseStates
from freelunch.model.tensor_file import HiddenStates, hidden_file
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
    sample: Artifact,
    folder: Path,
    hidden_folder: Path,
    fingerprint: str,
    scratch: Path,
    *,
    keep: str,
    gram: bool,
    dense_limit: float,
    report: Report = silent,
) -> Artifact:
    """Pass the calibration sample through the dense model; write statistics, block by block, with
    Gram matrices if asked; those of only one block are in memory at a time. Of the hidden states,
    `keep` says which are kept in a folder of their own. The fingerprint is the digest of everything
    the results depend on. UserError: an activation is not finite, or the perplexity on the first
    sequences is above the limit of a sound model, so that a broken model or a wrong tokenizer ends
    the study before anything is pruned.
    """
    writer = ArtifactWriter(folder, KIND, fingerprint)
    cache = ArtifactWriter(hidden_folder, hidden_states.KIND, fingerprint)
    states = DenseStates(model, sample, None, scratch)
    input_ids = states.input_ids
    kept = {at: hidden_file(at) for at in kept_boundaries(keep, model.num_blocks)}
    if 0 in kept and kept[0] not in cache:
        cache.add(kept[0], lambda path: states.blocks.embed_(input_ids, states.create(path)))
    for boundary, name in kept.items():
        if name in cache:
            states.note(boundary, hidden_folder / name)
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
            work = partial(_pass, states, index, block, states.at(index))
            with collector.watching():
                if after in kept:
                    cache.add(kept[after], work)
                    states.note(after, hidden_folder / kept[after])
                else:
                    states.make(after, work)
            tensors = _as_tensors(collector.results())
            write = partial(save_file, tensors)
            writer.add(statistics_file(index), write, groups=collector.groups)
            # Free this block's Gram matrices before the next block's are allocated.
            del collector, tensors, write
        report(after, model.num_blocks, "blocks")
    last = states.at(model.num_blocks)[:CHECK_SEQUENCES]
    perplexity = float(window_losses(model, input_ids[: len(last)], last).mean().exp())
    check_dense(perplexity, dense_limit, folder)
    belongs = {"model": model.artifact.digest, "calibration": sample.digest}
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
    """Return the statistics of each linear layer of a block, as `capture_dense` wrote them, with
    Gram matrices if asked; layers that share an input share an object.
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


def _pass(
    states: DenseStates, index: int, block: nn.Module, hidden: HiddenStates, path: Path
) -> None:
    states.blocks.through_(index, block, hidden, states.create(path))


def _as_tensors(results: Mapping[str, InputStatistics]) -> dict[str, torch.Tensor]:
    tensors = {}
    for name, statistics in results.items():
        tensors[f"{name}.tokens"] = torch.tensor(statistics.tokens)
        for what in _VECTORS:
            tensors[f"{name}.{what}"] = getattr(statistics, what).cpu()
        if statistics.gram is not None:
            tensors[f"{name}.gram"] = statistics.gram.cpu()
    return tensors
