"""What the user typed after `freelunch new` or `make new`, to be said again with a correction."""

import os
import shlex
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from freelunch.core.errors import UserError

# Arguments as `make new` takes them; an empty value was not given.
Given = Mapping[str, str]
EXPECTED = {
    "MODEL": "<folder, GGUF file or owner/name on the hub>",
    "TEXT": "<file>",
    "EVALUATION": "<file>",
}
_OPTIONS = {"NAME": "--name", "EVALUATION": "--evaluation"}


def again(given: Given, **instead: str) -> str:
    """Return the command that was typed, with other words in the place of some arguments.

    Args:
        given: MODEL, TEXT, NAME, EVALUATION and ELSEWHERE.
        instead: What stands for an argument, as it is typed.
    """
    words = {key: shlex.quote(value) if value else "" for key, value in given.items()}
    words = {key: word for key, word in (words | instead).items() if word}
    # Make tells its commands that it started them.
    if "MAKELEVEL" in os.environ:
        return " ".join(["make new", *(f"{key}={word}" for key, word in words.items())])
    parts = [words[key] for key in ("MODEL", "TEXT")]
    parts += [f"{option} {words[key]}" for key, option in _OPTIONS.items() if key in words]
    parts += ["--elsewhere"] if "ELSEWHERE" in words else []
    return " ".join(["freelunch new", *parts])


@contextmanager
def then(given: Given, wrong: str) -> Iterator[None]:
    """Add to an error the command to type, with what fits in the place of the argument `wrong`."""
    try:
        yield
    except UserError as error:
        fits = EXPECTED[wrong] if error.instead is None else shlex.quote(str(error.instead))
        raise UserError(f"{error}\n  then:     {again(given, **{wrong: fits})}") from error


def check_given(given: Given) -> None:
    """Refuse an empty model or text, which `make new` passes on if it was not given."""
    missing = {key: EXPECTED[key] for key in ("MODEL", "TEXT") if not given[key]}
    if missing:
        raise UserError(
            f"{' and '.join(missing)} {'is' if len(missing) == 1 else 'are'} missing: a study "
            "needs a model and a text",
            todo=f"type it: {again(given, **missing)}",
        )
