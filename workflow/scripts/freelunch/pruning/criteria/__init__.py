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
`"x-gram": true`, by which the plan knows it; there a module with `prune` says `"x-changes": true`,
and one of units `"x-structured": true`.
"""

import importlib
from collections.abc import Mapping
from importlib.util import find_spec
from types import ModuleType
from typing import Any

from freelunch.core.errors import UserError

FUNCTIONS = ("score", "unit_score", "prune")


def load(score: str) -> ModuleType:
    """Return the module of a criterion.

    It is imported by name, so that a rule can depend on the criterion it uses and on no other.

    Raises:
        UserError: There is none of this name, or it has not one of the three functions.
    """
    name = f"freelunch.pruning.criteria.{score}"
    where = f"workflow/scripts/freelunch/pruning/criteria/{score}.py"
    if find_spec(name) is None:
        raise UserError(
            "a criterion of the schema has no module",
            where=where,
            todo="write it, or remove the criterion's definition from config.schema.json",
        )
    module = importlib.import_module(name)
    found = [function for function in FUNCTIONS if hasattr(module, function)]
    if len(found) != 1:
        raise UserError(
            "this module is no criterion",
            where=where,
            found=f"functions {', '.join(found)}" if found else "none of its functions",
            expected=f"exactly one of the names {', '.join(FUNCTIONS)}",
            todo="define one; import another criterion's module, not its function",
        )
    return module


def needs_gram(criterion: Mapping[str, Any]) -> bool:
    """Tell whether an entry of `criteria` needs the Gram matrices of the inputs."""
    swaps: int = criterion.get("swaps", 0)
    return swaps > 0 or getattr(load(criterion["score"]), "NEEDS_GRAM", False)


def changes_parameters(criterion: Mapping[str, Any]) -> bool:
    """Tell whether an entry of `criteria` changes parameters besides making weights 0."""
    bias: bool = criterion.get("bias_compensation", False)
    return bias or hasattr(load(criterion["score"]), "prune")
