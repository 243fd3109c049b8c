"""Pruning of heads and channels in plain loops, and transformers' own models, for several tests."""

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoModelForCausalLM

from freelunch.core.artifact import Artifact
from freelunch.model.blocks import block_linears
from freelunch.model.checkpoint import StreamedModel
from freelunch.model.hidden_states import BlockPass
from freelunch.model.mask_store import assemble_model, load_pruned_block
from tiny_models import BLOCKS, Prepared, prune, random_tokens

SEQUENCES = 6
UNITS = ("group", "head")
# Families whose every linear layer can have a bias.
BIASED = ("llama", "opt")


def prune_units(
    prepared: Prepared, folder: Path, score: str, pattern: str = "s50", **settings: Any
) -> Artifact:
    return prune(prepared.model, prepared.dense, folder, score, pattern, **settings)


def masks_of(prepared: Prepared, masks: Artifact) -> list[dict[str, Tensor]]:
    return [load_pruned_block(prepared.model, masks, index)[1] for index in range(BLOCKS)]


def assembled(prepared: Prepared, masks: Artifact, folder: Path, *adapted: Artifact) -> Artifact:
    return assemble_model(prepared.model, masks, adapted, folder, "fingerprint")


def transformers_model(checkpoint: Artifact) -> nn.Module:
    """Load a checkpoint as a user does, and check that it holds every parameter and no other."""
    model, info = AutoModelForCausalLM.from_pretrained(
        checkpoint.folder, dtype=torch.float32, output_loading_info=True
    )
    assert not any(info.values()), info
    return model.eval()  # type: ignore[no-any-return]


@torch.no_grad()
def logits_of(model: nn.Module, input_ids: Tensor) -> Tensor:
    return model(input_ids=input_ids, use_cache=False).logits  # type: ignore[no-any-return]


@torch.no_grad()
def streamed_logits(model: StreamedModel, input_ids: Tensor) -> Tensor:
    blocks = BlockPass(model, *input_ids.shape)
    hidden = torch.empty(*input_ids.shape, model.config.hidden_size, dtype=model.dtype)
    blocks.embed_(input_ids, hidden)
    for index in range(model.num_blocks):
        blocks.through_(index, model.load_block(index), hidden, hidden)
    return model.logits(input_ids, hidden)


def assert_equal_logits(found: Tensor, expected: Tensor) -> None:
    assert expected.std() > 0.1, "logits without spread would make any comparison pass"
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)


def blocks_of(prepared: Prepared, model: nn.Module) -> nn.ModuleList:
    return model.get_submodule(prepared.model.sharding.path)  # type: ignore[return-value]


def output_names(prepared: Prepared) -> tuple[str, str]:
    """Return the names of the layer whose inputs are heads and of the layer whose inputs are
    channels.
    """
    neox = "mlp.dense_4h_to_h"
    others = {
        "opt": ("self_attn.out_proj", "fc2"),
        "gpt_neox": ("attention.dense", neox),
        "bloom": ("self_attention.dense", neox),
        "falcon": ("self_attention.dense", neox),
    }
    return others.get(prepared.model.config.model_type, ("self_attn.o_proj", "mlp.down_proj"))


@contextmanager
def fed(
    prepared: Prepared, model: nn.Module, change: Callable[[int, str, Tensor], Tensor]
) -> Iterator[None]:
    """Let `change(block, name, inputs)` see and replace the inputs of each output projection."""
    with ExitStack() as stack:
        for index, block in enumerate(blocks_of(prepared, model)):
            for name in output_names(prepared):
                handle = block.get_submodule(name).register_forward_pre_hook(
                    lambda _, args, index=index, name=name: (change(index, name, args[0]),)
                )
                stack.callback(handle.remove)
        yield


def inputs_of(prepared: Prepared, model: nn.Module) -> list[dict[str, Tensor]]:
    """Return, for each block and output projection, its inputs on the sample, (tokens, in)."""
    seen: list[dict[str, Tensor]] = [{} for _ in range(BLOCKS)]

    def note(index: int, name: str, inputs: Tensor) -> Tensor:
        seen[index][name] = inputs.flatten(0, -2)
        return inputs

    with fed(prepared, model, note):
        logits_of(model, random_tokens(SEQUENCES))
    return seen


@dataclass(frozen=True)
class Gone:
    heads: frozenset[int]
    channels: frozenset[int]


def unit_heads(prepared: Prepared, attention_unit: str) -> list[list[int]]:
    """Return the query heads of each unit of attention."""
    heads = prepared.model.config.num_attention_heads
    if attention_unit == "head":
        return [[head] for head in range(heads)]
    shared = heads // num_groups(prepared)
    return [[first + k for k in range(shared)] for first in range(0, heads, shared)]


def num_groups(prepared: Prepared) -> int:
    """Return the key heads of a model; of families without grouped queries, the config does not
    name them.
    """
    config = prepared.model.config
    if config.model_type == "falcon":
        return config.num_kv_heads
    return getattr(config, "num_key_value_heads", config.num_attention_heads)


def slow_masks(prepared: Prepared, block: nn.Module, gone: Gone) -> dict[str, Tensor]:
    """Decide for each weight of a block whether it is pruned; return masks by layer name."""
    heads, groups = prepared.model.config.num_attention_heads, num_groups(prepared)
    attention, mlp = (block.get_submodule(name) for name in output_names(prepared))
    size, width = attention.in_features // heads, mlp.in_features
    shared = heads // groups
    gone_groups = {
        group
        for group in range(groups)
        if all(group * shared + k in gone.heads for k in range(shared))
    }

    def goes(kind: str, row: int, column: int) -> bool:
        match kind:
            case "q_proj":
                return row // size in gone.heads
            case "k_proj" | "v_proj":
                return row // size in gone_groups
            case "qkv_proj":
                if row < heads * size:
                    return row // size in gone.heads
                return (row - heads * size) % (groups * size) // size in gone_groups
            case "query_key_value":
                # Each key head has its query heads, then the key head, then its value head.
                group, row = divmod(row, (shared + 2) * size)
                head = row // size
                return (
                    group in gone_groups if head >= shared else group * shared + head in gone.heads
                )
            case "o_proj" | "out_proj" | "dense":
                return column // size in gone.heads
            case "gate_proj" | "up_proj" | "fc1" | "dense_h_to_4h":
                return row in gone.channels
            case "gate_up_proj":
                return row % width in gone.channels
            case "down_proj" | "fc2" | "dense_4h_to_h":
                return column in gone.channels
        raise AssertionError(f"unknown layer {kind}")

    masks = {}
    for name, linear in block_linears(block).items():
        keep = torch.ones(linear.weight.shape, dtype=torch.bool)
        for row in range(linear.out_features):
            for column in range(linear.in_features):
                keep[row, column] = not goes(name.split(".")[-1], row, column)
        masks[name] = keep
    return masks


def slow_input_scores(metric: str, weight: Tensor, inputs: Tensor) -> list[float]:
    """Return the score of each input of an output projection, by the formulas."""
    scores = []
    for j in range(weight.shape[1]):
        column = [float(value) for value in weight.detach()[:, j]]
        values = [float(value) for value in inputs[:, j]]
        mean = sum(values) / len(values)
        variance = sum((value - mean) ** 2 for value in values) / len(values)
        norm = math.sqrt(sum(value**2 for value in values))
        scores.append(
            {
                "WIFV": variance * sum(value**2 for value in column),
                "IFV": variance,
                "WIFN": sum(abs(value) * norm for value in column) / len(column),
            }[metric]
        )
    return scores


def slow_standardised(scores: list[float]) -> list[float]:
    mean = sum(scores) / len(scores)
    deviation = math.sqrt(sum((score - mean) ** 2 for score in scores) / (len(scores) - 1))
    return [(score - mean) / deviation for score in scores]


def slow_unit_scores(
    prepared: Prepared,
    block: nn.Module,
    inputs: dict[str, Tensor],
    metric: str,
    scope: str,
    attention_unit: str,
) -> tuple[list[float], list[float]]:
    """Return the scores of a block's units of attention, and of its channels."""
    found = []
    for name in output_names(prepared):
        scores = slow_input_scores(metric, block.get_submodule(name).weight, inputs[name])
        found.append(slow_standardised(scores) if scope == "model" else scores)
    of_inputs, of_channels = found
    size = len(of_inputs) // prepared.model.config.num_attention_heads
    of_units = []
    for heads in unit_heads(prepared, attention_unit):
        members = [of_inputs[head * size + k] for head in heads for k in range(size)]
        of_units.append(sum(members) / len(members))
    return of_units, of_channels


def gone_of(prepared: Prepared, attention_unit: str, units: set[int], channels: set[int]) -> Gone:
    members = unit_heads(prepared, attention_unit)
    return Gone(frozenset(head for unit in units for head in members[unit]), frozenset(channels))


def lowest_units(scores: list[float], percent: int) -> set[int]:
    ranked = sorted(range(len(scores)), key=lambda unit: (scores[unit], unit))
    return set(ranked[: percent * len(scores) // 100])


def slow_gone(
    prepared: Prepared,
    blocks: Sequence[nn.Module],
    inputs: list[dict[str, Tensor]],
    metric: str,
    scope: str,
    attention_unit: str,
    percent: int,
) -> list[Gone]:
    """Choose the heads and channels of each block to prune."""
    scores = [
        slow_unit_scores(prepared, block, seen, metric, scope, attention_unit)
        for block, seen in zip(blocks, inputs, strict=True)
    ]
    if scope == "block":
        return [
            gone_of(prepared, attention_unit, *(lowest_units(part, percent) for part in parts))
            for parts in scores
        ]
    # The weights of one unit: all weights pruned with all units of a kind, counted in the masks and
    # divided by the number of units. Key and value heads are pruned only with their last query
    # head, but count with each.
    weights = []
    for kind, part in enumerate(scores[0]):
        every: list[set[int]] = [set(), set()]
        every[kind] = set(range(len(part)))
        masks = slow_masks(prepared, blocks[0], gone_of(prepared, attention_unit, *every))
        weights.append(math.ceil(sum(int((~keep).sum()) for keep in masks.values()) / len(part)))
    units = [
        (score, index, kind, unit)
        for index, parts in enumerate(scores)
        for kind, part in enumerate(parts)
        for unit, score in enumerate(part)
    ]
    everything = sum(weights[kind] for _, _, kind, _ in units)
    chosen: list[tuple[set[int], set[int]]] = [(set(), set()) for _ in blocks]
    removed = 0
    for _, index, kind, unit in sorted(units):
        removed += weights[kind]
        if removed * 100 > percent * everything:
            break
        chosen[index][kind].add(unit)
    return [gone_of(prepared, attention_unit, *parts) for parts in chosen]
