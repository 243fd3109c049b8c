"""The user's own files that a study points to, which are inputs of the workflow."""

from pathlib import Path


def files_at(path: str) -> list[str]:
    """Return a file of the user's, or the files in a folder of the user's."""
    place = Path(path)
    if not place.is_dir():
        return [str(place)]
    return sorted(str(file) for file in place.iterdir() if file.is_file())


def has_braces(path: str) -> bool:
    """Return whether Snakemake would read wildcards in a path."""
    return "{" in path or "}" in path
