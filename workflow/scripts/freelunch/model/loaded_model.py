"""A model that somebody has loaded with transformers, read in place like a checkpoint on disk."""

import copy
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, get_args

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from freelunch.core.artifact_writer import ArtifactWriter, Files
from freelunch.core.errors import UserError, first_of
from freelunch.model.blocks import block_linears, check_blocks, find_blocks, has_bias
from freelunch.model.checkpoint import CONFIG, KIND, OUTER, StreamedModel
from freelunch.model.mask_store import Pruned, mask_, write_pruned_block
from freelunch.study.families import tested
from freelunch.study.sources import Dtype

_DTYPES = [getattr(torch, name) for name in get_args(Dtype)]


class LoadedModel(StreamedModel):
    """A model in memory, which stays as it is: blocks are read from it as copies, on its device,
    and `folder` gets its config and tokenizer alone.

    UserError: it is on the meta device or on several devices, has another dtype than ours or
    several, or is not a decoder whose blocks hold all of their matrices in linear layers.
    """

    def __init__(self, module: PreTrainedModel, folder: Path, tokenizer: Any = None) -> None:
        self.module, self._state = module, module.state_dict()
        devices = {tensor.device for tensor in (*module.parameters(), *module.buffers())}
        dtypes = {parameter.dtype for parameter in module.parameters()}
        if (
            len(devices | dtypes) > 2
            or torch.device("meta") in devices
            or not dtypes.issubset(_DTYPES)
        ):
            raise UserError(
                "this model is not in the memory of one device in one dtype",
                where=type(module).__name__,
                found=", ".join(sorted(map(str, devices | dtypes))),
                expected=f"a single device, not meta, and one of: {', '.join(get_args(Dtype))}",
                todo="load it with `dtype=`, without quantisation, and with `device_map` to one "
                "device, if any",
            )
        config = copy.deepcopy(module.config.get_text_config(decoder=True))
        config.dtype = dtypes.pop()
        writer = ArtifactWriter(folder, KIND, "loaded")
        if tokenizer is not None:
            tokenizer.save_pretrained(folder / "tokenizer")
            for file in filter(Path.is_file, sorted((folder / "tokenizer").iterdir())):
                writer.add(file.name, file.replace)
        writer.add_text(CONFIG, config.to_json_string(use_diff=False))
        writer.finish()
        check_blocks(module, find_blocks(module, config.num_hidden_layers))
        super().__init__(folder, devices.pop())

    def outer_tensors(self) -> dict[str, Tensor]:
        """Return the tensors outside the blocks, which share their memory with the model's."""
        tied = getattr(self._model, "all_tied_weights_keys", None) or {}
        if missing := sorted(self._model.state_dict().keys() - self._state.keys()):
            raise UserError(
                "this model has other tensors than the decoder of its config",
                where=type(self.module).__name__,
                found=f"no {', '.join(first_of(missing, 3))}",
                expected=f"{type(self._model).__name__}, as transformers loads it; {tested()}",
                todo="take the language model out of what wraps it, such as an adapter's model",
            )
        shard = self.sharding.shard
        return {
            name: tensor
            for name, tensor in self._state.items()
            if shard(name) == OUTER and name not in tied
        }

    def write_difference(self, other: "LoadedModel", writer: ArtifactWriter) -> None:
        """Write, as masks and changed parameters of this dense model, what a pruned one of its
        architecture differs by: its zeros are the masks.
        """
        for index in range(self.num_blocks):
            dense, block = self.load_block(index), other.load_block(index)
            pruned = Pruned({name: each.weight != 0 for name, each in block_linears(block).items()})
            with torch.no_grad():
                for name, linear in block_linears(dense).items():
                    mask_(linear.weight, pruned.masks[name])
            before = dense.state_dict()
            for name, value in block.state_dict().items():
                if name not in before or not torch.equal(before[name], value):
                    pruned.changed[name] = value
            write_pruned_block(writer, self, index, dense, pruned)

    def _read(self, files: Files, index: int, module: str = "") -> dict[str, Tensor]:
        if files is not self.artifact:
            return super()._read(files, index, module)
        prefix = self.sharding.name(index, module)
        return {
            name.removeprefix(prefix): tensor.detach().clone()
            for name, tensor in self._state.items()
            if name.startswith(prefix)
        }


def blocks_of(module: PreTrainedModel) -> nn.ModuleList:
    """Return the decoder blocks of a model; UserError as in `find_blocks`."""
    config = module.config.get_text_config(decoder=True)
    return module.get_submodule(find_blocks(module, config.num_hidden_layers))  # type: ignore[return-value]


def copied(
    module: PreTrainedModel,
    blocks: Iterable[nn.Module],
    outer: Mapping[str, Tensor] | None = None,
    config: dict[str, Any] | None = None,
) -> PreTrainedModel:
    """Return a copy of a model with the values of these blocks, of some tensors outside of them,
    and with some other settings of its config.
    """
    made = copy.deepcopy(module)
    made.config.update(config or {})
    for target, block in zip(blocks_of(made), blocks, strict=True):
        linears = block_linears(target)
        for name, linear in block_linears(block).items():
            if has_bias(linear) and not has_bias(linears[name]):
                linears[name].bias = nn.Parameter(torch.zeros_like(linear.bias))
        target.load_state_dict(block.state_dict())
    made.load_state_dict(outer or {}, strict=False)
    return made
