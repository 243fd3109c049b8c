"""A study whose models and text are on a hub."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

from configs import ARCHITECTURE

STUDY = Path("studies/mine.yaml")
COMMAND = "make pin STUDY=studies/mine.yaml"
CONFIG = {"config.json": b"{}", "model.safetensors": b"weights"}
Captured = pytest.CaptureFixture[str]
Said = Callable[..., str]


def write_study(changes: Mapping[str, Mapping[str, Any]] | None = None) -> None:
    """Write a study of two models and a text on the hub, with changes to its entries."""
    source = {"source": "hub", "revision": "main"}
    model = {**source, "architecture": ARCHITECTURE}
    text = {**source, "repository": "team/words", "member": "a.txt", "format": "plain"}
    entries = {
        "models.one": {**model, "repository": "team/one"},
        "models.two": {**model, "repository": "team/two"},
        "models.unused": {**model, "repository": "team/nowhere"},
        "texts.words": text,
        "texts.unused": {**text, "repository": "team/nowhere"},
    }
    config: dict[str, Any] = {
        "models": {},
        "texts": {},
        "criteria": {"wanda": {"score": "wanda"}},
        "adaptations": {},
        "study": {
            "name": "mine",
            "calibration": {"text": "words", "samples": 2, "length": 8},
            "evaluation": {"perplexity": {"text": "words", "length": 8}},
            "grids": [
                {
                    "models": ["one", "two"],
                    "criteria": ["wanda"],
                    "patterns": ["u50"],
                    "adaptations": ["none"],
                }
            ],
        },
    }
    for place, entry in entries.items():
        registry, _, name = place.partition(".")
        config[registry][name] = {**entry, **(changes or {}).get(place, {})}
    STUDY.parent.mkdir(exist_ok=True)
    STUDY.write_text(yaml.safe_dump(config))
