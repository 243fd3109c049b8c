"""What the hub says about a source: the commit of its revision, and whether we may download it."""

from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from fnmatch import fnmatchcase
from itertools import islice

from freelunch.core.errors import UserError, first_of
from freelunch.data.hub_errors import hub_errors
from freelunch.data.sources.folder import CONFIG, OTHER_FILES, PICKLES, check_weights
from freelunch.study.sources import Hub, HubFile

# The hub's own bot, which converts models and offers the result as a pull request.
CONVERTER = "SFconvertbot"
# At most so many conversions are named.
NAMED = 2


@dataclass(frozen=True)
class OnHub:
    """A repository as the hub has it now.

    Attributes:
        repository: Its owner and name; the hub redirects earlier names to it.
        commit: The commit that the revision stands for.
    """

    repository: str
    commit: str


def is_offline() -> bool:
    """Return whether HF_HUB_OFFLINE keeps huggingface_hub from asking the hub."""
    from huggingface_hub import constants

    return constants.is_offline_mode()


def look_up(where: str, entry: Hub) -> OnHub:
    """Ask the hub for the commit of a source's revision.

    Args:
        where: Registry and name of the entry, for messages.
        entry: The entry.

    Raises:
        UserError: The hub cannot be reached, or has no such repository or revision.
    """
    from huggingface_hub import HfApi, constants

    api = HfApi()
    ask = api.dataset_info if isinstance(entry, HubFile) else api.model_info
    with hub_errors(where, entry):
        info = ask(
            entry.repository,
            revision=entry.revision,
            timeout=constants.HF_HUB_ETAG_TIMEOUT,
            # Without this, the answer lists all files, of which a dataset may have thousands.
            expand=["sha"],
        )
    return OnHub(info.id, str(info.sha))


def check_download(where: str, entry: Hub) -> None:
    """Check that a source can be downloaded at its revision, without downloading anything.

    The hub shows the commits and files of a gated repository to everybody, and refuses only their
    content. So this asks for the headers of a file that the download needs.

    Raises:
        UserError: The hub cannot be reached; it has no such repository, revision or file; the
            repository is gated or private, and HF_TOKEN does not open it; or a model has no weights
            but pickles.
    """
    from huggingface_hub import HfApi, hf_hub_url

    name, kind = (entry.member, "dataset") if isinstance(entry, HubFile) else (CONFIG, "model")
    with hub_errors(where, entry):
        url = hf_hub_url(entry.repository, name, repo_type=kind, revision=entry.revision)
        HfApi().get_hf_file_metadata(url=url)
        if isinstance(entry, HubFile):
            return
        files = _files(entry.repository, entry.revision)
    if any(file.endswith(PICKLES) for file in files) and not any(map(_is_weights, files)):
        _check_conversions(where, entry, files)
    check_weights(where, files, on_hub=True)


def _is_weights(file: str) -> bool:
    return file.endswith(".safetensors") and not any(
        fnmatchcase(file, pattern) for pattern in OTHER_FILES
    )


def _files(repository: str, revision: str) -> list[str]:
    """Return the names of the files of a model."""
    from huggingface_hub import HfApi, constants

    info = HfApi().model_info(
        repository,
        revision=revision,
        timeout=constants.HF_HUB_ETAG_TIMEOUT,
        expand=["siblings"],
    )
    return [file.rfilename for file in info.siblings or ()]


def _check_conversions(where: str, entry: Hub, files: Sequence[str]) -> None:
    """Refuse a model of pickles that somebody has converted, with where the conversions are.

    Raises:
        UserError: There is an open pull request with safetensors.
    """
    found: list[str] = []
    # This is advice within an error. Whatever a hub or a mirror answers, the error counts.
    with suppress(Exception):
        found += islice(_conversions(entry.repository), NAMED)
    if found:
        which = "it" if len(found) == 1 else "one of them"
        raise UserError(
            "safetensors only, never pickle: opening a pickle can run any code; but the hub has "
            "conversions",
            where=f"{where}.revision",
            found=", ".join(first_of(file for file in files if file.endswith(PICKLES))),
            expected="a revision with *.safetensors",
            todo=f"look at {which}, and set {' or '.join(found)}; or, if you trust the model, save "
            "it with `save_pretrained(folder)` and use that",
        )


def _conversions(repository: str) -> Iterator[str]:
    """Yield the open pull requests that convert a model to safetensors, the hub's bot's first."""
    from huggingface_hub import HfApi

    requests = HfApi().get_repo_discussions(
        repository, discussion_type="pull_request", discussion_status="open"
    )
    offered = [request for request in requests if "safetensors" in request.title.lower()]
    for request in sorted(offered, key=lambda it: it.author != CONVERTER):
        revision, files = str(request.git_reference), []
        # The files of a request may be gone.
        with suppress(Exception):
            files += _files(repository, revision)
        if any(map(_is_weights, files)):
            yield f"`revision: {revision}` (by {request.author}, {request.url})"
