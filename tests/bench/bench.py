"""Benchmarks of speed, as ratios within one run (`make bench`), beside their bounds and the last
release's.

They need the finished default study.
"""

import statistics
import subprocess
import sys

import bench_export
import bench_pruning
import bench_tasks
import bench_training
import torch
import transformers

from freelunch.core.job import keep_freed_memory
from timing import REPEATS, finish, matmul_rate, say, seconds


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
        say(f"{name}, seconds", statistics.median(times), most=4)


PARTS = {
    "pruning": bench_pruning.main,
    "export": bench_export.main,
    "training": bench_training.main,
    "tasks": bench_tasks.main,
    "start": bench_start,
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
    finish()


if __name__ == "__main__":
    main()
