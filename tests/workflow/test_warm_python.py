"""Programs in a fork of a process that imported much do what they do in one of their own."""

import json
import re
from pathlib import Path
from typing import Any

from study_folder import Folder, digests

RECORD = Path("results/smoke/records/tiny__wanda-u50__recon_block__seed0.json")


def computed(record: Path) -> dict[str, Any]:
    """Return a record without its costs and times, and the digest of all."""
    found: dict[str, Any] = json.loads(record.read_text())
    del found["cost"], found["sha256"], found["provenance"]["finished"]
    return found


def test_a_cell_is_the_same_to_the_bit(finished: Folder, tmp_path: Path) -> None:
    """Jobs in processes of their own make what those of `finished` made, which were forked."""
    cold = Folder.new(tmp_path / "study")
    said = cold.run("--", str(RECORD))
    started = set(re.findall(r"  started   (.+)", said))
    assert len(started) > 8 and started <= set(
        re.findall(r"  started   (.+)", finished.said.read_text())
    )
    # Statistics, hidden states, masks, windows, checkpoints; what each step notes of what it made.
    for pattern in ("results/**/*.safetensors", "results/**/manifest.json"):
        assert digests(cold.path, pattern).items() <= digests(finished.path, pattern).items()
    assert computed(cold.path / RECORD) == computed(finished.path / RECORD)
