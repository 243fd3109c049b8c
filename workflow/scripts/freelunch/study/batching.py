"""Batch sizes that computing uses and planning predicts costs from."""

# Tokens in a batch of a forward pass: enough to keep the matrix multiplications busy, few enough
# that an MLP's activations stay small beside its weights.
BATCH_TOKENS = 2048
# Tokens whose logits are computed at a time: with a large vocabulary each token takes a megabyte.
HEAD_PLACES = 256
# Sequences on which a step checks itself (the dense model's perplexity, a window's loss before and
# after reconstruction): a quarter of the default sample, so a check costs little.
CHECK_SEQUENCES = 8
