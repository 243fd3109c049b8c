"""Download a model, a text or a task from the Hugging Face hub, at one commit."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from freelunch.core.digest import file_digest
from freelunch.core.errors import UserError
from freelunch.data.sources.folder import (
    CONFIG,
    MODEL_FILES,
    OTHER_FILES,
    model_files,
    read_config,
)
from freelunch.data.sources.obtained import Obtained, digests_of, origin_of
from freelunch.study.shape_limits import check_shapes
from freelunch.study.sources import Hub, HubFile
from freelunch.study.unsupported import check_supported

logger = logging.getLogger(__name__)


def model_from_hub(where: str, entry: Hub, scratch: Path) -> Obtained:
    """Download the files of MODEL_FILES at one commit.

    The config comes first: a model that is not supported is refused before its weights travel.
    """
    from huggingface_hub import HfApi, RepoFile, constants, hf_hub_download, snapshot_download

    # Offline, the library serves files from its cache, but copies them to no other folder.
    local = None if constants.is_offline_mode() else scratch / "hub"
    repository, revision = entry.repository, entry.revision
    logger.info("downloading %s at %s", repository, revision)
    with _hub_errors(where, entry):
        tree = HfApi().list_repo_tree(repository, revision=revision) if local else ()
        listing = [file for file in tree if isinstance(file, RepoFile)]
        if any(file.path == CONFIG for file in listing):
            config = hf_hub_download(repository, CONFIG, revision=revision, local_dir=local)
            content = read_config(Path(config).parent)
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
    names = model_files(f"{where}.repository", folder, [file.path for file in listing])
    digests = digests_of(folder, names)
    for file in listing:
        # The library compares sizes only. The hub has no sha256 of files outside Git LFS.
        if file.path in digests and file.lfs and file.lfs.sha256 != digests[file.path]:
            raise UserError(
                f"{file.path} was damaged on its way here",
                where=f"{where}.repository",
                found=f"sha256 {digests[file.path]}",
                expected=f"sha256 {file.lfs.sha256}, as the hub lists it",
                todo="try again; if it happens again, the mirror in HF_ENDPOINT serves other files",
            )
    return Obtained(folder, origin_of(entry, ("repository", "revision"), digests))


def file_from_hub(where: str, entry: HubFile, scratch: Path) -> Obtained:
    """Download one file of a dataset at one commit."""
    from huggingface_hub import constants, hf_hub_download

    logger.info("downloading %s of %s", entry.member, entry.repository)
    with _hub_errors(where, entry):
        path = Path(
            hf_hub_download(
                entry.repository,
                filename=entry.member,
                repo_type="dataset",
                revision=entry.revision,
                local_dir=None if constants.is_offline_mode() else scratch / "hub",
            )
        )
    keys = ("repository", "revision", "member")
    return Obtained(path, origin_of(entry, keys, {entry.member: file_digest(path)}))


@contextmanager
def _hub_errors(where: str, entry: Hub) -> Iterator[None]:
    """Turn what huggingface_hub raises into one error that names the key to correct."""
    from httpx2 import HTTPError
    from huggingface_hub import constants, errors

    token = "set HF_TOKEN to a token that may read it"
    # GatedRepoError is a subclass of RepositoryNotFoundError, so it comes first.
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
            if isinstance(error, kind) and hasattr(entry, key):
                at, found = f"{where}.{key}", f"{getattr(entry, key)}, on {constants.ENDPOINT}"
                raise UserError(f"the {key} {problem}", where=at, found=found, todo=todo) from error
        # The library gives the reason (a refused connection, HF_HUB_OFFLINE) as the cause.
        reason = error.__cause__ or error
        raise UserError(
            f"{entry.repository} cannot be downloaded from {constants.ENDPOINT}",
            where=f"{where}.repository",
            found=f"{type(reason).__name__}: {' '.join(str(reason).split())}",
            todo="check the network, HF_ENDPOINT, HF_HUB_OFFLINE and free space, then try again",
        ) from error
