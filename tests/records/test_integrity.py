"""Which folders belong to a cell, where earlier settings left others."""

from pathlib import Path

import pytest

from freelunch.core.artifact import united_digest
from freelunch.core.artifact_writer import ArtifactWriter
from freelunch.records.integrity import _groups


@pytest.mark.parametrize("names", [["chosen"], ["model"], ["1-of-1"], ["1-of-2", "2-of-2"]])
def test_what_earlier_settings_left_is_not_the_cells(tmp_path: Path, names: list[str]) -> None:
    """A rate that became a list leaves what was trained without one, and the other way round."""
    windows = tmp_path / "windows"
    for name in ("chosen", "model", "1-of-1", "1-of-2", "2-of-2"):
        writer = ArtifactWriter(windows / name, "adapted blocks", name)
        writer.add_text(f"{name}.txt", name)
        writer.finish()
    folders = [windows / name for name in names]
    checkpoint = ArtifactWriter(tmp_path / "checkpoint", "checkpoint", "")
    checkpoint.finish(adapted=[united_digest(folders)])
    assert _groups(tmp_path / "checkpoint", windows) == folders
