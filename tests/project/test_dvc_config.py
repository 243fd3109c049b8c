"""DVC can change one setting of config.yaml and leave the rest of the file as it is."""

import difflib
import shutil
from pathlib import Path

import pytest
from dvc.utils.hydra import apply_overrides

from repository import ROOT


@pytest.mark.parametrize(
    "override",
    [
        "study.calibration.samples=64",
        "study.evaluation.perplexity.stride=128",
        "study.evaluation.tasks.limit=null",
        "study.keep_hidden_states=none",
    ],
)
def test_set_param_changes_one_line(tmp_path: Path, override: str) -> None:
    """DVC writes lists anew: in its own style, and without the comments between their entries."""
    config = tmp_path / "config.yaml"
    shutil.copy(ROOT / "config.yaml", config)
    before = config.read_text().splitlines()
    apply_overrides(config, [override])
    lines = difflib.unified_diff(before, config.read_text().splitlines(), lineterm="", n=0)
    changed = [line for line in lines if line[0] in "+-" and line[:3] not in ("+++", "---")]
    assert [line[0] for line in changed] == ["-", "+"], "\n".join(changed)
    # The comment stays.
    assert changed[0].partition("#")[2] == changed[1].partition("#")[2]
