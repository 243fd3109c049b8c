"""The families that work, as transformers calls them: a tiny model of each is pruned, adapted, and
loaded by transformers. `python tests/model/test_which_families_work.py` makes a page of it,
docs/guide/families.md, which lists no other.
"""

import tempfile
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from freelunch.core.errors import UserError
from freelunch.costs.shapes import Shapes
from freelunch.model.blocks import block_linears
from freelunch.model.checkpoint import StreamedModel, meta_model
from freelunch.model.mask_store import assemble_model
from freelunch.study.families import biases_of, family_of, units_of
from freelunch.study.windows import MATRIX
from repository import ROOT
from slow_units import streamed_logits
from tiny_models import FAMILIES, UNNAMED, prepare, random_tokens, reconstruct

PAGE = ROOT / "docs" / "guide" / "families.md"
COLUMNS = ("family", "`window: attention_mlp`", "heads and channels (`sNN`)", "`bias_compensation`")
HEAD = """# Families that work

A test prunes a tiny model of each of these families, as `model_type` in a model's config.json names
it, adapts it, and compares it with transformers' own forward pass. All take every criterion and
pattern of single weights, every window of blocks and matrices, and every retraining method. The
columns say what else they take; `sometimes` depends on a setting of the model's config. Made by
`python tests/model/test_which_families_work.py`.

"""
HEAD += f"| {' | '.join(COLUMNS)} |\n|{'---|' * len(COLUMNS)}\n"
NAMES = sorted({*FAMILIES, *UNNAMED})


def allows(check: Any, family: str) -> str:
    try:
        check(family)
    except UserError:
        return "no"
    return "yes"


def row_of(family: str) -> str:
    """Return a family's row of the page."""
    halves = "no"
    if family in FAMILIES:
        halves = "sometimes" if family_of(family).wholes else "yes"
    cells = [halves, *(allows(check, family) for check in (units_of, biases_of))]
    return f"| {' | '.join([family, *cells])} |\n"


@torch.no_grad()
def check_family(base: Path, family: str) -> None:
    """Take a tiny model of a family through the steps of a study, and compare its logits."""
    prepared = prepare(base, family)
    model, input_ids = prepared.model, random_tokens(3)

    def compare(folder: Path) -> torch.Tensor:
        own = AutoModelForCausalLM.from_pretrained(folder)
        expected: torch.Tensor = own(input_ids=input_ids, use_cache=False).logits
        found = streamed_logits(StreamedModel(folder), input_ids)
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)
        return expected

    logits = [compare(model.folder)]
    for window in (1, MATRIX):
        with torch.enable_grad():
            adapted = reconstruct(prepared, base / f"adapted-{window}", window=window)
        folder = base / f"checkpoint-{window}"
        assemble_model(model, prepared.masks, [adapted], folder, f"{window}")
        logits.append(compare(folder))
        losses = [it for entry in adapted.files.values() for it in entry["windows"].values()]
        assert sum(it["loss_after"] for it in losses) < sum(it["loss_before"] for it in losses)
    assert len({each.sum().item() for each in logits}) == 3, "nothing was pruned or adapted"
    # The plan counts the weights that are there, from a config as the hub has it.
    linears = block_linears(model.load_block(0)).values()
    tensors = [linear.weight for linear in linears]
    for config in (model.config.to_dict(), {"model_type": family} | model.config.to_diff_dict()):
        shapes = Shapes.of(config, "float32")
        assert shapes.block_weights == sum(tensor.numel() for tensor in tensors)
        outer = meta_model(model.config)
        ends = {
            id(it.weight): it.weight
            for it in (outer.get_input_embeddings(), outer.get_output_embeddings())
        }
        assert shapes.outer_weights == sum(tensor.numel() for tensor in ends.values())


@pytest.mark.parametrize("family", NAMES)
def test_a_family_works_and_is_on_the_page(family: str, tmp_path: Path) -> None:
    check_family(tmp_path, family)
    assert row_of(family) in PAGE.read_text()


def test_the_page_lists_no_other_family() -> None:
    assert PAGE.read_text() == HEAD + "".join(map(row_of, NAMES))


if __name__ == "__main__":
    for name in NAMES:
        with tempfile.TemporaryDirectory() as scratch:
            check_family(Path(scratch), name)
    PAGE.write_text(HEAD + "".join(map(row_of, NAMES)))
