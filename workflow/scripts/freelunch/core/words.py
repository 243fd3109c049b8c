"""What in a module is only words, for the digest of its code to ignore.

Better words must not make a study run again. Words are

- docstrings;
- the arguments of `UserError(...)`: such an error ends the job, so that no result can depend on
  what it says; also which phrases a module imports from `freelunch.core.errors` for it;
- the arguments of `ValueError` and `PydanticCustomError` in a `raise` statement: a test checks that
  no code that computes reads what an exception says, except to raise another;
- the argument `problem=...` of any call: a function that has a parameter of this name hands it to
  an error and does nothing else with it, which a test checks;
- the arguments of a logging call such as `log.info(...)`;
- the note, the last argument, of a progress report `report(done, total, note)`;
- the description of a setting: `description=...` of a pydantic `Field`, the first argument of
  `freelunch.study.settings.absent`. Its default and its bounds are code;
- the value of a private name of a module (`_NAME = ...`, at its top) that only words read.

An argument counts as code all the same if evaluating it may do more than make words: if it assigns
(`:=`), awaits or yields, or calls anything but the functions and methods listed below, without
keywords, and those of `freelunch.core.errors`. After a log line or a report the job goes on, and
what they mention may be an iterator that they would use up, so their arguments may neither call nor
loop. Looking up a name, an attribute or an item is taken to change nothing.

Words that first go into any other variable, or through another function, count as code.
"""

import ast
from collections.abc import Collection
from typing import TypeGuard

ERRORS = "freelunch.core.errors"
ERROR = "UserError"
# Exceptions whose arguments are words where they are raised.
RAISED = ("ValueError", "PydanticCustomError")
# Keyword arguments that hold words, whatever is called.
PASSED_ON = ("problem",)
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
        elif isinstance(node, ast.Raise) and isinstance(node.exc, ast.Call):
            if _is_name(node.exc.func, RAISED):
                _drop_arguments_(node.exc, of_errors)
        elif isinstance(node, ast.Call) and ERROR in of_errors and _is_name(node.func, [ERROR]):
            _drop_arguments_(node, of_errors)
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
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            node.keywords = [
                each
                for each in node.keywords
                if each.arg not in PASSED_ON or not _makes_words(each.value, of_errors)
            ]
    _drop_unread_(tree, of_errors)


def _drop_arguments_(call: ast.Call, of_errors: Collection[str]) -> None:
    """Remove the arguments of a call that only make words, in place."""
    call.args = [each for each in call.args if not _makes_words(each, of_errors)]
    call.keywords = [each for each in call.keywords if not _makes_words(each.value, of_errors)]


def _drop_unread_(tree: ast.Module, of_errors: Collection[str]) -> None:
    """Remove the private names of a module that nothing reads any more, in place."""
    read = {
        node.id
        for node in ast.walk(tree)
        if isinstance(node, ast.Name) and not isinstance(node.ctx, ast.Store)
    }
    tree.body = [
        node
        for node in tree.body
        if not (
            isinstance(node, ast.Assign)
            and _makes_words(node.value, of_errors)
            and all(_is_private(target) and target.id not in read for target in node.targets)
        )
    ]


def _is_private(target: ast.expr) -> TypeGuard[ast.Name]:
    """Return whether an assignment is to one private name, which no other module reads."""
    return isinstance(target, ast.Name) and target.id.startswith("_") and target.id[:2] != "__"


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
