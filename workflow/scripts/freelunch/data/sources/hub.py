"""Download a model, a text or a task from the Hugging Face hub, at one commit."""

import hashlib
import logging
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from freelunch.core.digest import file_digest
from freelunch.core.errors import UserError
from freelunch.core.files import remove_path
from freelunch.data.hub_errors import hub_errors
from freelunch.data.sources.files import Obtained
from freelunch.data.sources.model_folder import (
    CONFIG,
    INDEX,
    MODEL_FILES,
    OTHER_FILES,
    check_config,
    model_files,
    read_config,
)
from freelunch.study.source_files import downloads_of
from freelunch.study.sources import Hub, HubFile

if TYPE_CHECKING:
    from huggingface_hub import RepoFile

logger = logging.getLogger(__name__)


def model_from_hub(where: str, entry: Hub, scratch: Path) -> Obtained:
    """Download the files of MODEL_FILES at one commit.

    The config comes first: a model that is not supported is refused before its weights travel.
    """
    from huggingface_hub import HfApi, RepoFile, hf_hub_download, snapshot_download

    place, repository, revision = f"{where}.repository", entry.repository, entry.revision
    local = _downloads_at(revision, scratch)
    logger.info("downloading %s at %s", repository, revision)
    with hub_errors(where, entry):
        tree = HfApi().list_repo_tree(repository, revision=revision) if local else ()
        listing = {file.path: file for file in tree if isinstance(file, RepoFile)}
        if CONFIG in listing:
            config = Path(hf_hub_download(repository, CONFIG, revision=revision, local_dir=local))
            _digest(place, listing[CONFIG], config)
            check_config(read_config(config.parent), where, config)
        folder = Path(
            snapshot_download(
                repository,
                revision=revision,
                local_dir=local,
                allow_patterns=MODEL_FILES,
                ignore_patterns=OTHER_FILES,
            )
        )
    if INDEX in listing:
        # If it were damaged, it would name other files.
        _digest(place, listing[INDEX], folder / INDEX)
    files = {name: folder / name for name in model_files(place, folder, listing)}
    digests = {name: _digest(place, listing.get(name), path) for name, path in files.items()}
    return Obtained.of(entry, files, digests)


def file_from_hub(where: str, entry: HubFile, scratch: Path) -> Obtained:
    """Download one file of a dataset at one commit."""
    from huggingface_hub import HfApi, RepoFile, hf_hub_download

    repository, member, revision = entry.repository, entry.member, entry.revision
    local, kind = _downloads_at(revision, scratch), "dataset"
    logger.info("downloading %s of %s", member, repository)
    with hub_errors(where, entry):
        path = Path(
            hf_hub_download(repository, member, repo_type=kind, revision=revision, local_dir=local)
        )
        beside = "/".join(PurePosixPath(member).parts[:-1]) or None
        at = HfApi().list_repo_tree(repository, beside, repo_type=kind, revision=revision)
        tree = at if local else ()
        listing = {file.path: file for file in tree if isinstance(file, RepoFile)}
    digest = _digest(f"{where}.member", listing.get(member), path)
    return Obtained.of(entry, {member: path}, {member: digest})


def _downloads_at(revision: str, scratch: Path) -> Path | None:
    """Return the folder of one commit's files, and remove those of others.

    None offline: the library then serves files from its cache, but copies them to no other folder.
    """
    from huggingface_hub import constants

    if constants.is_offline_mode():
        return None
    folder = downloads_of(scratch) / revision
    for other in {*folder.parent.glob("*")} - {folder}:
        remove_path(other)
    return folder


def _digest(where: str, listed: "RepoFile | None", path: Path) -> str:
    """Return the sha256 of a file that was downloaded, having compared the file with the digest
    that the hub lists; the library compares sizes only.

    For a file in Git LFS, the listed digest is its sha256. Others are small, and have git's own. A
    file that differs is removed: the library would take it for whole.
    """
    sha256 = file_digest(path)
    if listed is None:
        return sha256
    if listed.lfs:
        kind, expected, actual = "sha256", listed.lfs.sha256, sha256
    else:
        content = path.read_bytes()
        blob = b"blob %d\0" % len(content) + content
        kind, expected = "git digest", listed.blob_id
        actual = hashlib.sha1(blob, usedforsecurity=False).hexdigest()
    if actual != expected:
        path.unlink()
        raise UserError(
            f"{listed.path} was damaged on its way here",
            where=where,
            found=f"{kind} {actual}",
            expected=f"{kind} {expected}, as the hub lists it",
            todo="try again; if it happens again, the mirror in HF_ENDPOINT serves other files",
        )
    return sha256
