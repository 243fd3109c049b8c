"""Models and texts as a new user has them: small folders and files, and machines of any size."""

import json
from collections.abc import Callable
from pathlib import Path

import pyarrow
from pyarrow import parquet

from freelunch.costs.machine import Machine
from freelunch.data.inspect_model import model_files
from freelunch.data.models import read_model_folder
from freelunch.study.source_files import gguf_of

GIGABYTES = 10**9
# Long documents with words of the tiny tokenizer.
DOCUMENTS = [
    " ".join(f"the cat sat on mat {number} by the sea" for _ in range(20)) for number in range(64)
]


def machine(flops: float = 1e11, memory: float = 16) -> Machine:
    """Return a machine with this rate and this memory in GB."""
    return Machine(flops, 1e9, 1e8, int(memory * GIGABYTES))


def write_lines(folder: Path) -> Path:
    path = folder / "notes.txt"
    path.write_text("\n".join(DOCUMENTS) + "\n")
    return path


def write_jsonl(folder: Path) -> Path:
    """Write objects whose text is in an unusual field, beside a shorter one."""
    path = folder / "Notes of 2024.jsonl"
    rows = ({"title": f"note {at}", "story": text, "id": at} for at, text in enumerate(DOCUMENTS))
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def write_parquet(folder: Path) -> Path:
    path = folder / "notes.parquet"
    parquet.write_table(pyarrow.table({"id": range(len(DOCUMENTS)), "content": DOCUMENTS}), path)
    return path


# By the format and field that each has.
TEXTS: dict[tuple[str, str], Callable[[Path], Path]] = {
    ("lines", "text"): write_lines,
    ("jsonl", "story"): write_jsonl,
    ("parquet", "content"): write_parquet,
}


def check_here(path: Path, where: str) -> None:
    """Do what `check_as_fetched` does, without the seconds that a process of its own takes."""
    if gguf_of(path, where) is None:
        read_model_folder(where, path, model_files(where, path))
