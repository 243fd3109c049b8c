"""Local reconstruction: a window of the pruned model learns the dense model's output."""

from freelunch.study.steps import ADAPTED_BLOCKS

# Kind of the artifacts that hold adapted blocks, one shard per block.
KIND = ADAPTED_BLOCKS
