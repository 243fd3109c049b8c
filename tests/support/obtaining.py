"""Obtain models and texts by entries as a config has them."""

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
    """Obtain the model `tiny`."""
    return sources.obtain_model("tiny", read_model(entry), scratch)


def obtain_text(entry: Entry, scratch: Path) -> Obtained:
    """Obtain the text `tiny`, whose format does not matter here."""
    formats = {} if entry["source"] == "tokens" else {"format": "lines"}
    return sources.obtain_text("tiny", read_text({**entry, **formats}), scratch)


def refused(obtain: Callable[[Entry, Path], Obtained], entry: Entry, scratch: Path) -> str:
    """Return the message of the UserError that `obtain` has to raise."""
    with pytest.raises(UserError) as caught:
        obtain(entry, scratch)
    return str(caught.value)
