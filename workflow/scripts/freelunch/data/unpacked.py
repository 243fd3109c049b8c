"""Lines of a file that somebody else made: decompressed, and never more than memory can hold."""

import gzip
import zlib
from collections.abc import Iterator
from pathlib import Path

from freelunch.study.sources import PACKED

# Text packs to about a third; the formats themselves reach a thousandth and far less.
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

    ValueError if it cannot be, if a line is too long, or if the file unpacks to far more than text
    could; OSError if it cannot be read.
    """
    packed, unpacked = path.stat().st_size, 0
    is_packed = path.suffix == PACKED
    with gzip.GzipFile(path) if is_packed else path.open("rb") as file:
        try:
            while line := file.readline(LARGEST_LINE + 1):
                if len(line) > LARGEST_LINE:
                    raise ValueError(f"a line of more than {LARGEST_LINE:,} bytes")
                unpacked += len(line)
                if is_packed:
                    check_ratio(unpacked, packed)
                yield line
        except (OSError, EOFError, zlib.error) as error:
            # Errors of the system have a number; those of the format do not.
            if not is_packed or getattr(error, "errno", None) is not None:
                raise
            raise ValueError(f"not a complete {PACKED} file: {error}") from error
