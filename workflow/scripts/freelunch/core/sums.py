"""Files of digests in the format of `sha256sum`, for results that have no manifest.

`sha256sum --check FILE`, run in the folder that the names are relative to, checks them as well.
"""

import re
from collections.abc import Collection, Iterable
from contextlib import suppress
from pathlib import Path

from freelunch.core.digest import file_digest
from freelunch.core.errors import UserError, mend
from freelunch.core.files import write_atomically

_LINE = re.compile(r"([0-9a-f]{64})  ([^\n]+)")


def write_sums(path: Path, root: Path, files: Iterable[Path]) -> None:
    """Write the digests of files, each under its name relative to `root`."""
    names = sorted(file.relative_to(root).as_posix() for file in files)
    lines = [f"{file_digest(root / name)}  {name}\n" for name in names]
    write_atomically(path, "".join(lines))


def check_sums(path: Path, root: Path, names: Collection[str], others: bool = False) -> None:
    """Check files against the digests that `write_sums` wrote.

    Args:
        path: The file of digests.
        root: The folder that names are relative to.
        names: The files to check.
        others: Whether there may be digests of other files, too.

    Raises:
        UserError: The file of digests is damaged or is of other files, or a file is missing or has
            another digest.
    """
    listed = _read(path)
    missing, surplus = sorted({*names} - {*listed}), sorted({*listed} - {*names})
    if missing or (surplus and not others):
        raise UserError(
            "these are not the digests of the files that belong here",
            where=path,
            found=f"no digest of {missing[0]}" if missing else f"a digest of {surplus[0]}",
            todo=mend(),
        )
    for name in sorted(names):
        file = root / name
        found = file_digest(file) if file.is_file() else None
        if found != listed[name]:
            raise UserError(
                f"this file does not have the digest that {path} gives it",
                where=file,
                found="no file" if found is None else f"sha256 {found}",
                expected=f"sha256 {listed[name]}",
                todo=mend(),
            )


def _read(path: Path) -> dict[str, str]:
    """Return the digest of each file by its name."""
    lines: list[str] = []
    with suppress(OSError, UnicodeDecodeError):
        lines = path.read_text(encoding="utf-8").splitlines()
    matches = [_LINE.fullmatch(line) for line in lines]
    if not lines or not all(matches):
        raise UserError(
            "the digests of results are missing or damaged",
            where=path,
            expected="a sha256, two spaces and a name in each line",
            todo=mend(),
        )
    return {match[2]: match[1] for match in matches if match}
