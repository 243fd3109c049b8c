"""Configs for tests: a minimal one, one with every class of settings, and the smoke study."""

import copy
from collections.abc import Iterator, Mapping
from typing import Any

import pytest

from freelunch.core.errors import UserError
from freelunch.study.config import KINDS
from freelunch.study.study import Study
from freelunch.study.yaml_file import read_yaml
from repository import ROOT

STUDIES = [ROOT / "config.yaml", *sorted((ROOT / "studies").glob("*.yaml"))]
WHEEL = {"source": "wheel", "package": "p", "version": "1", "sha256": "0" * 64, "member": "m"}
FILES = {key: value for key, value in WHEEL.items() if key != "member"}
TASK: dict[str, Any] = {**WHEEL, "format": "arrow", "documents": 9}
# Changes that define two tasks and ask for one of them, and changes that ask for drift.
ASKED: dict[str, Any] = {
    "tasks": {"rte": dict(TASK), "boolq": dict(TASK)},
    "study.evaluation.tasks": {"names": ["rte"]},
    "study.grids.0.tasks": True,
}
DRIFT: dict[str, Any] = {"study.evaluation.drift": {}}
ARCHITECTURE = {
    "num_hidden_layers": 1,
    "hidden_size": 4,
    "intermediate_size": 4,
    "num_attention_heads": 1,
    "vocab_size": 9,
}
# Qwen2.5-72B.
QWEN_72B = {
    "model_type": "qwen2",
    "num_hidden_layers": 80,
    "hidden_size": 8192,
    "intermediate_size": 29568,
    "num_attention_heads": 64,
    "num_key_value_heads": 8,
    "vocab_size": 152064,
    "tie_word_embeddings": False,
}


def config() -> dict[str, Any]:
    """Return a minimal config."""
    return {
        "models": {"one": dict(WHEEL), "two": dict(WHEEL)},
        "texts": {
            "c4": {**WHEEL, "format": "lines"},
            "wiki": {**WHEEL, "format": "jsonl"},
            "unused": {**WHEEL, "format": "plain"},
        },
        "criteria": {"magnitude": {"score": "magnitude"}, "wanda": {"score": "wanda"}},
        "adaptations": {
            "recon_block": {"method": "reconstruction"},
            "recon_two": {"method": "reconstruction", "window": 2},
        },
        "study": {
            "name": "tests",
            "calibration": {"text": "c4", "samples": 4, "length": 8},
            "evaluation": {"perplexity": {"text": "wiki", "length": 8}},
            "grids": [
                {
                    "models": ["one"],
                    "criteria": ["magnitude", "wanda"],
                    "patterns": ["u50"],
                    "adaptations": ["none", "recon_block"],
                }
            ],
        },
    }


def changed(changes: Mapping[str, Any], base: dict[str, Any] | None = None) -> dict[str, Any]:
    """Return a config with the values at dotted keys replaced."""
    new = copy.deepcopy(config() if base is None else base)
    for key, value in changes.items():
        inner: Any = new
        *parents, last = key.split(".")
        for part in parents:
            inner = inner[int(part)] if isinstance(inner, list) else inner[part]
        inner[int(last) if isinstance(inner, list) else last] = copy.deepcopy(value)
    return new


def everything() -> dict[str, Any]:
    """Return a config that contains every class of settings."""
    hub = {"source": "hub", "repository": "a/b", "revision": "0" * 40}
    # Any file will do: these entries are never read.
    own = {"source": "path", "path": str(ROOT / "README.md")}
    return changed(
        {
            **ASKED,
            **DRIFT,
            "models.one.architecture": dict(ARCHITECTURE),
            "models.hub": hub,
            "models.own": own,
            "texts.hub": {**hub, "member": "m", "format": "parquet"},
            "texts.own": {**own, "format": "plain"},
            "texts.files": {**FILES, "source": "wheel_files", "members": "m/*.txt"},
            "texts.mixed": {"source": "mixture", "parts": {"c4": 0.5, "unused": 0.5}},
            "texts.ids": {**own, "source": "tokens"},
            "tasks.hub": {**hub, "member": "m", "format": "jsonl", "documents": 2},
            "tasks.own": {**own, "format": "jsonl", "documents": 2},
            "criteria": {score: {"score": score} for score in KINDS["criteria"]},
            "adaptations": {
                **{method: {"method": method} for method in KINDS["adaptations"]},
                "recon_block": {"method": "reconstruction", "budget": {"tokens": 64}},
                "searched": {"method": "full", "learning_rate": [0.1, 0.2], "epochs": [1, 2]},
            },
            "study.selection": {"samples": 9},
        }
    )


def with_adaptations(**entries: dict[str, Any]) -> dict[str, Any]:
    """Return a config with additional adaptations, all of which the grid runs."""
    names = ["none", "recon_block", *entries]
    return changed(
        {
            "adaptations": {**config()["adaptations"], **entries},
            "study.grids.0.adaptations": names,
        }
    )


def checked(changes: Mapping[str, Any] | None = None) -> Study:
    """Return the study of a config with the values at dotted keys replaced."""
    return Study.check(changed(changes or {}), "config.yaml")


def smoke(changes: Mapping[str, Any] | None = None) -> Study:
    """Return the smoke study with the values at dotted keys replaced."""
    given = read_yaml(ROOT / "studies" / "smoke.yaml")
    return Study.check(changed(changes or {}, given), "smoke.yaml")


def refusal(new: object) -> str:
    """Return the message of the UserError that a config must raise."""
    with pytest.raises(UserError) as caught:
        Study.check(new, "config.yaml")
    return str(caught.value)


def problems(new: object) -> list[str]:
    """Return the problems that a config must be refused for, each of which begins with its key."""
    first, *lines = refusal(new).split("\n  ")
    count = "1 problem" if len(lines) == 1 else f"{len(lines)} problems"
    assert first == f"config.yaml: {count} in the config"
    return lines


def mappings(value: object, key: str = "") -> dict[str, Mapping[str, Any]]:
    """Return every mapping of a config whose keys are settings rather than names of entries, by its
    dotted key.
    """
    found = {}
    if isinstance(value, Mapping):
        named = key in ("models", "texts", "tasks", "criteria", "adaptations")
        if not named and not key.endswith(".parts"):
            found[key] = value
        inside = [(str(name), inner) for name, inner in value.items()]
    else:
        inside = [
            (str(at), inner) for at, inner in enumerate(value if isinstance(value, list) else [])
        ]
    for name, inner in inside:
        found |= mappings(inner, f"{key}.{name}" if key else name)
    return found


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Yield the paths of all values in a config."""
    inside: Any = ()
    if isinstance(value, dict):
        inside = value.items()
    elif isinstance(value, list):
        inside = enumerate(value)
    for key, inner in inside:
        yield (*path, key)
        yield from places(inner, (*path, key))
