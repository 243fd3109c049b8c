"""Digests: of files, of JSON values, and lists for sha256sum.

A process reads a file once for its digest (`digest_once`), and nothing is computed from a file that
the same process has not read. Only the check of a finished study trusts another process
(`comparing`): a hidden file beside a folder keeps the digests of its files, each with the size,
the time of the last change and the inode that the file had; the digest counts only while all three
are the same. The hidden file is merely a cache: it may be deleted, damaged or impossible to write.
"""

import hashlib
import json
import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from freelunch.core.errors import UserError, mend
from freelunch.core.files import write_atomically

SHA256 = "sha256"
# What the name of the file with the known digests of a folder ends in.
SUFFIX = ".checked"
# Bytes from which on this process remembers digests. A smaller file could be written again within
# one tick of the file system's clock, and takes a millisecond to read.
_REMEMBERED_BYTES = 2**20
_digests: dict[tuple[int, int, int], str] = {}


def file_digest(path: Path) -> str:
    """Return the sha256 of a file as 64 hex digits; other threads run meanwhile."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def digest_once(path: Path) -> str:
    """Return the sha256 of a file as `file_digest` does; a file that this process has read for it
    before, under any name, and that was not changed since, is not read again.
    """
    state = _state(path)
    digest = _digests.get(state) or file_digest(path)
    if state[0] >= _REMEMBERED_BYTES:
        _digests[state] = digest
    return digest


def json_digest(value: Any) -> str:
    """Return the sha256 of a JSON value, independent of the order of its keys."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


def content_digest(content: Mapping[str, Any]) -> str:
    """Return the digest of a JSON object, without the digest that it holds itself."""
    return json_digest({key: value for key, value in content.items() if key != SHA256})


def sealed(content: Mapping[str, Any]) -> dict[str, Any]:
    """Return a JSON object with its digest as the last key, `sha256`; ValueError on NaN."""
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
    """Return a JSON object that `sealed` made; UserError if the file is missing or was altered."""
    content = unsealed(path.read_bytes()) if path.is_file() else None
    if content is None:
        found = "content of another sha256 than it says" if path.exists() else "no such file"
        raise UserError(problem, where=path, found=found, todo=mend())
    return content


@contextmanager
def comparing(folder: Path, anew: bool) -> Iterator[Callable[[Path, str], bool]]:
    """Give a function that says whether a file in a folder has a digest. It reads files of unknown
    digest, or all if `anew`, and their digests are known afterwards, if a file can be written.
    """
    cache, known = folder.with_name(f".{folder.name}{SUFFIX}"), dict[str, list[int | str]]()
    with suppress(OSError, ValueError, TypeError, RecursionError):
        known = dict(json.loads(cache.read_text()))
    before = dict(known)

    def holds(path: Path, sha256: str) -> bool:
        state = _state(path)
        # Also if another digest is known: the cache itself may be damaged.
        if anew or known.get(path.name) != [*state, sha256]:
            known[path.name] = [*state, digest_once(path)]
        return known[path.name][-1] == sha256

    try:
        yield holds
    finally:
        if known != before:
            with suppress(OSError, UserError):
                write_atomically(cache, json.dumps(known))


def _state(path: Path) -> tuple[int, int, int]:
    found = path.stat()
    return found.st_size, found.st_mtime_ns, found.st_ino


def write_sums(path: Path, root: Path, files: Iterable[Path]) -> None:
    """Write digests of files that have no manifest, as `sha256sum --check` in `root` reads them."""
    names = sorted(file.relative_to(root).as_posix() for file in files)
    lines = [f"{file_digest(root / name)}  {name}\n" for name in names]
    write_atomically(path, "".join(lines))


def check_sums(path: Path, root: Path, names: Collection[str], others: bool = False) -> None:
    """Refuse, by UserError, files that are missing or have not the digests that `write_sums` wrote,
    and a file of digests that is damaged or has not just these names (or also `others`).
    """
    listed: dict[str, str] = {}
    with suppress(OSError, UnicodeDecodeError):
        lines = path.read_text(encoding="utf-8").splitlines()
        matches = [re.fullmatch(r"([0-9a-f]{64})  ([^\n]+)", line) for line in lines]
        listed = {match[2]: match[1] for match in matches if match} if all(matches) else {}
    if not listed:
        raise UserError(
            "the digests of results are missing or damaged",
            where=path,
            expected="a sha256, two spaces and a name in each line",
            todo=mend(),
        )
    missing, surplus = sorted({*names} - {*listed}), sorted({*listed} - {*names})
    if missing or (surplus and not others):
        found = f"no digest of {missing[0]}" if missing else f"a digest of {surplus[0]}"
        problem = "these are not the digests of the files that belong here"
        raise UserError(problem, where=path, found=found, todo=mend())
    for name in sorted(names):
        file = root / name
        digest = file_digest(file) if file.is_file() else None
        if digest != listed[name]:
            raise UserError(
                f"this file does not have the digest that {path} gives it",
                where=file,
                found="no file" if digest is None else f"sha256 {digest}",
                expected=f"sha256 {listed[name]}",
                todo=mend(),
            )
