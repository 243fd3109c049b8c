"""The rates at which a disk reads and writes, measured once and kept for some days."""

import json
import os
import platform
import shutil
import tempfile
import time
from contextlib import suppress
from pathlib import Path

# Where rates are kept: beside Snakemake's own notes, which no commit holds.
KEPT = Path(".snakemake") / "freelunch" / "disk.json"
# Days after which a disk is measured again.
DAYS = 7
# Bytes that are written and read: a second on a slow disk, and more than its own cache holds.
_BYTES, _CHUNK = 2**27, 2**22


def disk_rates(folder: Path, kept: Path = KEPT) -> tuple[float, float] | None:
    """Return the bytes per second that the disk below a folder reads and writes.

    None if they cannot be measured, since the disk is nearly full or cannot be written to.

    Args:
        folder: The folder; if it does not exist yet, the nearest one above it stands for it.
        kept: The file that keeps measured rates, by machine and disk.
    """
    while not folder.is_dir():
        folder = folder.parent
    key = f"{platform.node()}/{os.stat(folder).st_dev}"
    noted = _noted(kept)
    found = noted.get(key)
    if found is None or time.time() - found["measured"] > DAYS * 86400:
        if shutil.disk_usage(folder).free < 10 * _BYTES:
            return None
        try:
            read, write = _measured(folder)
        except OSError:
            return None
        found = noted[key] = {"read": read, "write": write, "measured": time.time()}
        # A plan of a folder that cannot be written to measures each time.
        with suppress(OSError):
            kept.parent.mkdir(parents=True, exist_ok=True)
            part = kept.with_name(f"{kept.name}.part")
            part.write_text(json.dumps(noted, indent=1))
            part.replace(kept)
    return found["read"], found["write"]


def _noted(kept: Path) -> dict[str, dict[str, float]]:
    """Return the rates that a file keeps; none if it is missing or damaged."""
    try:
        noted = json.loads(kept.read_text())
        return {
            key: {name: float(entry[name]) for name in ("read", "write", "measured")}
            for key, entry in noted.items()
        }
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return {}


def _measured(folder: Path) -> tuple[float, float]:
    """Write a file to its disk, then read it from there rather than from the page cache.

    Raises:
        OSError: The disk refuses the file.
    """
    # Random bytes, since a disk may compress others.
    buffer = bytearray(os.urandom(_CHUNK))
    handle, name = tempfile.mkstemp(dir=folder, prefix=".rate-")
    try:
        start = time.perf_counter()
        for _ in range(_BYTES // _CHUNK):
            os.write(handle, buffer)
        os.fsync(handle)
        write = _BYTES / (time.perf_counter() - start)
        os.posix_fadvise(handle, 0, 0, os.POSIX_FADV_DONTNEED)
        os.lseek(handle, 0, os.SEEK_SET)
        start = time.perf_counter()
        while os.readv(handle, [buffer]):
            pass
        return _BYTES / (time.perf_counter() - start), write
    finally:
        os.close(handle)
        os.unlink(name)
