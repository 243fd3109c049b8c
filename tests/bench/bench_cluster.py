"""The smoke study on a real Slurm (a part of `make bench`): how long its user waits."""

import tempfile
from pathlib import Path

from real_slurm import Slurm
from slurm_folder import OnSlurm
from timing import say, seconds


def main() -> None:
    what = "the smoke study on a Slurm of two nodes, minutes"
    with tempfile.TemporaryDirectory(prefix="cluster-") as folder:
        base = Path(folder)
        try:
            with Slurm(base / "slurm") as OnSlurm.slurm:
                study = OnSlurm.new(base / "study")
                say(what, f"{seconds(study.run_study) / 60:.2f}", "2.5")
        except RuntimeError as error:
            say(what, "not measured", "2.5")
            print(f"  {error}")


if __name__ == "__main__":
    main()
