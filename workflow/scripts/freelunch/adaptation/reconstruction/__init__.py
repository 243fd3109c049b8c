"""Local reconstruction: a window of the pruned model learns the dense model's output."""

# Of the folders with its results, one shard a block.
KIND = "adapted blocks"
