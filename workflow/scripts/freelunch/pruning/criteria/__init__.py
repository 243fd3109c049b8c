"""Pruning criteria: what a weight, or a whole unit, is worth.

A criterion is one module here, and one class of settings in `freelunch.study.criteria`; the class's
`score` is the module's name. The module has one of three functions:

- `score(weight, statistics, settings, seed)` gives every weight a score, (out, in), float32;
- `unit_score(weight, statistics, settings)` gives every input of an output projection a score,
  (in,), float32, from which heads and channels get theirs;
- `prune(weight, statistics, pattern, settings, where)` prunes by itself, where choosing weights and
  changing others go together.

The lowest scores are pruned. `weight` is (out, in); `statistics` are of its input; `settings` are
the criterion's; `seed` differs from matrix to matrix. A criterion is a pure function of these. Its
class of settings says whether it reads Gram matrices, updates weights that stay, or prunes whole
units.
"""

import importlib
from importlib.util import find_spec
from types import ModuleType

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
            "this criterion has no module",
            where=where,
            todo="write it, or remove its class from freelunch/study/criteria.py",
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
