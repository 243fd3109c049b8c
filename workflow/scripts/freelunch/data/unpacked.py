"""Lines of a file that somebody else made: decompressed, and never more than memory can hold."""

import gzip
from collections.abc import Iterator
from pathlib import Path
from typing import IO, cast

# Text packs to about a third; deflate itself reaches a thousandth.
LARGEST_RATIO = 200
# Below this, no ratio is suspicious.
SMALL_BYTES = 10_000_000
LARGEST_LINE = 1_000_000_000


def check_ratio(unpacked: int, packed: int) -> None:
    """Raise ValueError if so many bytes cannot come from an archive of text of this size."""
    if unpacked > max(SMALL_BYTES, LARGEST_RATIO * packed):
        raise ValueError(
            f"{packed:,} bytes unpack to more than {LARGEST_RATIO} times their size; expected text"
        )


def lines_of(path: Path) -> Iterator[bytes]:
    """Yield each line of a file; one whose name ends in `.gz` is decompressed.

    Raises:
        ValueError: A line is too long, or the file unpacks to far more than text could.
        OSError, EOFError, zlib.error: It is not a complete gzip file.
    """
    packed, unpacked = path.stat().st_size, 0
    compressed = path.suffix == ".gz"
    with cast(IO[bytes], gzip.open(path, "rb")) if compressed else path.open("rb") as file:
        while line := file.readline(LARGEST_LINE + 1):
            if len(line) > LARGEST_LINE:
                raise ValueError(f"a line of more than {LARGEST_LINE:,} bytes")
            unpacked += len(line)
            if compressed:
                check_ratio(unpacked, packed)
            yield line
