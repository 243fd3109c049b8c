"""Ask Slurm's commands."""

import subprocess


def output_of(*command: str) -> str | None:
    """Return what a command writes; None if it fails, is not here, or takes more than a minute."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout
