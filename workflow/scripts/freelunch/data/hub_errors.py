"""What huggingface_hub raises, as one error that names the key to correct."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from http import HTTPStatus
from pathlib import Path

from freelunch.core.errors import DEFAULT_STUDY, STUDY_VARIABLE, UserError, pin_again
from freelunch.study.sources import Hub, HubFile


class Unreachable(UserError):
    """The hub did not answer, or not now; it would be the same for other sources."""


@contextmanager
def hub_errors(where: str, entry: Hub) -> Iterator[None]:
    """Raise a UserError in place of what huggingface_hub raises.

    Args:
        where: Registry and name of the entry.
        entry: The entry.
    """
    from httpx2 import HTTPError

    try:
        yield
    except (HTTPError, OSError, RuntimeError, ValueError) as error:
        raise _refusal(where, entry, error) from error


def gated(where: str, page: str, error: Exception) -> UserError:
    """Return the error about a repository whose terms have to be accepted.

    Args:
        where: The key, or what was typed, that names the repository.
        page: The repository's page, which has the terms.
        error: The GatedRepoError. Its message is the hub's, and has no token.
    """
    from huggingface_hub import constants

    said = " ".join(getattr(error, "server_message", "").split())
    return UserError(
        "the repository is gated: the hub gives it only to accounts that have accepted its terms",
        where=where,
        found=said or "no token of such an account",
        todo=f"accept the terms at {page}, and set the environment variable HF_TOKEN to a token of "
        f"the same account that may read gated repositories ({constants.ENDPOINT}/settings/tokens)",
    )


def _refusal(where: str, entry: Hub, error: Exception) -> UserError:
    from huggingface_hub import constants, errors

    kind, is_file = ("datasets/", True) if isinstance(entry, HubFile) else ("", False)
    page = f"{constants.ENDPOINT}/{kind}{entry.repository}"
    # GatedRepoError is a subclass of RepositoryNotFoundError, so it comes first.
    if isinstance(error, errors.GatedRepoError):
        return gated(f"{where}.repository", page, error)
    if isinstance(error, errors.RepositoryNotFoundError):
        return UserError(
            "the repository is not there",
            where=f"{where}.repository",
            found=page,
            todo="correct the name; if the repository is private, set HF_TOKEN to a token that may "
            "read it",
        )
    if isinstance(error, errors.RevisionNotFoundError):
        return UserError(
            "the revision is not there",
            where=f"{where}.revision",
            found=f"{entry.revision}, in {page}",
            todo=_instead_of(entry),
        )
    if isinstance(error, errors.RemoteEntryNotFoundError):
        key, problem = ("member", "the file") if is_file else ("repository", "config.json")
        return UserError(
            f"{problem} is not there",
            where=f"{where}.{key}",
            found=f"{getattr(entry, key)}, in {page} at {entry.revision}",
            todo="copy the file's path from the page" if is_file else "use a model with one",
        )
    # The library gives the reason (a refused connection, HF_HUB_OFFLINE) as the cause.
    reason = error.__cause__ or error
    refusal = Unreachable if _is_of_the_hub(reason) else UserError
    return refusal(
        f"{entry.repository} cannot be read from {constants.ENDPOINT}",
        where=f"{where}.repository",
        found=f"{type(reason).__name__}: {' '.join(str(reason).split())}",
        todo="check the network, HF_ENDPOINT, HF_HUB_OFFLINE and free space, then try again",
    )


def _is_of_the_hub(error: BaseException) -> bool:
    """Return whether an error is about the hub or the way there, not about one repository."""
    response = getattr(error, "response", None)
    if response is None:
        return not isinstance(error, ValueError)
    return bool(response.status_code == HTTPStatus.TOO_MANY_REQUESTS or response.is_server_error)


def _instead_of(entry: Hub) -> str:
    """Return what to do about a revision that the hub does not have."""
    study = Path(os.environ.get(STUDY_VARIABLE, DEFAULT_STUDY))
    # Not by `study.pins`: with its code, any change of a study's code would fetch everything again.
    folders = {Path(), Path("studies"), study.parent} if entry.is_commit else ()
    files = sorted(
        file
        for folder in folders
        for file in folder.glob("*.pins")
        if file.is_file() and entry.revision in file.read_text(encoding="utf-8", errors="replace")
    )
    if files:
        return (
            f"the commit was pinned, and is gone; remove its entry from "
            f"{' and '.join(map(str, files))}, and {pin_again()}; if the study or its base names "
            "the commit itself, name another there"
        )
    return "name a branch, a tag or a full commit of the repository"
