"""Benchmarks of speed and memory, as ratios within one run (`make bench`).

They need the finished default study.
"""

import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import bench_memory
import bench_pruning
import bench_tasks
import bench_training
import torch
import transformers

from freelunch.core.job import keep_freed_memory
from real_slurm import Slurm
from slurm_folder import OnSlurm
from timing import REPEATS, matmul_rate, say, seconds

GIB = 2**30


def bench_start() -> None:
    """Time what a user waits for before the first job starts."""
    commands = {
        "plan": [sys.executable, "-m", "freelunch", "plan"],
        "dry run": ["snakemake", "--cores", "all", "--dry-run", "--forceall"],
    }
    for name, command in commands.items():
        times = [
            seconds(
                lambda command=command: subprocess.run(command, capture_output=True, check=True)
            )
            for _ in range(REPEATS)
        ]
        say(f"{name}, seconds", f"{statistics.median(times):.2f}", "4")


def show_study() -> None:
    """Print the cost of the last run of the default study, as its jobs noted it."""
    runs = {
        str(path.parent): json.loads(path.read_text())["cost"]
        for root in ("resources/models/smollm2-135m", "resources/texts", "results/laptop")
        for path in Path(root).glob("**/run.json")
    }
    largest = max(runs, key=lambda name: runs[name]["peak_bytes"])
    peak = runs[largest]["peak_bytes"] / GIB
    say("largest job of the default study, GiB", f"{peak:.2f}", "3")
    busy = sum(run["cpu_s"] for run in runs.values())
    say("processor seconds of all its jobs / 2 cores, minutes", f"{busy / 120:.1f}", "15")


def bench_cluster() -> None:
    """Time the smoke study on a real Slurm: how long its user waits."""
    what = "the smoke study on a Slurm of two nodes, minutes"
    with tempfile.TemporaryDirectory(prefix="cluster-") as folder:
        base = Path(folder)
        try:
            with Slurm(base / "slurm") as OnSlurm.slurm:
                study = OnSlurm.new(base / "study")
                say(what, f"{seconds(study.run_study) / 60:.2f}", "2.5")
        except RuntimeError as error:
            say(what, f"not measured: {error}", "2.5")


PARTS = {
    "pruning": bench_pruning.main,
    "training": bench_training.main,
    "memory": bench_memory.main,
    "tasks": bench_tasks.main,
    "start": bench_start,
    "cluster": bench_cluster,
    "study": show_study,
}


def main() -> None:
    # As in a job.
    keep_freed_memory()
    torch.set_num_threads(2)
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    print(f"2 threads, {matmul_rate() / 1e9:.0f} GFLOP/s in a block's own matrix products")
    for name in sys.argv[1:] or PARTS:
        print(f"\n{name}")
        PARTS[name]()


if __name__ == "__main__":
    main()
