"""The criteria of single weights in plain loops, from the papers' formulas."""

import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from fractions import Fraction

import torch
from torch import Tensor, nn

from freelunch.model.blocks import block_linears
from freelunch.study.criteria import Criterion

# The score of a weight w = W_ij, given its row W_i, its column W_:j, the values X_j of its input on
# all tokens, and the criterion's settings.
SLOW = {
    "magnitude": lambda w, row, column, x, settings: abs(w),
    "wanda": lambda w, row, column, x, settings: abs(w) * norm(x),
    "ria": lambda w, row, column, x, settings: (
        (abs(w) / absolute_sum(column) + abs(w) / absolute_sum(row)) * norm(x) ** settings.exponent
    ),
}
SCORES = tuple(SLOW)
OF_WEIGHTS = ("random", *SCORES, "sparsegpt", "alps")


def norm(values: Sequence[float]) -> float:
    return math.sqrt(sum(value * value for value in values))


def absolute_sum(values: Sequence[float]) -> float:
    return sum(abs(value) for value in values)


def slow_scores(
    name: str, weight: Tensor, inputs: Tensor, settings: Criterion
) -> list[list[float]]:
    """Return the score of each weight; `inputs` are (tokens, in)."""
    rows, columns, features = weight.tolist(), weight.T.tolist(), inputs.T.tolist()
    return [
        [
            SLOW[name](w, row, column, x, settings)
            for w, column, x in zip(row, columns, features, strict=True)
        ]
        for row in rows
    ]


def compared(rows: int, columns: int, pattern: str, scope: str) -> Iterator[list[tuple[int, int]]]:
    """Yield the indices of each set of weights that are compared with each other."""
    if "of" in pattern:
        size = int(pattern.partition("of")[2])
        for i in range(rows):
            for start in range(0, columns, size):
                yield [(i, j) for j in range(start, start + size)]
    elif scope == "row":
        for i in range(rows):
            yield [(i, j) for j in range(columns)]
    else:
        yield [(i, j) for i in range(rows) for j in range(columns)]


def slow_mask(scores: list[list[float]], pattern: str, scope: str) -> Tensor:
    """Return the mask that prunes the lowest share of each set of weights that are compared."""
    zeros, _, group = pattern.partition("of")
    share = Fraction(int(zeros), int(group)) if group else Fraction(int(pattern[1:]), 100)
    rows, columns = len(scores), len(scores[0])
    keep = torch.ones(rows, columns, dtype=torch.bool)
    for places in compared(rows, columns, pattern, scope):
        ranked = sorted((scores[i][j], i, j) for i, j in places)
        for _, i, j in ranked[: math.floor(share * len(places))]:
            keep[i, j] = False
    return keep


@torch.no_grad()
def inputs_of_linears(
    model: nn.Module, blocks: Iterable[nn.Module], input_ids: Tensor
) -> list[dict[str, Tensor]]:
    """Return, for each of some blocks, what a whole model of transformers feeds its linear layers
    while one sequence after another passes, (tokens, features).
    """
    seen: list[dict[str, list[Tensor]]] = []
    handles = []

    def note(of_layer: list[Tensor]) -> Callable[..., None]:
        return lambda _, args: of_layer.append(args[0].flatten(0, -2))

    for block in blocks:
        of_block: dict[str, list[Tensor]] = defaultdict(list)
        seen.append(of_block)
        for name, linear in block_linears(block).items():
            handles.append(linear.register_forward_pre_hook(note(of_block[name])))
    for ids in input_ids:
        model(input_ids=ids[None], use_cache=False)
    for handle in handles:
        handle.remove()
    return [{name: torch.cat(parts) for name, parts in of.items() if parts} for of in seen]
