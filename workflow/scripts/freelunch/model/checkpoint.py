"""A checkpoint: a folder with one shard per block, opened one block at a time.

`outer.safetensors` holds everything outside the blocks (embeddings, final norm, head), and
`block-000.safetensors` and so on hold one block each. An index names them, so that
`AutoModelForCausalLM.from_pretrained(folder)` loads the folder as it is. `StreamedModel` keeps only
the outer part in memory, and loads blocks on request.
"""

import copy
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedConfig

from freelunch.core.artifact import Artifact
from freelunch.core.artifact_writer import ArtifactWriter, Files
from freelunch.core.errors import UserError, first_line
from freelunch.model.blocks import BlockCall, Outer, block_linears, find_blocks, has_bias
from freelunch.model.tensor_file import TensorFile
from freelunch.model.transfer import load_ahead, read_tensor
from freelunch.study.families import tested
from freelunch.study.steps import CHECKPOINT

OUTER = "outer.safetensors"
INDEX = "model.safetensors.index.json"
CONFIG = "config.json"
KIND = CHECKPOINT


def block_shard(index: int) -> str:
    """Return the file name of a block's shard."""
    return f"block-{index:03d}.safetensors"


def folder_of_texts(model: Artifact) -> Path:
    """Return the folder of a checkpoint, to read its config and its tokenizer from; UserError if a
    file other than a shard differs from what the manifest says.
    """
    for name in model.files:
        if not name.endswith(".safetensors"):
            model.path(name)
    return model.folder


def load_config(folder: Path) -> PreTrainedConfig:
    """Return the model's config; code in a checkpoint is never run. UserError if transformers does
    not know the family.
    """
    try:
        config = AutoConfig.from_pretrained(folder, trust_remote_code=False)
    # Whatever a damaged or hostile config makes transformers raise.
    except Exception as error:
        raise UserError(
            "transformers cannot read this model's config",
            where=folder / CONFIG,
            found=first_line(error),
            expected=f"a family that transformers itself implements; {tested()}",
            todo="correct the file, or use another model",
        ) from error
    # Models with several parts (text, vision) keep the decoder's shapes in a config of its own, and
    # the precision, which all parts share, outside.
    decoder: PreTrainedConfig = config.get_text_config(decoder=True)
    decoder.dtype = decoder.dtype or config.dtype
    return decoder


def meta_model(config: PreTrainedConfig) -> nn.Module:
    """Return the model's module tree without memory for its weights; UserError if transformers has
    no causal language model of this family.
    """
    try:
        with torch.device("meta"):
            model: nn.Module = AutoModelForCausalLM.from_config(  # type: ignore[no-untyped-call]
                config, trust_remote_code=False
            )
    # Whatever a damaged or hostile config makes transformers raise.
    except Exception as error:
        raise UserError(
            "transformers cannot build a causal language model from this config",
            where=config.model_type,
            found=first_line(error),
            expected=f"a decoder-only causal language model; {tested()}",
            todo="use another model",
        ) from error
    return model.eval()


class Sharding:
    """Which shard holds a tensor, by its name; `path` is the dotted name of the list of blocks."""

    def __init__(self, path: str, num_blocks: int) -> None:
        self.path, self.num_blocks = path, num_blocks
        self._block = re.compile(re.escape(path) + r"\.(\d+)\.")

    def shard(self, name: str) -> str:
        """Return the shard that holds a tensor."""
        match = self._block.match(name)
        return OUTER if match is None else block_shard(int(match[1]))

    def name(self, block: int, name: str) -> str:
        """Return the checkpoint's name for a tensor of a block."""
        return f"{self.path}.{block}.{name}"

    @property
    def shards(self) -> list[str]:
        """All shards, the outer one first."""
        return [OUTER, *map(block_shard, range(self.num_blocks))]


def write_shard(
    writer: ArtifactWriter, shard: str, tensors: Mapping[str, Tensor], **facts: Any
) -> None:
    """Add a shard to a checkpoint; the manifest keeps its tensors' names, for the index."""
    contiguous = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    writer.add(
        shard,
        lambda path: save_file(contiguous, path, metadata={"format": "pt"}),
        tensors=sorted(contiguous),
        tensor_bytes=sum(tensor.nbytes for tensor in contiguous.values()),
        **facts,
    )


def link_shard(writer: ArtifactWriter, shard: str, source: Artifact, **facts: Any) -> None:
    """Add a shard of another artifact, stored once; no tensor is read for it."""
    facts |= {key: source.files[shard][key] for key in ("tensors", "tensor_bytes")}
    writer.link(shard, source, shard, **facts)


def finish_checkpoint(writer: ArtifactWriter, shards: list[str], **facts: Any) -> Artifact:
    """Write the index, which makes the folder loadable, then the manifest."""
    entries = {shard: writer.entry(shard) for shard in shards}
    index = {
        "metadata": {"total_size": sum(entry["tensor_bytes"] for entry in entries.values())},
        "weight_map": {
            name: shard for shard, entry in sorted(entries.items()) for name in entry["tensors"]
        },
    }
    writer.add_text(INDEX, json.dumps(index, indent=1) + "\n")
    return writer.finish(**facts)


class StreamedModel:
    """A causal language model with only its outer part in memory, on the device where passes run.
    `dtype` is the precision of weights and passes, `num_blocks` the number of decoder blocks.
    """

    def __init__(self, folder: Path, device: torch.device | str = "cpu") -> None:
        self.artifact = Artifact(folder, KIND)
        self.folder = folder
        self.device = torch.device(device)
        self.config = load_config(folder_of_texts(self.artifact))
        self.dtype: torch.dtype = self.config.dtype or torch.float32  # type: ignore[assignment]
        self.num_blocks: int = self.config.num_hidden_layers
        self._model = meta_model(self.config)
        self.sharding = Sharding(find_blocks(self._model, self.num_blocks), self.num_blocks)
        self._meta_blocks: nn.ModuleList = self._model.get_submodule(self.sharding.path)  # type: ignore[assignment]
        self._adopt_outer()
        self.outer = Outer(self._model, self.sharding.path, folder)

    def load_block(self, index: int, changed: Files | None = None) -> nn.Module:
        """Return a new copy of a block, in eval mode and without gradients, in memory of its own. A
        `changed` block has its shard elsewhere. Its linear layers may have a bias that the dense
        model lacks.
        """
        block = copy.deepcopy(self._meta_blocks[index])
        state = self._read(changed or self.artifact, index)
        for name, linear in block_linears(block).items():
            if changed is not None and not has_bias(linear) and f"{name}.bias" in state:
                linear.bias = nn.Parameter(state[f"{name}.bias"], requires_grad=False)
        block.load_state_dict(state, assign=True)
        self._make_constants_(block)
        absent = [name for name, buffer in block.named_buffers() if buffer.is_meta]
        if absent:
            raise UserError(
                "a block keeps buffers that its checkpoint does not hold",
                where=self.folder / block_shard(index),
                found=", ".join(absent),
                todo="report this model family; it cannot be streamed yet",
            )
        return block.requires_grad_(False).eval()

    def _make_constants_(self, block: nn.Module) -> None:
        """Let transformers make the buffers that no checkpoint holds, such as GPT-Neo's masks, of
        modules that it would draw no parameter of.
        """
        for module in block.modules():
            if any(it.is_meta for it in module.buffers(recurse=False)) and not module._parameters:
                module.to_empty(device=self.device, recurse=False)
                self._model._init_weights(module)  # type: ignore[operator]

    def load_linear(self, index: int, name: str) -> nn.Linear:
        """Return a new copy of one linear layer of a block, as `load_block` does."""
        linear: nn.Linear = copy.deepcopy(self._meta_blocks[index].get_submodule(name))  # type: ignore[assignment]
        linear.load_state_dict(self._read(self.artifact, index, f"{name}."), assign=True)
        return linear.requires_grad_(False).eval()

    def load_blocks(self, indices: Iterable[int]) -> Iterator[tuple[int, nn.Module]]:
        """Yield blocks by their indices; the next one is read while the caller works on one."""
        return load_ahead(self.device, indices, self.load_block)

    def shapes_of_block(self) -> nn.Module:
        """Return a block whose parameters have shapes but no values; all blocks are alike."""
        return self._meta_blocks[0]

    @torch.no_grad()
    def embed(self, input_ids: Tensor, **arguments: Any) -> tuple[Tensor, list[BlockCall]]:
        """As `Outer.embed`."""
        return self.outer.embed(input_ids, **arguments)

    def calls(self, batch: int, length: int) -> list[BlockCall]:
        """As `Outer.calls`."""
        return self.outer.calls(batch, length)

    @torch.no_grad()
    def logits(self, input_ids: Tensor, hidden: Tensor) -> Tensor:
        """As `Outer.logits`."""
        return self.outer.logits(input_ids, hidden)

    def outer_tensors(self) -> dict[str, Tensor]:
        """Return the tensors outside the blocks, by their names in the checkpoint."""
        return load_file(self.artifact.path(OUTER))

    def _read(self, files: Files, index: int, module: str = "") -> dict[str, Tensor]:
        """Return the tensors of a block, or of a module in it, by their names there."""
        shard = TensorFile(files.path(block_shard(index)))
        prefix = self.sharding.name(index, module)
        # When a whole block is read, `load_state_dict` refuses tensors that the block lacks.
        return {
            name.removeprefix(prefix): read_tensor(shard, name, self.device).to(self.dtype)
            for name in shard.entries
            if not module or name.startswith(prefix)
        }

    def _adopt_outer(self) -> None:
        """Give the module tree its outer weights and buffers.

        transformers itself loads a model without blocks, so that ties, scalings and rotary
        frequencies are its own; the modules then take their places beside the (still empty) blocks.
        """
        config = copy.deepcopy(self.config)
        # Keep all of `layer_types`: Gemma 3 makes rotary frequencies for each type in it.
        config.num_hidden_layers = 0
        # Given a state dict, transformers opens no shard; it would otherwise map all of them.
        outer = type(self._model).from_pretrained(  # type: ignore[attr-defined]
            None, config=config, dtype=self.dtype, state_dict=self.outer_tensors()
        )
        outer.to(self.device)
        path = self.sharding.path.split(".")
        for depth in range(len(path)):
            here = ".".join(path[:depth])
            source, target = outer.get_submodule(here), self._model.get_submodule(here)
            for name, module in source.named_children():
                if name != path[depth]:
                    setattr(target, name, module)
            for name, parameter in source.named_parameters(recurse=False):
                setattr(target, name, parameter)
            for name, buffer in source.named_buffers(recurse=False):
                setattr(target, name, buffer)
        blocks = self.sharding.path + "."
        tensors = [*self._model.named_parameters(), *self._model.named_buffers()]
        absent = [name for name, value in tensors if value.is_meta and not name.startswith(blocks)]
        if absent:
            raise UserError(
                "the checkpoint lacks weights outside the blocks",
                where=self.folder / OUTER,
                found=f"no {', '.join(absent)}",
            )
