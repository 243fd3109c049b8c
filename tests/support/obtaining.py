"""Obtain models and texts from entries in the form that a config has."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from freelunch.data.sources import Obtained, obtain
from freelunch.study.sources import read_model, read_text

Entry = Mapping[str, Any]


def obtain_model(entry: Entry, scratch: Path) -> Obtained:
    """Obtain a model under the name `tiny`."""
    return obtain("models.tiny", read_model(entry), scratch)


def obtain_text(entry: Entry, scratch: Path) -> Obtained:
    """Obtain a text under the name `tiny`; its format does not matter here."""
    formats = {} if entry["source"] in ("tokens", "wheel_files") else {"format": "lines"}
    return obtain("texts.tiny", read_text({**entry, **formats}), scratch)
