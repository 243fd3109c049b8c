"""The Hugging Face hub: what it says about a source, and the files of a source at one commit."""

import hashlib
import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from freelunch.core.digest import file_digest
from freelunch.core.errors import UserError, pin_again
from freelunch.core.files import remove_path
from freelunch.data import inspect_model
from freelunch.data.inspect_model import CONFIG, INDEX, TOKENIZER, InspectedModel
from freelunch.study.source_files import downloads_of
from freelunch.study.sources import Hub, HubFile

if TYPE_CHECKING:
    from huggingface_hub import RepoFile

logger = logging.getLogger(__name__)


def is_offline() -> bool:
    """Return whether HF_HUB_OFFLINE keeps huggingface_hub from asking the hub."""
    from huggingface_hub import constants

    return constants.is_offline_mode()


def newest_commit(where: str, entry: Hub) -> str:
    """Return the commit that a source's revision stands for now; UserError if the hub cannot be
    reached, or has no such repository or revision.
    """
    return str(_ask(where, entry, "sha").sha)


def check_download(where: str, entry: Hub) -> None:
    """Check that a source can be downloaded at its revision, by the headers of a file that it
    needs: the hub shows the names in a gated repository to everybody, and refuses only their
    content.

    UserError if the hub cannot be reached; if it has no such repository, revision or file; if
    HF_TOKEN does not open the repository; or if a model has no weights but pickles.
    """
    from huggingface_hub import HfApi, hf_hub_url

    name, kind = (entry.member, "dataset") if isinstance(entry, HubFile) else (CONFIG, "model")
    with hub_errors(where, entry):
        url = hf_hub_url(entry.repository, name, repo_type=kind, revision=entry.revision)
        HfApi().get_hf_file_metadata(url=url)
    if kind == "model":
        listed = _ask(where, entry, "siblings").siblings or ()
        inspect_model.check_weights(where, [file.rfilename for file in listed])


def inspect_on_hub(where: str, entry: Hub, scratch: Path) -> tuple[InspectedModel, str]:
    """Download a model's config and tokenizer, but not its weights, into an empty folder; return
    the model and the commit that was looked at. UserError if there is none that can be used.
    """
    from huggingface_hub import hf_hub_download

    info = _ask(where, entry, "sha", "siblings")
    listed, commit = [file.rfilename for file in info.siblings or ()], str(info.sha)
    with hub_errors(where, entry):
        for name in {CONFIG, INDEX, TOKENIZER}.intersection(listed):
            hf_hub_download(entry.repository, name, revision=commit, local_dir=scratch)
    files = inspect_model.model_files(where, scratch, listed)
    return inspect_model.inspect_files(scratch, files, where), commit


def _ask(where: str, entry: Hub, *properties: str) -> Any:
    """Return what the hub says about a repository, only what is asked for: a dataset may have
    thousands of files.
    """
    from huggingface_hub import HfApi, constants

    ask: Any = HfApi().dataset_info if isinstance(entry, HubFile) else HfApi().model_info
    with hub_errors(where, entry):
        return ask(
            entry.repository,
            revision=entry.revision,
            timeout=constants.HF_HUB_ETAG_TIMEOUT,
            expand=[*properties],
        )


def fetch_from_hub(where: str, entry: Hub, scratch: Path) -> dict[str, tuple[Path, str]]:
    """Download one file of a dataset, or the files of a model, at one commit; return the path and
    the sha256 of each, by its name in the repository.

    The config of a model comes first: one that is not supported is refused before its weights
    travel.
    """
    from huggingface_hub import HfApi, RepoFile, hf_hub_download, snapshot_download

    repository, revision = entry.repository, entry.revision
    local = _downloads_at(revision, scratch)

    def listing_of(kind: str, folder: str | None = None) -> dict[str, RepoFile]:
        tree = HfApi().list_repo_tree(repository, folder, repo_type=kind, revision=revision)
        return {each.path: each for each in (tree if local else ()) if isinstance(each, RepoFile)}

    def download(name: str, kind: str) -> Path:
        file = hf_hub_download(repository, name, repo_type=kind, revision=revision, local_dir=local)
        return Path(file)

    logger.info("downloading from %s at %s", repository, revision)
    if isinstance(entry, HubFile):
        place, member = f"{where}.member", entry.member
        with hub_errors(where, entry):
            paths = {member: download(member, "dataset")}
            beside = "/".join(PurePosixPath(member).parts[:-1]) or None
            listing = listing_of("dataset", beside)
    else:
        place = f"{where}.repository"
        with hub_errors(where, entry):
            listing = listing_of("model")
            if CONFIG in listing:
                config = download(CONFIG, "model")
                _check_digest(place, listing, CONFIG, config)
                inspect_model.read_config(config.parent, where)
            snapshot = snapshot_download(
                repository,
                revision=revision,
                local_dir=local,
                allow_patterns=inspect_model.MODEL_FILES,
                ignore_patterns=inspect_model.OTHER_FILES,
            )
        folder = Path(snapshot)
        # If the index were damaged, it would name other files.
        if INDEX in listing:
            _check_digest(place, listing, INDEX, folder / INDEX)
        paths = {name: folder / name for name in inspect_model.model_files(place, folder, listing)}
    return {name: (path, _check_digest(place, listing, name, path)) for name, path in paths.items()}


def _downloads_at(revision: str, scratch: Path) -> Path | None:
    """Return the folder of one commit's files, and remove those of others. None offline: the
    library then serves files from its cache, but copies them to no other folder.
    """
    if is_offline():
        return None
    folder = downloads_of(scratch) / revision
    for other in {*folder.parent.glob("*")} - {folder}:
        remove_path(other)
    return folder


def _check_digest(where: str, listing: "Mapping[str, RepoFile]", name: str, path: Path) -> str:
    """Return the sha256 of a file that was downloaded, if it has the digest that the hub lists: its
    sha256 in Git LFS, else git's own. The library compares sizes only, so a file that differs is
    removed.
    """
    sha256 = file_digest(path)
    listed = listing.get(name)
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
            f"{name} was damaged on its way here",
            where=where,
            found=f"{kind} {actual}",
            expected=f"{kind} {expected}, as the hub lists it",
            todo="try again; if it happens again, the mirror in HF_ENDPOINT serves other files",
        )
    return sha256


@contextmanager
def hub_errors(where: str, entry: Hub) -> Iterator[None]:
    """Raise one UserError that names the key to correct in place of what huggingface_hub raises."""
    from httpx2 import HTTPError

    try:
        yield
    except (HTTPError, OSError, RuntimeError, ValueError) as error:
        raise _refusal(where, entry, error) from error


def _refusal(where: str, entry: Hub, error: Exception) -> UserError:
    from huggingface_hub import constants, errors

    is_file = isinstance(entry, HubFile)
    page = f"{constants.ENDPOINT}/{'datasets/' if is_file else ''}{entry.repository}"
    key = "repository"
    match error:
        # A subclass of RepositoryNotFoundError.
        case errors.GatedRepoError():
            found = " ".join(getattr(error, "server_message", "").split())
            problem = "the repository is gated: the hub gives it only to accounts that have "
            problem += "accepted its terms"
            todo = f"accept the terms at {page}, and set the environment variable HF_TOKEN to a "
            todo += "token of the same account that may read gated repositories "
            todo += f"({constants.ENDPOINT}/settings/tokens)"
        case errors.RepositoryNotFoundError():
            found, problem = page, "the repository is not there"
            todo = "correct the name, or the path if a folder is meant; if the repository is "
            todo += "private, set HF_TOKEN to a token that may read it"
        case errors.RevisionNotFoundError():
            key, found = "revision", f"{entry.revision}, in {page}"
            problem, todo = "the revision is not there", "name a branch, a tag or a full commit"
            if entry.is_commit:
                todo += "; if the commit was pinned, remove its line from pins.yaml "
                todo += f"and {pin_again()}"
        case errors.RemoteEntryNotFoundError() if is_file:
            key, problem, todo = "member", "the file is not there", "copy its path from the page"
            found = f"{getattr(entry, key)}, in {page} at {entry.revision}"
        case errors.RemoteEntryNotFoundError():
            found, problem = f"{page} at {entry.revision}", f"{CONFIG} is not there"
            todo = "use a model with one"
        case _:
            # The library gives the reason (a refused connection, HF_HUB_OFFLINE) as the cause.
            reason = error.__cause__ or error
            return UserError(
                f"{entry.repository} cannot be read from {constants.ENDPOINT}",
                where=f"{where}.repository",
                found=f"{type(reason).__name__}: {' '.join(str(reason).split())}",
                todo="check the network, HF_ENDPOINT, HF_HUB_OFFLINE and free space, and try again",
            )
    return UserError(problem, where=f"{where}.{key}", found=found, todo=todo)
