"""What in a module is only words, for the digest of its code to ignore.

Better words must not make a study run again. Words are

- docstrings;
- the arguments of `UserError(...)`: such an error ends the job, so that no result can depend on
  what it says; also which phrases a module imports from `freelunch.core.errors` for it;
- the arguments of a logging call such as `log.info(...)`;
- the note, the last argument, of a progress report `report(done, total, note)`;
- the description of a setting: `description=...` of a pydantic `Field`, the first argument of
  `freelunch.study.settings.absent`. Its default and its bounds are code.

An argument counts as code all the same if evaluating it may do more than make words: if it assigns
(`:=`), awaits or yields, or calls anything but the functions and methods listed below, without
keywords, and those of `freelunch.core.errors`. After a log line or a report the job goes on, and
what they mention may be an iterator that they would use up, so their arguments may neither call nor
loop. Looking up a name, an attribute or an item is taken to change nothing.

Words that first go into a variable, or through another function, count as code.
"""

import ast
from collections.abc import Collection

ERRORS = "freelunch.core.errors"
ERROR = "UserError"
FUNCTIONS = (
    *("abs", "float", "int", "len", "list", "max", "min", "repr", "round", "set", "sorted", "str"),
    *("sum", "tuple", "type"),
)
METHODS = (
    *("dumps", "isfinite", "items", "join", "keys", "max", "min", "numel", "removeprefix"),
    *("removesuffix", "split", "strip", "sum", "values"),
)
LEVELS = ("debug", "info", "warning", "error", "critical", "exception")

_ACTING = (ast.NamedExpr, ast.Await, ast.Yield, ast.YieldFrom)
_LOOPING = (ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp, ast.Starred)


def drop_words_(tree: ast.Module) -> None:
    """Remove docstrings and messages from a module's syntax tree, in place."""
    of_errors = _imported_from(tree, ERRORS)
    loggers = _loggers(tree)
    described = {"Field"} & _imported_from(tree, "pydantic")
    described |= {"absent"} & _imported_from(tree, "freelunch.study.settings")
    for node in ast.walk(tree):
        if (
            isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef)
            and ast.get_docstring(node, clean=False) is not None
        ):
            node.body = node.body[1:]
        elif isinstance(node, ast.ImportFrom) and _is_of(node, ERRORS):
            node.names = []
        elif isinstance(node, ast.Call) and ERROR in of_errors and _is_name(node.func, [ERROR]):
            node.args = [each for each in node.args if not _makes_words(each, of_errors)]
            node.keywords = [
                each for each in node.keywords if not _makes_words(each.value, of_errors)
            ]
        elif isinstance(node, ast.Call) and _is_name(node.func, described):
            # The first argument of a `Field` without a keyword is its default.
            if _is_name(node.func, ["absent"]):
                node.args = [each for each in node.args if not _makes_words(each, of_errors)]
            node.keywords = [
                each
                for each in node.keywords
                if each.arg != "description" or not _makes_words(each.value, of_errors)
            ]
        elif isinstance(node, ast.Expr) and isinstance(node.value, ast.Call):
            call = node.value
            if isinstance(call.func, ast.Attribute) and call.func.attr in LEVELS:
                if _is_name(call.func.value, loggers):
                    call.args = [each for each in call.args if not _is_still(each)]
            elif (
                _is_name(call.func, ["report"]) and len(call.args) == 3 and _is_still(call.args[2])
            ):
                call.args = call.args[:2]


def _imported_from(tree: ast.Module, module: str) -> set[str]:
    """Return the names that a module imports from another one, at its top."""
    return {
        alias.name
        for node in tree.body
        if isinstance(node, ast.ImportFrom) and _is_of(node, module)
        for alias in node.names
        if alias.asname is None
    }


def _is_of(node: ast.ImportFrom, module: str) -> bool:
    return node.module == module and node.level == 0


def _loggers(tree: ast.Module) -> set[str]:
    """Return the names that a module gives, at its top, to what `logging.getLogger` returns."""
    return {
        target.id
        for node in tree.body
        if isinstance(node, ast.Assign)
        and isinstance(node.value, ast.Call)
        and ast.unparse(node.value.func) == "logging.getLogger"
        for target in node.targets
        if isinstance(target, ast.Name)
    }


def _makes_words(argument: ast.expr, of_errors: Collection[str]) -> bool:
    """Return whether evaluating an error's argument does nothing but make words."""
    return not any(
        isinstance(part, _ACTING)
        or (isinstance(part, ast.Call) and not _is_harmless(part, of_errors))
        for part in ast.walk(argument)
    )


def _is_harmless(call: ast.Call, of_errors: Collection[str]) -> bool:
    if call.keywords:
        return False
    if isinstance(call.func, ast.Attribute):
        return call.func.attr in METHODS
    return _is_name(call.func, FUNCTIONS) or _is_name(call.func, of_errors)


def _is_still(argument: ast.expr) -> bool:
    """Return whether evaluating an argument neither acts, calls nor loops."""
    return not any(isinstance(part, (*_ACTING, *_LOOPING, ast.Call)) for part in ast.walk(argument))


def _is_name(node: ast.expr, names: Collection[str]) -> bool:
    return isinstance(node, ast.Name) and node.id in names
