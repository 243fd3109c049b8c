"""Pruning criteria: how weights, or whole units, are scored.

Each criterion is one module of this package and one class of settings in
`freelunch.study.criteria`; the `score` of the class is the name of the module. The class says
whether the criterion reads Gram matrices, updates the weights that it keeps, or prunes whole units.
The module defines exactly one of three pure functions:

- `score(weight, statistics, settings, seed)` returns a score for every weight, (out, in), float32;
`seed` differs from matrix to matrix;

- `unit_score(weight, statistics, settings)` returns a score for every input of an output
projection, (in,), float32, from which the scores of heads and channels are computed;

- `prune(weights, statistics, pattern, settings, where)` returns, for each of some matrices with the
same input, the pruned weight, its mask and notes, for criteria that choose weights and update the
others in one procedure.

The lowest scores are pruned. A weight is (out, in), `statistics` are those of its input.
"""

import importlib
from importlib.util import find_spec
from types import ModuleType

from freelunch.core.errors import UserError

FUNCTIONS = ("score", "unit_score", "prune")


def load(score: str) -> ModuleType:
    """Return the module of a criterion, imported by name, so that a rule depends on the criterion
    that it uses and on no other. UserError: it is missing, or does not define exactly one of the
    three functions.
    """
    name = f"freelunch.pruning.criteria.{score}"
    where = f"workflow/scripts/freelunch/pruning/criteria/{score}.py"
    module = importlib.import_module(name) if find_spec(name) else None
    defined = [function for function in FUNCTIONS if hasattr(module, function)]
    if module is None or len(defined) != 1:
        raise UserError(
            "this criterion needs a module with one function",
            where=where,
            found="no module" if module is None else f"functions: {', '.join(defined) or 'none'}",
            expected=f"exactly one of the names {', '.join(FUNCTIONS)}",
            todo="define one, or remove the class of settings from freelunch/study/criteria.py; to "
            "reuse a criterion, import its module, not its function",
        )
    return module
