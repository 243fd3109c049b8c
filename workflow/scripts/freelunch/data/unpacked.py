"""Lines of a file that somebody else made: decompressed, and never more than memory can hold."""

import bz2
import gzip
import zlib
from collections.abc import Callable, Iterator
from io import BufferedIOBase, BufferedReader, RawIOBase
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

# Text packs to about a third; the formats themselves reach a thousandth and far less.
LARGEST_RATIO = 200
# Below this, no ratio is suspicious.
SMALL_BYTES = 10_000_000
LARGEST_LINE = 1_000_000_000
_CHUNK = 1 << 16


class _Bzip2(RawIOBase):
    """The content of a bzip2 file, of all its streams. `bz2.BZ2File` takes a damaged stream behind
    a whole one, and all that follows, for padding.
    """

    def __init__(self, path: Path) -> None:
        self._file = path.open("rb")
        self._stream = bz2.BZ2Decompressor()

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: "WriteableBuffer") -> int:
        view = memoryview(buffer).cast("B")
        data = b""
        while not data:
            packed = b""
            if self._stream.eof:
                packed = self._stream.unused_data or self._file.read(_CHUNK)
                if not packed:
                    return 0
                self._stream = bz2.BZ2Decompressor()
            elif self._stream.needs_input:
                packed = self._file.read(_CHUNK)
                if not packed:
                    raise EOFError("it ends before its last stream does")
            data = self._stream.decompress(packed, len(view))
        view[: len(data)] = data
        return len(data)

    def close(self) -> None:
        self._file.close()
        super().close()


# How to open files that are decompressed, by the ending of the name, one of `study.sources.PACKED`.
COMPRESSIONS: dict[str, Callable[[Path], BufferedIOBase]] = {
    ".gz": gzip.GzipFile,
    ".bz2": lambda path: BufferedReader(_Bzip2(path)),
}


def unpacked_name(name: str) -> str:
    """Return a file's name without the ending that says that it is compressed."""
    return name.removesuffix(Path(name).suffix) if Path(name).suffix in COMPRESSIONS else name


def check_ratio(unpacked: int, packed: int) -> None:
    """Raise ValueError if so many bytes cannot come from an archive of text of this size."""
    if unpacked > max(SMALL_BYTES, LARGEST_RATIO * packed):
        raise ValueError(
            f"{packed:,} bytes unpack to more than {LARGEST_RATIO} times their size; expected text"
        )


def lines_of(path: Path) -> Iterator[bytes]:
    """Yield each line of a file; one whose name ends in `.gz` or `.bz2` is decompressed.

    ValueError if it cannot be, if a line is too long, or if the file unpacks to far more than text
    could; OSError if it cannot be read.
    """
    packed, unpacked = path.stat().st_size, 0
    decompressed = COMPRESSIONS.get(path.suffix)
    with decompressed(path) if decompressed else path.open("rb") as file:
        try:
            while line := file.readline(LARGEST_LINE + 1):
                if len(line) > LARGEST_LINE:
                    raise ValueError(f"a line of more than {LARGEST_LINE:,} bytes")
                unpacked += len(line)
                if decompressed:
                    check_ratio(unpacked, packed)
                yield line
        except (OSError, EOFError, zlib.error) as error:
            # Errors of the system have a number; those of the format do not.
            if decompressed is None or getattr(error, "errno", None) is not None:
                raise
            raise ValueError(f"not a complete {path.suffix} file: {error}") from error
