"""Digests of files and of values."""

import hashlib
from pathlib import Path

import pytest

from freelunch.core.digest import file_digest, json_digest


def test_the_digest_of_a_file(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"content" * 100_000)
    assert file_digest(path) == hashlib.sha256(b"content" * 100_000).hexdigest()


def test_the_digest_of_a_value() -> None:
    assert json_digest({"a": 1, "b": {"c": [1, 2]}}) == json_digest({"b": {"c": [1, 2]}, "a": 1})
    assert json_digest([1, 2]) != json_digest([2, 1])
    assert json_digest(1) != json_digest("1")
    with pytest.raises(ValueError, match="Out of range float"):
        json_digest(float("nan"))
