"""Patterns of single weights in every family: exact zeros, and a checkpoint that loads anywhere."""

from pathlib import Path

import pytest

from freelunch.model.checkpoint import StreamedModel
from freelunch.study.patterns import Pattern
from slow_units import (
    SEQUENCES,
    assembled,
    assert_equal_logits,
    blocks_of,
    logits_of,
    masks_of,
    streamed_logits,
    transformers_model,
)
from tiny_models import OTHERS, prepare, prune, random_tokens

PATTERNS = {"u50": "ria", "2of4": "sparsegpt", "4of8": "wanda"}


@pytest.mark.parametrize("family", OTHERS)
def test_every_pattern(family: str, tmp_path: Path) -> None:
    prepared = prepare(tmp_path, family, sequences=SEQUENCES)
    for name, score in PATTERNS.items():
        masks = prune(prepared.model, prepared.dense, tmp_path / name, score, name)
        made = assembled(prepared, masks, tmp_path / f"{name}-pruned")
        own = transformers_model(made)
        pattern = Pattern.parse(name)
        blocks = blocks_of(prepared, own)
        for block, keep_masks in zip(blocks, masks_of(prepared, masks), strict=True):
            for linear, keep in keep_masks.items():
                groups = keep.reshape(len(keep), -1, pattern.group or keep.shape[1])
                zeros = pattern.zeros_in_group(groups.shape[-1])
                assert ((~groups).sum(-1) == zeros).all(), f"{name}: {linear}"
                assert (block.get_submodule(linear).weight[~keep] == 0).all()
        input_ids = random_tokens(2, seed=1)
        found = streamed_logits(StreamedModel(made.folder), input_ids)
        assert_equal_logits(found, logits_of(own, input_ids))
