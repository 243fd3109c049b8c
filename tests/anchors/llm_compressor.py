"""Prune a model with llm-compressor; `anchors.py` calls this in an environment of its own.

    llm_compressor.py MODEL TOKENS CRITERION PATTERN STATISTICS OUTPUT

MODEL is a checkpoint and TOKENS a file with the token ids of the calibration sample, (samples,
length). PATTERN is ours: `u50`, `2of4`. STATISTICS says of which model the inputs are: `dense`, one
pass before anything is pruned (llm-compressor's pipeline `basic`), or `sparse`, block by block
behind pruned blocks (its pipeline `sequential`, which it takes by default). OUTPUT is the folder
for the pruned checkpoint.
"""

import re
import sys
from pathlib import Path

from llmcompressor import oneshot
from llmcompressor.modifiers import Modifier
from llmcompressor.modifiers.pruning.sparsegpt import SparseGPTModifier
from llmcompressor.modifiers.pruning.wanda import WandaPruningModifier
from safetensors.torch import load_file
from torch.utils.data import DataLoader
from transformers import AutoModelForCausalLM

CRITERIA = {"wanda": WandaPruningModifier, "sparsegpt": SparseGPTModifier}
PIPELINES = {"dense": "basic", "sparse": "sequential"}
# Sequences in a batch: as many tokens as our own batches hold. Its default is one sequence.
BATCH = 8


def modifier(criterion: str, pattern: str) -> Modifier:
    """Return the recipe's only modifier."""
    group = re.fullmatch(r"(\d+)of(\d+)", pattern)
    share = int(group[1]) / int(group[2]) if group else int(pattern.removeprefix("u")) / 100
    structure = "0:0" if group is None else f"{group[1]}:{group[2]}"
    # Without `ignore`, it prunes the output head, too.
    return CRITERIA[criterion](sparsity=share, mask_structure=structure, ignore=["re:.*lm_head"])


def main(
    model: str, tokens: str, criterion: str, pattern: str, statistics: str, output: str
) -> None:
    rows = load_file(tokens)["input_ids"]
    loaded = AutoModelForCausalLM.from_pretrained(model, dtype="auto")
    oneshot(
        model=loaded,
        dataset=DataLoader([{"input_ids": row} for row in rows], batch_size=BATCH),
        recipe=[modifier(criterion, pattern)],
        pipeline=PIPELINES[statistics],
        num_calibration_samples=len(rows),
    )
    loaded.save_pretrained(Path(output))


if __name__ == "__main__":
    main(*sys.argv[1:])
