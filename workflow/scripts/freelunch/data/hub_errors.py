"""What huggingface_hub raises, as one error that names the key to correct."""

from collections.abc import Iterator
from contextlib import contextmanager
from http import HTTPStatus

from freelunch.core.errors import UserError, pin_again
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


def _refusal(where: str, entry: Hub, error: Exception) -> UserError:
    from huggingface_hub import constants, errors

    is_file = isinstance(entry, HubFile)
    page = f"{constants.ENDPOINT}/{'datasets/' if is_file else ''}{entry.repository}"
    match error:
        # A subclass of RepositoryNotFoundError.
        case errors.GatedRepoError():
            key, found = "repository", " ".join(getattr(error, "server_message", "").split())
            problem = "the repository is gated: the hub gives it only to accounts that have "
            problem += "accepted its terms"
            todo = f"accept the terms at {page}, and set the environment variable HF_TOKEN to a "
            todo += "token of the same account that may read gated repositories "
            todo += f"({constants.ENDPOINT}/settings/tokens)"
        case errors.RepositoryNotFoundError():
            key, found, problem = "repository", page, "the repository is not there"
            todo = "correct the name, or the path if a folder is meant; if the repository is "
            todo += "private, set HF_TOKEN to a token that may read it"
        case errors.RevisionNotFoundError():
            key, found = "revision", f"{entry.revision}, in {page}"
            problem, todo = "the revision is not there", "name a branch, a tag or a full commit"
            if entry.is_commit:
                todo += "; if the commit was pinned, remove its entry from the files of pins "
                todo += f"(*.pins), and {pin_again()}"
        case errors.RemoteEntryNotFoundError() if is_file:
            key, problem, todo = "member", "the file is not there", "copy its path from the page"
            found = f"{getattr(entry, key)}, in {page} at {entry.revision}"
        case errors.RemoteEntryNotFoundError():
            key, problem = "repository", "config.json is not there"
            found, todo = f"{page} at {entry.revision}", "use a model with one"
        case _:
            # The library gives the reason (a refused connection, HF_HUB_OFFLINE) as the cause.
            reason = error.__cause__ or error
            refusal = Unreachable if _is_of_the_hub(reason) else UserError
            return refusal(
                f"{entry.repository} cannot be read from {constants.ENDPOINT}",
                where=f"{where}.repository",
                found=f"{type(reason).__name__}: {' '.join(str(reason).split())}",
                todo="check the network, HF_ENDPOINT, HF_HUB_OFFLINE and free space, and try again",
            )
    return UserError(problem, where=f"{where}.{key}", found=found, todo=todo)


def _is_of_the_hub(error: BaseException) -> bool:
    """Return whether an error is about the hub or the way there, not about one repository."""
    response = getattr(error, "response", None)
    if response is None:
        return not isinstance(error, ValueError)
    return bool(response.status_code == HTTPStatus.TOO_MANY_REQUESTS or response.is_server_error)
