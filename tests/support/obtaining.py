"""Obtain models and texts from entries in the form that a config has."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from freelunch.core.errors import UserError
from freelunch.data import sources
from freelunch.data.sources import Obtained
from freelunch.study.sources import read_model, read_text

Entry = Mapping[str, Any]


def obtain_model(entry: Entry, scratch: Path) -> Obtained:
    """Obtain a model under the name `tiny`."""
    return sources.obtain_model("tiny", read_model(entry), scratch)


def obtain_text(entry: Entry, scratch: Path) -> Obtained:
    """Obtain a text under the name `tiny`; its format does not matter here."""
    formats = {} if entry["source"] == "tokens" else {"format": "lines"}
    return sources.obtain_text("tiny", read_text({**entry, **formats}), scratch)


def refused(obtain: Callable[[Entry, Path], Obtained], entry: Entry, scratch: Path) -> str:
    """Return the message of the UserError that `obtain` must raise."""
    with pytest.raises(UserError) as caught:
        obtain(entry, scratch)
    return str(caught.value)
