"""What tests expect of an error: its fields, not its sentences."""

from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from freelunch.core.errors import UserError


@contextmanager
def refused(
    *, where: object = None, found: object = None, expected: object = None, todo: object = None
) -> Iterator[pytest.ExceptionInfo[UserError]]:
    """Expect a UserError each of whose fields holds what is given here, as a part of its text.

    The problem and the advice are for people: `tests/project/messages.txt` holds them for the
    editor. So `where` is a file or a key, `found` a value, and `todo` a command.
    """
    with pytest.raises(UserError) as caught:
        yield caught
    wanted = {"where": where, "found": found, "expected": expected, "todo": todo}
    for field, text in wanted.items():
        if text is not None:
            held = getattr(caught.value, field)
            assert str(text) in str(held), f"{field}: {held!r} does not hold {str(text)!r}"
