"""Names of criteria and patterns in words, and where models and texts come from."""

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from freelunch.study.patterns import Pattern

_CRITERIA = {
    "magnitude": "Magnitude",
    "wanda": "Wanda",
    "ria": "RIA",
    "sparsegpt": "SparseGPT",
    "random": "Random",
    "wanda_sp": "Wanda-sp",
    "flap": "FLAP",
}


def criterion_label(name: str) -> str:
    """Return the name of a criterion as the field writes it; other names stay as they are."""
    return _CRITERIA.get(name, name)


def pattern_label(name: str) -> str:
    """Return a pattern in words.

    `2of4` has two zeros among four weights; N:M, as the field writes it, counts what stays.
    """
    pattern = Pattern.parse(name)
    if pattern.group is not None:
        return f"{pattern.group - pattern.zeros_in_group(pattern.group)}:{pattern.group}"
    share = f"{100 * pattern.sparsity:.0f} %"
    return f"{share} {'structured' if pattern.structured else 'unstructured'}"


def pruning_label(row: Mapping[str, str]) -> str:
    return f"{criterion_label(row['criterion'])}, {pattern_label(row['pattern'])}"


def pruned_model_label(row: Mapping[str, str]) -> str:
    return f"{row['model']}, {pruning_label(row)}"


def seeds_label(counts: Collection[int]) -> str:
    """Return over how many seeds the numbers of a panel are means."""
    least, most = min(counts), max(counts)
    if most == 1:
        return "one seed"
    return f"mean of {most} seeds" if least == most else f"means of {least} to {most} seeds"


def place_text(entry: Mapping[str, Any]) -> str:
    """Return where a model, text or task comes from; of a local path, only its last part."""
    member = entry.get("member", entry.get("members"))
    member = f", `{member}`" if member else ""
    if "package" in entry:
        return f"Python package `{entry['package']}` {entry['version']}{member}"
    if "repository" in entry:
        place = f"`{entry['repository']}` on the Hugging Face hub"
        return f"{place}, revision `{entry['revision']}`{member}"
    return f"local, `{Path(entry['path']).name}`"
