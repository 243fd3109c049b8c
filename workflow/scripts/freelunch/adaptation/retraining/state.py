"""Save the state of a long training from time to time, so that an interrupt loses little."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from freelunch.core.artifact import no_half_file


def save_state(
    path: Path,
    fingerprint: str,
    parameters: list[Tensor],
    optimiser: torch.optim.Optimizer,
    facts: Mapping[str, Any],
) -> None:
    """Write the state from which a training resumes, under a temporary name first.

    Args:
        path: The file.
        fingerprint: Digest of what is trained, on what, and by which code.
        parameters: The trained parameters.
        optimiser: The optimiser, whose moments are saved.
        facts: Further facts to save with the state, as JSON.
    """
    tensors = {f"parameter.{at}": it.detach() for at, it in enumerate(parameters)}
    for at, moments in optimiser.state_dict()["state"].items():
        tensors |= {f"{name}.{at}": value for name, value in moments.items()}
    tensors = {name: value.cpu().contiguous() for name, value in tensors.items()}
    noted = json.dumps({"fingerprint": fingerprint, "sha256": _digest(tensors), **facts})
    temporary = path.with_name(f"{path.name}.part")
    with no_half_file(temporary):
        save_file(tensors, temporary, metadata={"state": noted})
        temporary.replace(path)


@torch.no_grad()
def load_state_(
    path: Path, fingerprint: str, parameters: list[Tensor], optimiser: torch.optim.Optimizer
) -> dict[str, Any] | None:
    """Load a state in place and return its facts.

    Returns None and changes nothing if there is no state, or if it is damaged or belongs to another
    training.
    """
    if not path.is_file():
        return None
    try:
        with safe_open(path, framework="pt") as file:
            noted: dict[str, Any] = json.loads((file.metadata() or {}).get("state", "{}"))
            if noted.get("fingerprint") != fingerprint:
                return None
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, ValueError, OSError):
        return None
    if noted["sha256"] != _digest(tensors):
        return None
    state: dict[int, dict[str, Tensor]] = {}
    for name, value in tensors.items():
        kind, _, at = name.rpartition(".")
        if kind == "parameter":
            parameters[int(at)].copy_(value)
        else:
            state.setdefault(int(at), {})[kind] = value
    optimiser.load_state_dict(optimiser.state_dict() | {"state": state})
    return noted


def _digest(tensors: Mapping[str, Tensor]) -> str:
    digest = hashlib.sha256()
    for name in sorted(tensors):
        digest.update(name.encode())
        digest.update(tensors[name].reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
