"""The ids of the paper's claims, by which a grid says which claims it is for."""

from functools import cache

from freelunch.core.errors import UserError
from freelunch.study.base import REPOSITORY
from freelunch.study.yaml_file import read_yaml

CLAIMS = "workflow/data/claims.yaml"


@cache
def claim_ids() -> list[str]:
    """Return the ids in CLAIMS; `audit` checks the rest of that file.

    Raises:
        UserError: The file cannot be read, or is no list of claims with ids.
    """
    path = REPOSITORY / CLAIMS
    try:
        return [claim["id"] for claim in read_yaml(path)["claims"]]
    except (KeyError, TypeError) as error:
        raise UserError(
            "this file does not list claims, each with an `id`",
            where=path,
            todo="correct it, or restore it from git",
        ) from error
