"""What a model on the Hugging Face hub is, from its small files at the newest commit."""

import re
from pathlib import Path

from freelunch.core.errors import UserError
from freelunch.data.hub_errors import gated
from freelunch.data.seen_model import TOKENIZER, SeenModel, model_of_files
from freelunch.data.sources.folder import CONFIG, INDEX, model_files

_REPOSITORY = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]*/[A-Za-z0-9_][A-Za-z0-9._-]*")


def is_repository(name: str) -> bool:
    """Return whether a name has the form of a repository's: owner/name."""
    return _REPOSITORY.fullmatch(name) is not None


def model_on_hub(repository: str, scratch: Path) -> tuple[SeenModel, str]:
    """Look at a model on the hub: its config and tokenizer are downloaded, its weights are not.

    Args:
        repository: Its owner and name.
        scratch: An existing empty folder of the caller, who removes it.

    Returns:
        The model, and the commit that was looked at.

    Raises:
        UserError: The hub cannot be reached, has no such model, or the model cannot be used.
    """
    from httpx2 import HTTPError
    from huggingface_hub import HfApi, constants, errors, hf_hub_download

    try:
        info = HfApi().model_info(repository)
        listed = [file.rfilename for file in info.siblings or ()]
        commit = str(info.sha)
        for name in (CONFIG, INDEX, TOKENIZER):
            if name in listed:
                hf_hub_download(repository, name, revision=commit, local_dir=scratch)
    except errors.GatedRepoError as error:
        raise gated(repository, f"{constants.ENDPOINT}/{repository}", error) from error
    except errors.RepositoryNotFoundError as error:
        raise UserError(
            "there is no such model on the hub, and no such folder here",
            where=repository,
            found=f"asked {constants.ENDPOINT}",
            todo="correct the name or the path; for a private model, set HF_TOKEN",
        ) from error
    except (HTTPError, OSError, RuntimeError, ValueError) as error:
        reason = error.__cause__ or error
        raise UserError(
            "there is no such folder here, and the hub cannot be asked for a model of this name",
            where=repository,
            found=f"{constants.ENDPOINT}: {type(reason).__name__}: {' '.join(str(reason).split())}",
            todo="check the network, HF_ENDPOINT and HF_HUB_OFFLINE, or give the path of a model "
            "on this machine",
        ) from error
    names = model_files(repository, scratch, listed)
    return model_of_files(scratch, names, repository), commit
