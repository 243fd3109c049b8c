"""Download a model, a text or a task from the Hugging Face hub, at one commit."""

import hashlib
import logging
from collections.abc import Container, Iterable
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from freelunch.core.digest import file_digest
from freelunch.core.errors import UserError
from freelunch.core.files import remove_path
from freelunch.data.hub_errors import hub_errors
from freelunch.data.sources.folder import (
    CONFIG,
    INDEX,
    MODEL_FILES,
    OTHER_FILES,
    model_files,
    read_config,
)
from freelunch.data.sources.obtained import Obtained, digests_of, origin_of
from freelunch.study.downloads import downloads_of
from freelunch.study.shape_limits import check_shapes
from freelunch.study.sources import Hub, HubFile
from freelunch.study.unsupported import check_supported

if TYPE_CHECKING:
    from huggingface_hub import RepoFile

logger = logging.getLogger(__name__)


def _downloads_at(revision: str, scratch: Path) -> Path:
    """Return the folder of one commit's files, and remove those of others."""
    folder = downloads_of(scratch) / revision
    for other in {*folder.parent.glob("*")} - {folder}:
        remove_path(other)
    return folder


def model_from_hub(where: str, entry: Hub, scratch: Path) -> Obtained:
    """Download the files of MODEL_FILES at one commit.

    The config comes first: a model that is not supported is refused before its weights travel.
    """
    from huggingface_hub import HfApi, RepoFile, constants, hf_hub_download, snapshot_download

    repository, revision = entry.repository, entry.revision
    # Offline, the library serves files from its cache, but copies them to no other folder.
    local = None if constants.is_offline_mode() else _downloads_at(revision, scratch)
    logger.info("downloading %s at %s", repository, revision)
    with hub_errors(where, entry):
        tree = HfApi().list_repo_tree(repository, revision=revision) if local else ()
        listing = [file for file in tree if isinstance(file, RepoFile)]
        if any(file.path == CONFIG for file in listing):
            config = Path(hf_hub_download(repository, CONFIG, revision=revision, local_dir=local))
            _check_bytes(f"{where}.repository", listing, config.parent, [CONFIG])
            content = read_config(config.parent)
            check_supported(content, where)
            check_shapes(content, where)
        folder = Path(
            snapshot_download(
                repository,
                revision=revision,
                local_dir=local,
                allow_patterns=MODEL_FILES,
                ignore_patterns=OTHER_FILES,
            )
        )
    # An index that was damaged would name other files.
    _check_bytes(f"{where}.repository", listing, folder, [INDEX])
    names = model_files(f"{where}.repository", folder, [file.path for file in listing])
    _check_bytes(f"{where}.repository", listing, folder, names)
    digests = digests_of(folder, names)
    return Obtained(folder, origin_of(entry, ("repository", "revision"), digests))


def file_from_hub(where: str, entry: HubFile, scratch: Path) -> Obtained:
    """Download one file of a dataset at one commit."""
    from huggingface_hub import HfApi, RepoFile, constants, hf_hub_download

    repository, member, revision = entry.repository, entry.member, entry.revision
    logger.info("downloading %s of %s", member, repository)
    local = None if constants.is_offline_mode() else _downloads_at(revision, scratch)
    kind = "dataset"
    with hub_errors(where, entry):
        path = Path(
            hf_hub_download(repository, member, repo_type=kind, revision=revision, local_dir=local)
        )
        beside = "/".join(PurePosixPath(member).parts[:-1]) or None
        tree = (
            HfApi().list_repo_tree(repository, beside, repo_type=kind, revision=revision)
            if local
            else ()
        )
        listing = [file for file in tree if isinstance(file, RepoFile)]
    for file in listing:
        if file.path == member:
            _check_file(f"{where}.member", file, path)
    keys = ("repository", "revision", "member")
    return Obtained(path, origin_of(entry, keys, {member: file_digest(path)}))


def _check_bytes(
    where: str, listing: Iterable["RepoFile"], folder: Path, names: Container[str]
) -> None:
    """Compare files with the digests that the hub lists; the library compares sizes only."""
    for listed in listing:
        if listed.path in names and (folder / listed.path).is_file():
            _check_file(where, listed, folder / listed.path)


def _check_file(where: str, listed: "RepoFile", path: Path) -> None:
    """Compare a file with the digest that the hub lists, and remove it if it differs: the library
    would take it for whole.

    For a file in Git LFS, the digest is its sha256. Others are small, and have git's own.
    """
    if listed.lfs:
        kind, expected, found = "sha256", listed.lfs.sha256, file_digest(path)
    else:
        content = path.read_bytes()
        blob = b"blob %d\0" % len(content) + content
        kind, expected = "git digest", listed.blob_id
        found = hashlib.sha1(blob, usedforsecurity=False).hexdigest()
    if found != expected:
        path.unlink()
        raise UserError(
            f"{listed.path} was damaged on its way here",
            where=where,
            found=f"{kind} {found}",
            expected=f"{kind} {expected}, as the hub lists it",
            todo="try again; if it happens again, the mirror in HF_ENDPOINT serves other files",
        )
