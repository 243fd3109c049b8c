"""The criteria of single weights by plain loops, from the papers' formulas."""

import math
from collections.abc import Iterator
from fractions import Fraction

import torch
from torch import Tensor

SCORES = ("magnitude", "wanda", "ria")
OF_WEIGHTS = ("random", *SCORES, "sparsegpt")


def slow_scores(name: str, weight: Tensor, inputs: Tensor, exponent: float) -> list[list[float]]:
    """Return what each weight is worth.

    Magnitude: abs(W_ij). Wanda: abs(W_ij) ||X_j||, with the norm over all tokens. RIA:
    (abs(W_ij) / sum over k of abs(W_kj) + abs(W_ij) / sum over k of abs(W_ik)) ||X_j||^exponent.
    """
    size = [[abs(value) for value in row] for row in weight.tolist()]
    norms = [math.sqrt(sum(x * x for x in feature)) for feature in inputs.T.tolist()]
    rows, columns = range(len(size)), range(len(norms))
    if name == "magnitude":
        return size
    if name == "wanda":
        return [[size[i][j] * norms[j] for j in columns] for i in rows]
    of_row = [sum(size[i][k] for k in columns) for i in rows]
    of_column = [sum(size[k][j] for k in rows) for j in columns]
    return [
        [
            (size[i][j] / of_column[j] + size[i][j] / of_row[i]) * norms[j] ** exponent
            for j in columns
        ]
        for i in rows
    ]


def compared(rows: int, columns: int, pattern: str, scope: str) -> Iterator[list[tuple[int, int]]]:
    """Yield the places of weights that are compared with each other."""
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
    """Prune the share of each set of compared weights that is worth the least."""
    zeros, _, group = pattern.partition("of")
    share = Fraction(int(zeros), int(group)) if group else Fraction(int(pattern[1:]), 100)
    rows, columns = len(scores), len(scores[0])
    keep = torch.ones(rows, columns, dtype=torch.bool)
    for places in compared(rows, columns, pattern, scope):
        ranked = sorted((scores[i][j], i, j) for i, j in places)
        for _, i, j in ranked[: math.floor(share * len(places))]:
            keep[i, j] = False
    return keep
