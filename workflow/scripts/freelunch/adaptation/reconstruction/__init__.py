"""Local reconstruction: a window of the pruned model learns the dense model's output."""

from freelunch.study.steps import ADAPTED_BLOCKS

# Of the folders with its results, one shard a block.
KIND = ADAPTED_BLOCKS
