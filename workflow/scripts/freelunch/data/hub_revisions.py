"""What the hub says about a source: the commit of its revision, and whether we may download it."""

from dataclasses import dataclass

from freelunch.data.hub_errors import hub_errors
from freelunch.data.sources.folder import CONFIG, check_weights
from freelunch.study.sources import Hub, HubFile


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
    from huggingface_hub import HfApi, constants, hf_hub_url

    name, kind = (entry.member, "dataset") if isinstance(entry, HubFile) else (CONFIG, "model")
    with hub_errors(where, entry):
        url = hf_hub_url(entry.repository, name, repo_type=kind, revision=entry.revision)
        HfApi().get_hf_file_metadata(url=url)
        if isinstance(entry, HubFile):
            return
        info = HfApi().model_info(
            entry.repository,
            revision=entry.revision,
            timeout=constants.HF_HUB_ETAG_TIMEOUT,
            expand=["siblings"],
        )
    check_weights(where, [file.rfilename for file in info.siblings or ()], on_hub=True)
