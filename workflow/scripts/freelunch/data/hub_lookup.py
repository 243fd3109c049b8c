"""What the hub says about a source, before anything large is downloaded."""

from pathlib import Path

from freelunch.data.hub_errors import hub_errors
from freelunch.data.inspect_model import TOKENIZER, InspectedModel, inspect_files
from freelunch.data.sources.model_folder import CONFIG, INDEX, check_weights, model_files
from freelunch.study.sources import Hub, HubFile


def is_offline() -> bool:
    """Return whether HF_HUB_OFFLINE keeps huggingface_hub from asking the hub."""
    from huggingface_hub import constants

    return constants.is_offline_mode()


def newest_commit(where: str, entry: Hub) -> str:
    """Return the commit that a source's revision stands for now.

    Args:
        where: Registry and name of the entry, for messages.
        entry: The entry.

    Raises:
        UserError: The hub cannot be reached, or has no such repository or revision.
    """
    from huggingface_hub import HfApi, constants

    api, timeout = HfApi(), constants.HF_HUB_ETAG_TIMEOUT
    ask = api.dataset_info if isinstance(entry, HubFile) else api.model_info
    with hub_errors(where, entry):
        # Without `expand`, the answer lists all files, of which a dataset may have thousands.
        info = ask(entry.repository, revision=entry.revision, timeout=timeout, expand=["sha"])
    return str(info.sha)


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
    api, timeout = HfApi(), constants.HF_HUB_ETAG_TIMEOUT
    with hub_errors(where, entry):
        url = hf_hub_url(entry.repository, name, repo_type=kind, revision=entry.revision)
        api.get_hf_file_metadata(url=url)
        if isinstance(entry, HubFile):
            return
        info = api.model_info(
            entry.repository, revision=entry.revision, timeout=timeout, expand=["siblings"]
        )
    check_weights(where, [file.rfilename for file in info.siblings or ()])


def inspect_on_hub(where: str, entry: Hub, scratch: Path) -> tuple[InspectedModel, str]:
    """Look at a model on the hub: its config and tokenizer are downloaded, its weights are not.

    Args:
        where: What names the model, for messages.
        entry: The model.
        scratch: An existing empty folder of the caller, who removes it.

    Returns:
        The model, and the commit that was looked at.

    Raises:
        UserError: The hub cannot be reached, has no such model, or the model cannot be used.
    """
    from huggingface_hub import HfApi, hf_hub_download

    with hub_errors(where, entry):
        info = HfApi().model_info(entry.repository, revision=entry.revision)
        listed, commit = [file.rfilename for file in info.siblings or ()], str(info.sha)
        for name in (CONFIG, INDEX, TOKENIZER):
            if name in listed:
                hf_hub_download(entry.repository, name, revision=commit, local_dir=scratch)
    return inspect_files(scratch, model_files(where, scratch, listed), where), commit
