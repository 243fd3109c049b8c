"""GPUs that do not exist, as `nvidia-smi` would list them."""

from pathlib import Path

ROWS = tuple(f"{at}, GPU-{at}{at}{at}, NVIDIA H100 80GB HBM3, 81559" for at in range(3))


def make_up_gpus(folder: Path, rows: tuple[str, ...] = ROWS) -> Path:
    """Write an `nvidia-smi` that lists GPUs into a folder for PATH, and return the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    script = folder / "nvidia-smi"
    script.write_text("#!/bin/sh\n" + "".join(f"echo '{row}'\n" for row in rows))
    script.chmod(0o755)
    return folder
