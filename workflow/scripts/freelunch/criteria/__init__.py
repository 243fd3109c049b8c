"""Pruning criteria: what a weight, or a whole unit, is worth.

A criterion is one module here; its name is the `score` of an entry of `criteria` in the config, and
the schema's definition `criterion_<name>` has its settings. The module has one of three functions:

- `score(weight, statistics, settings)` gives every weight a score, (out, in), float32;
- `unit_score(weight, statistics, settings)` gives every input of an output projection a score,
  (in,), float32, from which heads and channels get theirs;
- `prune(weight, statistics, pattern, settings, where)` prunes by itself, where choosing weights and
  changing others go together.

The lowest scores go. `weight` is (out, in); `statistics` are of its input; `settings` are the
entry's, and a `seed` that differs from matrix to matrix. A criterion is a pure function of these. A
module that reads Gram matrices says `NEEDS_GRAM = True`, and its definition in the schema
`"x-gram": true`, by which the plan knows it; one of units says `"x-structured": true` there.
"""

import importlib
from collections.abc import Mapping
from types import ModuleType
from typing import Any


def load(score: str) -> ModuleType:
    """Return the module of a criterion.

    It is imported by name, so that a rule can depend on the criterion it uses and on no other.
    """
    return importlib.import_module(f"freelunch.criteria.{score}")


def needs_gram(criterion: Mapping[str, Any]) -> bool:
    """Tell whether an entry of `criteria` needs the Gram matrices of the inputs."""
    swaps: int = criterion.get("swaps", 0)
    return swaps > 0 or getattr(load(criterion["score"]), "NEEDS_GRAM", False)
