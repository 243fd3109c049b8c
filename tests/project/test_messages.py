"""All messages of errors in one file, for the eye of an editor: tests elsewhere compare fields.

    python tests/project/test_messages.py

writes the file again after a change of words.
"""

import ast
from collections.abc import Iterator
from pathlib import Path

MESSAGES = Path(__file__).with_name("messages.txt")
LIBRARY = Path(__file__).parents[2] / "workflow" / "scripts" / "freelunch"
FIELDS = ("expected", "todo")


def words(expression: ast.expr) -> str:
    """Return what an expression says, with its variable parts in braces."""
    if isinstance(expression, ast.Constant):
        return str(expression.value)
    if isinstance(expression, ast.JoinedStr):
        return "".join(map(words, expression.values))
    if isinstance(expression, ast.FormattedValue):
        return "{" + ast.unparse(expression.value) + "}"
    return "{" + ast.unparse(expression) + "}"


def messages(room: Path) -> Iterator[str]:
    """Yield what each error of a room, or of a module in none, says: the problem, what was
    expected, what to do.
    """
    for path in [room] if room.is_file() else sorted(room.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and ast.unparse(node.func) == "UserError":
                fields = {each.arg: words(each.value) for each in node.keywords}
                lines = [words(node.args[0])] if node.args else []
                lines += [f"  {name}: {fields[name]}" for name in FIELDS if name in fields]
                yield "\n".join(lines)


def text() -> str:
    rooms = sorted(path for path in LIBRARY.iterdir() if any(messages(path)))
    return "\n\n".join("\n".join([f"# {room.stem}", *sorted(messages(room))]) for room in rooms)


def test_the_editor_has_read_every_message() -> None:
    assert MESSAGES.read_text() == text() + "\n", "read, then run this file as a script"


if __name__ == "__main__":
    MESSAGES.write_text(text() + "\n")
