"""How much is passed at once: sizes that computing uses, and planning predicts from."""

# Tokens in a batch of a forward pass: enough to keep the matrix multiplications busy, few enough
# that an MLP's activations stay small beside its weights.
BATCH_TOKENS = 2048
# Tokens whose successors are predicted at a time: with a large vocabulary each takes a megabyte.
HEAD_PLACES = 256
# Sequences on which a step checks itself (the dense model's perplexity; a window before and after
# its reconstruction): a quarter of the default sample, so a check costs little.
CHECK_SEQUENCES = 8
