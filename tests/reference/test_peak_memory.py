"""Peak memory does not grow with depth, measured in a process of its own."""

import subprocess
import sys
from pathlib import Path

import pytest

from freelunch import activations, calibration
from freelunch.artifact import Artifact
from freelunch.checkpoint import StreamedModel
from tiny_models import capture, prune, random_tokens, save_calibration, tiny_checkpoint

WIDE = {
    "hidden_size": 256,
    "intermediate_size": 1024,
    "num_attention_heads": 8,
    "num_key_value_heads": 8,
    "head_dim": 32,
}
# Of one block's four distinct inputs, float32.
GRAM_BYTES = 4 * (3 * 256**2 + 1024**2)
BLOCK_BYTES = 4 * (4 * 256**2 + 3 * 256 * 1024)


def peak_of(base: Path) -> int:
    """Return the peak resident memory of capturing and pruning, bytes."""
    run = [sys.executable, __file__, str(base)]
    path = ":".join(entry for entry in sys.path if entry)
    done = subprocess.run(run, capture_output=True, text=True, env={"PYTHONPATH": path})
    assert done.returncode == 0, done.stderr
    return int(done.stdout)


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_capturing_and_pruning_hold_one_block_however_many_there_are(tmp_path: Path) -> None:
    peaks = {}
    for blocks in (2, 14):
        base = tmp_path / str(blocks)
        checkpoint = tiny_checkpoint(base, num_hidden_layers=blocks, **WIDE)
        save_calibration(checkpoint, base / "calibration", random_tokens(4))
        peaks[blocks] = peak_of(base)
    # Twelve blocks more would hold 60 MB of Gram matrices, and 50 MB of weights.
    growth = peaks[14] - peaks[2]
    assert growth < 2 * (GRAM_BYTES + BLOCK_BYTES), f"{growth / 1e6:.0f} MB for twelve blocks more"


def high_water_mark() -> int:
    """Return the largest resident size so far, bytes; `getrusage` counts the parent's in."""
    (line,) = [
        line
        for line in Path("/proc/self/status").read_text().splitlines()
        if line.startswith("VmHWM:")
    ]
    return int(line.split()[1]) * 1024


def main(base: Path) -> None:
    model = StreamedModel(base / "checkpoint")
    sample = Artifact(base / "calibration", calibration.KIND)
    capture(model, sample, base / "dense", gram=True)
    dense = Artifact(base / "dense", activations.KIND)
    prune(model, dense, base / "sparsegpt", "sparsegpt")
    prune(model, dense, base / "swaps", "wanda", "2of4", swaps=1)
    print(high_water_mark())


if __name__ == "__main__":
    main(Path(sys.argv[1]))
