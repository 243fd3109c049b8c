"""Damage files of a finished smoke study, each kind in each way."""

import json
import os
from collections import defaultdict
from collections.abc import Callable
from functools import partial
from pathlib import Path
from random import Random
from typing import Any

from freelunch.core.artifact import MANIFEST
from freelunch.core.digest import file_digest, sealed
from freelunch.core.files import json_text

RESULTS = Path("results/smoke")
TENSORS = "*.safetensors"
_CELL = "tiny/wanda-u50/recon_block/seed0"
# A file of each kind that a study makes, relative to the folder that it was run in.
KINDS: dict[str, Path] = {
    "shard of a model": Path("resources/models/tiny/block-000.safetensors"),
    "tokenizer": Path("resources/models/tiny/tokenizer.json"),
    "text": Path("resources/texts/speeches/documents.jsonl"),
    "token ids": RESULTS / "calibration/tiny/seed0/tokens.safetensors",
    "statistics": RESULTS / "dense/tiny/seed0/statistics-001.safetensors",
    "hidden states": RESULTS / "hidden/tiny/seed0/hidden-002.safetensors",
    "windows of text": RESULTS / "text_windows/tiny/tokens.safetensors",
    "masks": RESULTS / "pruned/tiny/wanda-u50/seed0/masks-001.safetensors",
    "adapted block": RESULTS / "windows" / _CELL / "1-of-1/block-002.safetensors",
    "shard of a checkpoint": RESULTS
    / "checkpoints/tiny/wanda-u50/none/seed0/block-000.safetensors",
    "measurement": RESULTS / "metrics" / _CELL / "perplexity.json",
    "manifest": RESULTS / "pruned/tiny/magnitude-u50/seed0/manifest.json",
    "run facts": RESULTS / "windows/tiny/magnitude-u50/recon_block/seed0/1-of-1/run.json",
    "record": RESULTS / "records/tiny__wanda-u50__recon_block__seed0.json",
    "table": RESULTS / "tables/summary.csv",
    "data of a figure": RESULTS / "figures/criteria.csv",
    "figure": RESULTS / "figures/criteria.png",
    "page": RESULTS / "audit/index.html",
    "audit": RESULTS / "audit/audit.json",
    "config": RESULTS / "audit/run/config.yaml",
    "digests": RESULTS / "tables/tables.sha256",
    "model card": RESULTS / "checkpoints" / _CELL / "README.md",
}


def study_digests(root: Path) -> dict[str, str]:
    """Return the digest of each file that two equal runs make equal, except caches."""
    files = [path for part in ("resources", RESULTS) for path in (root / part).rglob("*")]
    return {
        str(path.relative_to(root)): file_digest(path)
        for path in files
        if path.is_file()
        and (path.suffix == ".safetensors" or path.name == MANIFEST)
        and RESULTS / "hidden" not in path.relative_to(root).parents
    }


def metrics(root: Path) -> dict[str, Any]:
    """Return the metrics in each record."""
    return {
        path.name: json.loads(path.read_text())["metrics"]
        for path in (root / RESULTS / "records").glob("*.json")
    }


def flip_bit(path: Path, place: float = 0.5, bit: int = 0) -> None:
    """Flip a bit of one byte; after that of the lowest one, text stays text."""
    with path.open("r+b") as file:
        at = int(place * (path.stat().st_size - 1))
        file.seek(at)
        (byte,) = file.read(1)
        file.seek(at)
        file.write(bytes([byte ^ 1 << bit]))


def truncate(path: Path) -> None:
    with path.open("r+b") as file:
        file.truncate(path.stat().st_size // 2)


def empty(path: Path) -> None:
    with path.open("r+b") as file:
        file.truncate(0)


def swap(one: Path, other: Path) -> None:
    """Put two files or folders in each other's place."""
    aside = one.with_name("aside")
    one.rename(aside)
    other.rename(one)
    aside.rename(other)


def note_anew(path: Path) -> None:
    """Have a manifest describe a file as it is now, as if the step had made it so."""
    manifest = path.parent / MANIFEST
    content = json.loads(manifest.read_text())
    content["files"][path.name] |= {"sha256": file_digest(path), "bytes": path.stat().st_size}
    manifest.write_text(json_text(sealed(content)))


def keep_time(path: Path, damage: Callable[[Path], None] = flip_bit) -> None:
    """Damage a file as a disk that loses a bit does: its size and its time stay."""
    stamp = path.stat()
    damage(path)
    os.utime(path, ns=(stamp.st_atime_ns, stamp.st_mtime_ns))


DAMAGES: dict[str, Callable[[Path], None]] = {
    "bit": flip_bit,
    "truncation": truncate,
    "absence": Path.unlink,
    "zero length": empty,
}


def lose_any_bit(chance: Random) -> str:
    """Flip any bit of a file of any kind; its size, time and inode stay."""
    kind = KINDS[chance.choice([*KINDS])]
    path = chance.choice(sorted(kind.parent.glob(f"*{kind.suffix}")))
    keep_time(path, partial(flip_bit, place=chance.random(), bit=chance.randrange(8)))
    return str(path)


def swap_any(chance: Random) -> str:
    """Swap two files of equal size, or two folders of a kind whose files have equal names."""
    forms: dict[object, list[Path]] = defaultdict(list)
    for path in sorted([*Path("resources").rglob(TENSORS), *RESULTS.rglob(TENSORS)]):
        forms[path.stat().st_size].append(path)
    for folder in sorted(path.parent for path in RESULTS.rglob(MANIFEST)):
        names = sorted(file.name for file in folder.iterdir())
        forms[folder.parts[2], *names].append(folder)
    one, other = chance.sample(chance.choice([it for it in forms.values() if len(it) > 1]), 2)
    swap(one, other)
    return f"{one} {other}"


AT_RANDOM = {"bit": lose_any_bit, "swap": swap_any}
