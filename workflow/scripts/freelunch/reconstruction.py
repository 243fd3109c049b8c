"""Local reconstruction: a window of the pruned model learns the dense model's output.

With dense inputs and targets a window needs nothing but its own blocks, their masks and the dense
hidden states at its two ends: windows are independent of each other, and one at a time is in
memory.
"""

import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from freelunch.artifact import Artifact, ArtifactWriter, check_belongs
from freelunch.blocks import BlockCall
from freelunch.cell import derive_seed
from freelunch.checkpoint import StreamedModel, block_shard, write_shard
from freelunch.cost import CHECK_SEQUENCES
from freelunch.errors import UserError
from freelunch.hidden import hidden_file, open_hidden
from freelunch.pruned import fill_kept_zeros_, load_pruned_block
from freelunch.report import Report, silent
from freelunch.streaming import BlockPass

KIND = "adapted blocks"

log = logging.getLogger(__name__)


def split_windows(num_blocks: int, window_blocks: int) -> list[range]:
    """Return the windows of a model; the last may be shorter.

    Raises:
        UserError: A window is larger than the model.
    """
    if window_blocks > num_blocks:
        raise UserError(
            "the window is larger than the model",
            where="window_blocks",
            found=window_blocks,
            expected=f"at most {num_blocks}",
        )
    return [
        range(first, min(first + window_blocks, num_blocks))
        for first in range(0, num_blocks, window_blocks)
    ]


def group_windows(windows: Sequence[range], group: int, groups: int) -> list[range]:
    """Return the consecutive windows that job `group` (from 1) of `groups` adapts."""
    start, stop = ((part * len(windows)) // groups for part in (group - 1, group))
    return list(windows[start:stop])


def learning_rates(steps: int, peak: float, warmup: float) -> list[float]:
    """Return the learning rate of each step: linear warm-up, then linear decay to 0.

    The first step has peak / warm-up steps, not 0 as in the study's own code (study.md, quirk 7);
    the step after the last would have 0.
    """
    warm = int(warmup * steps)
    rising = [peak * (step + 1) / warm for step in range(warm)]
    falling = [peak * (steps - step) / (steps - warm) for step in range(warm, steps)]
    return rising + falling


@dataclass
class Window:
    """Consecutive pruned blocks, ready to be trained.

    Attributes:
        blocks: The modules, float32.
        indices: Which blocks of the model they are.
        keep_masks: For each block, the mask of each linear layer, (out, in), bool.
        dtype: Precision of the passes.
    """

    blocks: list[nn.Module]
    indices: range
    keep_masks: list[dict[str, Tensor]]
    dtype: torch.dtype
    device: torch.device
    masked: list[tuple[nn.Parameter, Tensor]] = field(init=False)

    def __post_init__(self) -> None:
        self.masked = [
            (block.get_submodule(name).weight, keep)  # type: ignore[misc]
            for block, masks in zip(self.blocks, self.keep_masks, strict=True)
            for name, keep in masks.items()
        ]

    @classmethod
    def load(cls, model: StreamedModel, masks: Artifact, indices: range) -> "Window":
        """Load the pruned blocks of a window."""
        loaded = [load_pruned_block(model, masks.folder, index) for index in indices]
        blocks = [block.float() for block, _ in loaded]
        return cls(blocks, indices, [keep for _, keep in loaded], model.dtype, model.device)

    def __call__(self, hidden: Tensor, calls: Sequence[BlockCall]) -> Tensor:
        """Return the window's output for hidden states of (batch, length, d)."""
        half = self.dtype != torch.float32
        with torch.autocast(self.device.type, self.dtype) if half else nullcontext():
            for index, block in zip(self.indices, self.blocks, strict=True):
                hidden = calls[index](block, hidden)
        return hidden

    def trained(self, train_norms: bool, train_biases: bool) -> list[nn.Parameter]:
        """Mark what is trained and return it: all weights of linear layers, and as asked for biases
        of linear layers and everything else in a block, which is its norms.
        """
        chosen = []
        for block in self.blocks:
            for module in block.modules():
                for name, parameter in module.named_parameters(recurse=False):
                    if isinstance(module, nn.Linear):
                        train = name == "weight" or train_biases
                    else:
                        train = train_norms
                    parameter.requires_grad_(train)
                    chosen += [parameter] if train else []
        return chosen

    def states(self, dtype: torch.dtype) -> Iterator[dict[str, Tensor]]:
        """Yield the weights of each block in the precision of a checkpoint.

        A kept weight that training or rounding brought to exactly 0 is made the least that is not.
        """
        for block, keep_masks in zip(self.blocks, self.keep_masks, strict=True):
            state = {name: value.to(dtype) for name, value in block.state_dict().items()}
            for name, keep in keep_masks.items():
                fill_kept_zeros_(state[f"{name}.weight"], keep)
            yield state

    def snapshot(self) -> list[dict[str, Tensor]]:
        """Return a copy of all weights."""
        return [{k: v.clone() for k, v in block.state_dict().items()} for block in self.blocks]

    def restore_(self, snapshot: list[dict[str, Tensor]]) -> None:
        """Put weights back."""
        for block, state in zip(self.blocks, snapshot, strict=True):
            block.load_state_dict(state)


def reconstruct_windows(
    model: StreamedModel,
    masks: Artifact,
    dense: Artifact,
    windows: Sequence[range],
    settings: Mapping[str, Any],
    seed: int,
    folder: Path,
    fingerprint: str,
    report: Report = silent,
) -> Artifact:
    """Adapt windows one after another and write one shard a block.

    Args:
        model: The dense model.
        masks: Which weights stay.
        dense: Dense hidden states at all block boundaries.
        windows: Which blocks each window holds.
        settings: An entry of `adaptations` with method `reconstruction`.
        seed: Decides the order of the sequences, for each window on its own.
        folder: Where the shards go.
        fingerprint: Digest of everything the result depends on.
        report: Told of each window.

    Raises:
        UserError: The masks or activations belong to another model, or a loss is not finite.
    """
    check_belongs(dense, "model", model.artifact)
    check_belongs(masks, "model", model.artifact)
    check_belongs(masks, "dense", dense)
    blocks = BlockPass(model, dense.facts["sequences"], dense.facts["length"])
    writer = ArtifactWriter(folder, KIND, fingerprint)
    for done, indices in enumerate(windows, 1):
        name = f"{indices.start}-{indices.stop - 1}"
        # A window is done when its last block is written.
        if not all(block_shard(index) in writer for index in indices):
            window = Window.load(model, masks, indices)
            inputs = open_hidden(dense.path(hidden_file(indices.start)))
            targets = open_hidden(dense.path(hidden_file(indices.stop)))
            order = derive_seed(seed, "reconstruction", name)
            facts = train_window_(window, inputs, targets, blocks, settings, order)
            log.info("blocks %s: %s", name, facts)
            for index, state in zip(indices, window.states(model.dtype), strict=True):
                tensors = {model.sharding.name(index, key): value for key, value in state.items()}
                write_shard(writer, block_shard(index), tensors, window=name, **facts)
        entry = writer.entry(block_shard(indices.start))
        note = f"windows (loss {entry['loss_before']:.3g} to {entry['loss_after']:.3g})"
        report(done, len(windows), note)
    return writer.finish(
        settings={"adaptation": dict(settings), "seed": seed},
        model=model.artifact.digest,
        masks=masks.digest,
    )


def train_window_(
    window: Window,
    inputs: Tensor,
    targets: Tensor,
    blocks: BlockPass,
    settings: Mapping[str, Any],
    seed: int,
) -> dict[str, Any]:
    """Train a window in place so that its outputs match the targets.

    Args:
        window: Pruned blocks.
        inputs: (sequences, length, d).
        targets: (sequences, length, d).
        blocks: How the model calls its blocks.
        settings: An entry of `adaptations`.
        seed: Of the order of the sequences.

    Returns:
        `loss_before` and `loss_after` on the first sequences, `steps`, and `kept_pruned`: whether
        training made the window worse, so that it was left as it was pruned.

    Raises:
        UserError: A loss is not finite.
    """
    before = window_loss(window, inputs, targets, blocks)
    snapshot = window.snapshot()
    parameters = window.trained(settings["train_norms"], settings["train_biases"])
    optimiser = torch.optim.AdamW(parameters, lr=0.0, weight_decay=0.0, fused=True)
    batch = settings["batch"]
    sequences = len(inputs)
    steps = settings["epochs"] * -(-sequences // batch)
    rates = iter(learning_rates(steps, settings["learning_rate"], settings["warmup"]))
    generator = torch.Generator().manual_seed(seed)
    losses = []
    for _ in range(settings["epochs"]):
        shuffled = torch.randperm(sequences, generator=generator)
        order = shuffled if settings["shuffle"] else torch.arange(sequences)
        for rows in order.split(batch):  # type: ignore[no-untyped-call]
            for group in optimiser.param_groups:
                group["lr"] = next(rates)
            outputs = window(inputs[rows].to(window.device), blocks.calls(len(rows)))
            loss = _loss(outputs, targets[rows].to(window.device))
            loss.backward()  # type: ignore[no-untyped-call]
            # A pruned weight is 0 and its gradient is made 0, so AdamW leaves it at exactly 0.
            for weight, keep in window.masked:
                if weight.grad is not None:
                    weight.grad.mul_(keep)
            optimiser.step()
            optimiser.zero_grad()
            losses.append(loss.detach())
        _check_finite(losses, window, settings)
    for block in window.blocks:
        block.requires_grad_(False)
    after = window_loss(window, inputs, targets, blocks)
    kept_pruned = not after <= before
    if kept_pruned:
        window.restore_(snapshot)
    return {
        "loss_before": before,
        "loss_after": before if kept_pruned else after,
        "steps": steps,
        "kept_pruned": kept_pruned,
    }


@torch.no_grad()
def window_loss(window: Window, inputs: Tensor, targets: Tensor, blocks: BlockPass) -> float:
    """Return the mean squared error of a window on the first sequences, 0-d, float32."""
    count = min(CHECK_SEQUENCES, len(inputs))
    losses = [
        _loss(
            window(inputs[row : row + 1].to(window.device), blocks.calls(1)),
            targets[row : row + 1].to(window.device),
        )
        for row in range(count)
    ]
    return float(torch.stack(losses).mean())


def _loss(outputs: Tensor, targets: Tensor) -> Tensor:
    return nn.functional.mse_loss(outputs.float(), targets.float())


def _check_finite(losses: list[Tensor], window: Window, settings: Mapping[str, Any]) -> None:
    # Once an epoch, not once a step: on a GPU each look at a loss waits for the device.
    values = torch.stack(losses)
    bad = torch.nonzero(~torch.isfinite(values))
    if len(bad):
        step = int(bad[0])
        raise UserError(
            f"reconstruction diverged in the window of blocks {window.indices.start} to "
            f"{window.indices.stop - 1}",
            where=f"step {step + 1}",
            found=f"loss {float(values[step])}; last finite loss "
            f"{float(values[step - 1]) if step else 'none'}",
            expected="a finite loss",
            todo=f"lower the learning rate (now {settings['learning_rate']}); windows finished "
            "before are kept",
        )
