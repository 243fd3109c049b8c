"""Which hidden states of the dense pass stay on disk: `keep_hidden_states` of a study."""

ALL, NONE, EVERY = "all", "none", "every_"


def kept_boundaries(keep: str, num_blocks: int) -> frozenset[int]:
    """Return the kept block boundaries: 0 is before the first block, i + 1 after block i.

    Args:
        keep: `all`, `none`, or `every_k`, which keeps every k-th boundary and also the last one,
            the target of the last window.
        num_blocks: Number of decoder blocks in the model.
    """
    if keep == NONE:
        return frozenset()
    step = 1 if keep == ALL else int(keep.removeprefix(EVERY))
    return frozenset({*range(0, num_blocks + 1, step), num_blocks})
