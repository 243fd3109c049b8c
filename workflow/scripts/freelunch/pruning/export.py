"""What sparsity buys: a checkpoint that is smaller on disk, or smaller altogether.

A packed checkpoint holds a bit for each weight, and the values of those that are not zero.
Unpacked, it is the same to the bit. A cut checkpoint lacks the heads and channels whose weights are
zero; it loads like any other and computes what the zeros compute, in less time and memory.
"""

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from freelunch.core.artifact import Artifact
from freelunch.core.artifact_writer import ArtifactWriter
from freelunch.core.errors import UserError, first_line, mend
from freelunch.core.files import scratch_folder
from freelunch.model import checkpoint
from freelunch.model.blocks import block_linears, has_bias
from freelunch.model.mask_store import pack, unpack
from freelunch.model.tensor_file import TensorFile
from freelunch.pruning.structured import Layout
from freelunch.study.families import OTHER_NAMES, sizes_of
from freelunch.study.steps import MODEL_CARD

PACKED = "packed checkpoint"
# What the names of a packed matrix's bits and values end in, and what those of its file begin with.
_BITS, _VALUES, _PREFIX = ".kept", ".values", "packed-"
# Tokens on which a cut checkpoint is compared with the whole one.
_COMPARED = 16


def export(source: Path, target: Path, form: str) -> Artifact:
    """Write a cell's checkpoint in a form of FORMS into a new folder, one shard after another.

    UserError: the target is there, the source is damaged, or it is no checkpoint; "plain" takes a
    packed one. For "cut", also: nothing can be cut, blocks differ in what they keep, the family's
    config cannot say how many heads are kept, or the logits on some tokens differ.
    """
    if target.exists():
        todo = "name a folder that is not there yet"
        raise UserError("the folder to export to is there already", where=target, todo=todo)
    try:
        Artifact(source, None)
        target.parent.mkdir(parents=True, exist_ok=True)
        with scratch_folder(target.with_name(f".{target.name}.part")) as scratch:
            folder = scratch / target.name
            FORMS[form](source, folder)
            folder.rename(target)
    except UserError as error:
        # What another module says of a damaged file is about a study whose name is not known here.
        advice = _TODO[form] if error.todo == mend() else error.todo
        facts = {key: getattr(error, key) for key in ("where", "found", "expected")}
        raise UserError(error.problem, **facts, todo=advice) from error
    return Artifact(target, None)


def _pack(source: Path, folder: Path) -> None:
    whole = Artifact(source, checkpoint.KIND)
    writer = ArtifactWriter(folder, PACKED, whole.digest)
    shards = [name for name in whole.files if name.endswith(".safetensors")]
    for shard in shards:
        tensors, shapes = _read(whole.path(shard)), {}
        for name, weight in list(tensors.items()):
            if weight.dim() != 2 or not weight.numel():
                continue
            # By its bits, a negative zero is no zero.
            keep = (weight.view(torch.uint8) != 0).reshape(*weight.shape, -1).any(dim=-1)
            # A matrix with few zeros would become larger.
            if keep.numel() < 8 * weight.element_size() * int((~keep).sum()):
                tensors |= {name + _BITS: pack(keep), name + _VALUES: weight[keep]}
                shapes[name] = list(tensors.pop(name).shape)
        writer.add(_PREFIX + shard, partial(save_file, tensors), shapes=shapes)
    _link_others(writer, whole)
    writer.finish(checkpoint=whole.facts)


def _unpack(source: Path, folder: Path) -> None:
    packed = Artifact(source, PACKED)
    writer = ArtifactWriter(folder, checkpoint.KIND, packed.digest)
    shards = [name for name in packed.files if name.startswith(_PREFIX)]
    for shard in shards:
        tensors = _read(packed.path(shard))
        for name, shape in packed.files[shard]["shapes"].items():
            keep, values = tensors.pop(name + _BITS), tensors.pop(name + _VALUES)
            tensors[name] = values.new_zeros(shape)
            tensors[name][unpack(keep, torch.Size(shape))] = values
        checkpoint.write_shard(writer, shard.removeprefix(_PREFIX), tensors)
    _link_others(writer, packed)
    checkpoint.finish_checkpoint(
        writer, [shard.removeprefix(_PREFIX) for shard in shards], **packed.facts["checkpoint"]
    )


def _cut(source: Path, folder: Path) -> None:
    model = checkpoint.StreamedModel(source)
    layout = Layout.of(model.config, "head")
    writer = ArtifactWriter(folder, checkpoint.KIND, model.artifact.digest)
    checkpoint.link_shard(writer, checkpoint.OUTER, model.artifact)
    kept = set()
    for index, block in model.load_blocks(range(model.num_blocks)):
        heads, channels = layout.kept_units(block)
        groups = heads.reshape(layout.groups, -1).sum(dim=1)
        shared = groups[groups > 0].tolist() or [0]
        kept |= {(int(heads.sum()), each, int(channels.sum())) for each in shared}
        masks = layout.keep_masks(block, heads, channels)
        for name, linear in block_linears(block).items():
            keep = masks[name]
            rows, columns = keep.any(dim=1), keep.any(dim=0)
            linear.weight = nn.Parameter(linear.weight[rows][:, columns], requires_grad=False)
            if has_bias(linear):
                linear.bias = nn.Parameter(linear.bias[rows], requires_grad=False)
        state = {
            model.sharding.name(index, key): value for key, value in block.state_dict().items()
        }
        checkpoint.write_shard(writer, checkpoint.block_shard(index), state)
    words = ["{} heads, {} for a key head, {} channels".format(*each) for each in sorted(kept)]
    whole = (layout.heads, layout.heads // layout.groups, channels.numel())
    if len(kept) != 1 or kept == {whole} or 0 in next(iter(kept)):
        raise UserError(
            "nothing can be cut that all blocks have",
            where=source,
            found=f"blocks with {'; '.join(words)}",
            expected=f"fewer than {whole[0]} heads or {whole[2]} channels, but some, and as many "
            "in every block",
            todo="prune heads and channels with a pattern sNN and scope: block, or pack instead",
        )
    ((heads_kept, of_key, width),) = kept
    config = json.loads(model.artifact.path(checkpoint.CONFIG).read_text())
    sizes = {
        "num_attention_heads": heads_kept,
        "num_key_value_heads": heads_kept // of_key,
        "intermediate_size": width,
        "head_dim": sizes_of(config)["head_dim"],
    }
    for name, size in sizes.items():
        others = OTHER_NAMES.get(name, ())
        config[next((other for other in others if other in config), name)] = size
    writer.add_text(checkpoint.CONFIG, json.dumps(config, indent=2) + "\n")
    _link_others(writer, model.artifact)
    checkpoint.finish_checkpoint(writer, model.sharding.shards, cut=model.artifact.digest)
    _compare(model, folder)


def _compare(whole: checkpoint.StreamedModel, folder: Path) -> None:
    """Refuse a cut checkpoint that transformers does not load, or that computes something else."""
    drawn = torch.Generator().manual_seed(0)
    ids = torch.randint(whole.config.vocab_size, (1, _COMPARED), generator=drawn)
    try:
        found = _logits(checkpoint.StreamedModel(folder), ids)
    # The shapes that transformers expects are others.
    except (RuntimeError, UserError) as error:
        raise UserError(
            "this family's config cannot say how many heads or channels are left",
            where=whole.folder,
            found=getattr(error, "found", None) or first_line(error),
            todo="pack the checkpoint instead",
        ) from error
    expected = _logits(whole, ids)
    apart = float((found - expected).norm() / expected.norm())
    # Rounding, through all blocks: half of the digits.
    if not apart <= torch.finfo(whole.dtype).eps ** 0.5:
        raise UserError(
            "the cut model computes something else than its zeros",
            where=whole.folder,
            found=f"logits that differ by {apart:.1e} of their norm",
            todo="report this model family; pack the checkpoint instead",
        )


def _logits(model: checkpoint.StreamedModel, ids: Tensor) -> Tensor:
    hidden, calls = model.embed(ids)
    for index, block in model.load_blocks(range(model.num_blocks)):
        hidden = calls[index](block, hidden)
    return model.logits(ids, hidden).float()


def _read(path: Path) -> dict[str, Tensor]:
    file = TensorFile(path)
    return {name: file.read(name) for name in file.entries}


def _link_others(writer: ArtifactWriter, source: Artifact) -> None:
    """Take over the config, unless there is one, the tokenizer, what else is no tensor, and the
    model's card, which has its licence.
    """
    for name in source.files:
        if not name.endswith(".safetensors") and name != checkpoint.INDEX and name not in writer:
            writer.link(name, source, name)
    card = source.folder / MODEL_CARD
    if MODEL_CARD not in source.files and card.is_file():
        writer.add_text(MODEL_CARD, card.read_text(encoding="utf-8"))


_WHOLE = "name the whole checkpoint of a cell; `make repair STUDY=...` makes its study whole again"
# What to do about a source that is damaged, or no checkpoint of the kind.
_TODO = {
    "packed": _WHOLE,
    "plain": "name what `freelunch export` packed; if it is damaged, export it again",
    "cut": _WHOLE,
}
FORMS: dict[str, Callable[[Path, Path], None]] = {
    "packed": _pack,
    "plain": _unpack,
    "cut": _cut,
}
