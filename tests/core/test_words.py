"""What counts as words, which decide no number, and what counts as code all the same."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

from freelunch.core.code_digest import SCRIPTS, covered_files
from freelunch.core.words import drop_words_

LIBRARY = SCRIPTS / "freelunch"
ROOMS = ("core", "model", "data", "pruning", "adaptation", "evaluation")
# What the digests of scripts that compute cover, and what such scripts import by name.
COMPUTING = sorted(
    {
        *(LIBRARY / "evaluation").glob("*.py"),
        *(LIBRARY / "pruning" / "criteria").glob("*.py"),
        *(
            path
            for script in SCRIPTS.glob("*.py")
            if not script.stem.startswith(("fetch_", "collect_", "build_", "draw_", "audit_"))
            for path in covered_files(script.stem)
        ),
    }
)

HEAD = """
import logging
from freelunch.core.errors import UserError, nearest
log = logging.getLogger(__name__)
def work(report, model, names, rows):
    "What it does."
    {statement}
    return 1
"""


SETTINGS = """
from pydantic import BaseModel, Field
from freelunch.study.settings import absent
class Sizes(BaseModel):
    size: int = {statement}
"""


def code(statement: str, head: str = HEAD) -> str:
    tree = ast.parse(head.replace("{statement}", statement))
    drop_words_(tree)
    return ast.dump(tree)


@pytest.mark.parametrize(
    "statement",
    [
        "raise UserError('a message', where=model, found='few', todo='do this')",
        "raise UserError(f'{len(names)} of {max(names)}', found=', '.join(sorted(names)))",
        "raise UserError('it', expected=nearest(model.name, names), found=names[0] or 'none')",
        "raise UserError('it', found=[str(name) for name in names if name != 'x'])",
        "raise UserError('it', found=model.shape[1] * 2 if names else tuple(names))",
    ],
)
def test_what_an_error_says_is_words(statement: str) -> None:
    assert code(statement) == code("raise UserError('in other words', todo='do that')")


@pytest.mark.parametrize(
    ("statement", "other"),
    [
        ("raise UserError('it', found=names.pop())", "raise UserError('it', found=names.clear())"),
        ("raise UserError('it', found=(kept := 1))", "raise UserError('it', found=(kept := 2))"),
        ("raise UserError('it', found=remove(1))", "raise UserError('it', found=remove(2))"),
        ("raise UserError(sorted(names, key=a))", "raise UserError(sorted(names, key=b))"),
        ("raise UserError((yield 1))", "raise UserError((yield 2))"),
        ("raise UserError('it') from first", "raise UserError('it') from second"),
        ("if rows: raise UserError('it')", "if names: raise UserError('it')"),
        ("raise UserError('it')", "raise ValueError('it')"),
        ("raise ValueError(remove(1))", "raise ValueError(remove(2))"),
        ("raise ValueError('it') from first", "raise ValueError('it') from second"),
        ("kept = ValueError('one')", "kept = ValueError('two')"),
        ("raise SystemExit(1)", "raise SystemExit(2)"),
        ("check(rows, problem=remove(1))", "check(rows, problem=remove(2))"),
        ("check(rows, problem='it')", "check(names, problem='it')"),
        ("check(rows, note='one')", "check(rows, note='two')"),
        ("note = 'one'", "note = 'two'"),
    ],
)
def test_what_does_more_than_make_words_is_code(statement: str, other: str) -> None:
    assert code(statement) != code(other)


@pytest.mark.parametrize(
    ("statement", "other"),
    [
        ("raise ValueError('one')", "raise ValueError(f'{rows} of {len(names)}')"),
        ("raise PydanticCustomError('a', 'one')", "raise PydanticCustomError('a', 'two')"),
        ("check(rows, problem='one')", "check(rows, problem=f'{rows}')"),
    ],
)
def test_what_other_exceptions_say_is_words(statement: str, other: str) -> None:
    assert code(statement) == code(other)


@pytest.mark.parametrize(
    ("head", "other", "equal"),
    [
        ("_SAID = 'one'", "_SAID = 'two'", True),
        ("SAID = 'one'", "SAID = 'two'", False),
        ("_SAID = made(1)", "_SAID = made(2)", False),
        ("_SAID = 'one'; kept = _SAID", "_SAID = 'two'; kept = _SAID", False),
        ("__all__ = ['a']", "__all__ = ['b']", False),
    ],
)
def test_a_private_name_that_only_words_read_is_words(head: str, other: str, equal: bool) -> None:
    statement = "raise UserError(_SAID)"
    assert (code(statement, head + HEAD) == code(statement, other + HEAD)) is equal


def test_an_argument_that_is_code_leaves_the_others_words() -> None:
    one = "raise UserError('one', found=remove(1), todo='a')"
    assert code(one) == code("raise UserError('two', found=remove(1), todo='b')")


def test_phrases_imported_for_errors_are_words() -> None:
    other = HEAD.replace("UserError, nearest", "UserError, nearest, remake")
    assert code("raise UserError('it')") == code("raise UserError(remake(model))", other)
    assert code("raise UserError('it')") != code("raise UserError(remake(model))")


def test_a_class_of_the_same_name_from_elsewhere_is_code() -> None:
    head = HEAD.replace("freelunch.core.errors", "elsewhere")
    assert code("raise UserError('one')", head) != code("raise UserError('two')", head)


@pytest.mark.parametrize(
    ("statement", "other"),
    [
        ("log.info('step %d', rows)", "log.info('now at step %d of %s', rows, model.name)"),
        ("log.warning(f'{rows} rows')", "log.warning('some rows')"),
        ("report(1, 2, 'blocks')", "report(1, 2, f'blocks ({rows:.3g})')"),
    ],
)
def test_what_a_log_line_or_a_report_says_is_words(statement: str, other: str) -> None:
    assert code(statement) == code(other)


@pytest.mark.parametrize(
    ("statement", "other"),
    [
        ("log.info('%s', next(rows))", "log.info('%s', rows)"),
        ("log.info('%s', [row for row in rows])", "log.info('%s', rows)"),
        ("log.info('%s', (kept := 1))", "log.info('%s', 1)"),
        ("log.info('it')", "log.debug('it')"),
        ("kept = log.info('one')", "kept = log.info('two')"),
        ("model.info('one')", "model.info('two')"),
        ("report(1, 2, 'blocks')", "report(1, 3, 'blocks')"),
        ("report(1, 2, next(rows))", "report(1, 2, 'blocks')"),
        ("kept = report(1, 2, 'one')", "kept = report(1, 2, 'two')"),
        ("report('one', 'two')", "report('one', 'three')"),
    ],
)
def test_what_may_change_what_follows_is_code(statement: str, other: str) -> None:
    assert code(statement) != code(other)


def test_a_docstring_is_words_and_another_string_is_code() -> None:
    other = HEAD.replace('"What it does."', '"What it does, in other words."')
    assert code("pass") == code("pass", other)
    assert code("'one'") != code("'two'")


@pytest.mark.parametrize(
    ("setting", "other"),
    [
        ("Field(description='How many.')", "Field(description='In other words: ' + HOW)"),
        ("Field(description='How many.', ge=1)", "Field(ge=1, description=f'Up to {MOST}.')"),
        ("Field(ge=1)", "Field(ge=1, description='Described at last.')"),
        ("absent('How many.', ge=1)", "absent(f'None: {DEFAULT}.', ge=1)"),
        ("absent('How many.')", "absent(description='So many.')"),
    ],
)
def test_the_description_of_a_setting_is_words(setting: str, other: str) -> None:
    assert code(setting, SETTINGS) == code(other, SETTINGS)


@pytest.mark.parametrize(
    ("setting", "other"),
    [
        ("Field(default=1, description='How many.')", "Field(default=2, description='How many.')"),
        ("Field(1, description='How many.')", "Field(2, description='How many.')"),
        ("Field(ge=1, description='How many.')", "Field(ge=2, description='How many.')"),
        ("Field(ge=1, description='How many.')", "Field(gt=1, description='How many.')"),
        ("Field(description=made(1))", "Field(description=made(2))"),
        ("Field(description=(KEPT := 'one'))", "Field(description=(KEPT := 'two'))"),
        ("absent('How many.', ge=1)", "absent('How many.', ge=2)"),
        ("absent('How many.')", "absent('How many.', ge=1)"),
        ("absent('How many.')", "Field(description='How many.')"),
        ("absent(made(1))", "absent(made(2))"),
        ("field(description='one')", "field(description='two')"),
    ],
)
def test_what_a_setting_may_be_is_code(setting: str, other: str) -> None:
    assert code(setting, SETTINGS) != code(other, SETTINGS)


@pytest.mark.parametrize(
    ("module", "setting"),
    [
        ("pydantic", "Field(description='{}')"),
        ("freelunch.study.settings", "absent('{}')"),
        ("freelunch.study.settings", "absent(description='{}')"),
    ],
)
def test_a_field_of_the_same_name_from_elsewhere_is_code(module: str, setting: str) -> None:
    head = SETTINGS.replace(module, "elsewhere")
    assert head != SETTINGS
    assert code(setting.format("one"), head) != code(setting.format("two"), head)


def test_no_job_goes_on_after_a_user_error() -> None:
    """That is why no result depends on what an error says."""
    paths = [path for room in ROOMS for path in (LIBRARY / room).rglob("*.py")]
    handling = {path.name for path in [*SCRIPTS.glob("*.py"), *paths] if handles_errors(path)}
    # Two end the process; the others only raise, the same error or a clearer one. What could not be
    # pruned for another job is left to that job, in which the error comes again.
    ending, raising = {"job.py", "model_source.py"}, {"files.py", "checkpoint.py", "tasks.py"}
    assert handling == ending | raising | {"inspect_model.py"} | {"prune.py"}


def test_no_code_that_computes_reads_what_an_exception_says() -> None:
    """Except to raise another: that is why what a ValueError says is words."""
    for path in COMPUTING:
        tree = ast.parse(path.read_text())
        drop_words_(tree)
        for handler in handlers(tree):
            if handler.name and {"ValueError", "Exception"} & names_in(handler.type):
                causes = [node.cause for node in ast.walk(handler) if isinstance(node, ast.Raise)]
                read = [node for node in ast.walk(handler) if is_name(node, handler.name)]
                assert all(node in causes for node in read), (path, ast.unparse(handler))


def test_a_parameter_named_problem_goes_to_errors_only() -> None:
    """That is why an argument of this name is words."""
    taking, passing = set(), set()
    for path in COMPUTING:
        tree = ast.parse(path.read_text())
        passing |= {
            ast.unparse(node.func)
            for node in ast.walk(tree)
            if isinstance(node, ast.Call) and any(each.arg == "problem" for each in node.keywords)
        }
        drop_words_(tree)
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef) and "problem" in parameters(node):
                taking.add(node.name)
                read = [part for part in ast.walk(node) if is_name(part, "problem")]
                assert not read, (path, node.name)
    assert passing and passing == taking


def test_no_module_reads_a_private_name_of_another() -> None:
    """That is why a private name that its own module reads in words only is words."""
    for path in SCRIPTS.rglob("*.py"):
        tree = ast.parse(path.read_text())
        imported: set[str] = set()
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom | ast.Import):
                imported |= {each.asname or each.name for each in node.names}
        read = {
            node.attr
            for node in ast.walk(tree)
            if isinstance(node, ast.Attribute) and ast.unparse(node.value) in imported
        }
        assert not {name for name in imported | read if is_private(name)}, path


def is_private(name: str) -> bool:
    return name.startswith("_") and not name.startswith("__")


def handlers(tree: ast.AST) -> Iterator[ast.ExceptHandler]:
    return (node for node in ast.walk(tree) if isinstance(node, ast.ExceptHandler))


def is_name(node: ast.AST, name: str) -> bool:
    return isinstance(node, ast.Name) and node.id == name


def parameters(function: ast.FunctionDef) -> set[str]:
    arguments = function.args
    return {each.arg for each in (*arguments.args, *arguments.kwonlyargs)}


def handles_errors(path: Path) -> bool:
    """Return whether a file handles a UserError, or every error."""
    return any(
        node.type is None or {"UserError", "Exception", "BaseException"} & names_in(node.type)
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.ExceptHandler)
    )


def names_in(expression: ast.expr | None) -> set[str]:
    if expression is None:
        return set()
    return {node.id for node in ast.walk(expression) if isinstance(node, ast.Name)}
