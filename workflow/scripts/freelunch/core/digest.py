"""Digests of files and of values, and JSON files that hold the digest of their own content."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from freelunch.core.errors import UserError, mend

SHA256 = "sha256"


def file_digest(path: Path) -> str:
    """Return the sha256 of a file as 64 hex digits; other threads run meanwhile."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def json_digest(value: Any) -> str:
    """Return the sha256 of a JSON value, independent of the order of its keys."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


def content_digest(content: Mapping[str, Any]) -> str:
    """Return the digest of a JSON object, without the digest that it holds itself."""
    return json_digest({key: value for key, value in content.items() if key != SHA256})


def sealed(content: Mapping[str, Any]) -> dict[str, Any]:
    """Return a JSON object with the digest of its content under the key `sha256`, which comes last.

    Raises:
        ValueError: A number is not finite.
    """
    written = json.loads(json.dumps(content, allow_nan=False))
    return {**content, SHA256: content_digest(written)}


def unsealed(text: bytes) -> dict[str, Any] | None:
    """Return a JSON object that `sealed` made; None if the text is not one, or was altered."""
    try:
        content: dict[str, Any] = json.loads(text)
        return content if content[SHA256] == content_digest(content) else None
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None


def read_sealed(path: Path, *, problem: str) -> dict[str, Any]:
    """Return a JSON object that `sealed` made, as it was made.

    Args:
        path: The file.
        problem: What an error says of a damaged file.

    Raises:
        UserError: The file is missing, is not such an object, or was altered since.
    """
    content = unsealed(path.read_bytes()) if path.is_file() else None
    if content is None:
        raise UserError(
            problem,
            where=path,
            found="content of another sha256 than it says" if path.exists() else "no such file",
            todo=mend(),
        )
    return content
