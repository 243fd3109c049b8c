"""Names of criteria, patterns and adaptations in words, and where models and texts come from."""

import json
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from freelunch.study.cell import NONE
from freelunch.study.comparisons import AMOUNTS, MEMORY
from freelunch.study.methods import (
    BIASES,
    BIASES_NORMS,
    FULL,
    LORA,
    LORA_PRUNE,
    MASKLORA,
    NORMS,
    SCALELORA,
    SPP,
)
from freelunch.study.patterns import Pattern
from freelunch.study.windows import ALL, AUTO, HALVES, LEAST_SQUARES, MATRIX

# The registry `adaptations` of a config, as JSON has it.
Registered = Mapping[str, Mapping[str, Any]]
# What an adaptation is: its method and, for a reconstruction, its window.
Kind = tuple[str, int | str | None]

_CRITERIA = {
    "magnitude": "Magnitude",
    "wanda": "Wanda",
    "ria": "RIA",
    "sparsegpt": "SparseGPT",
    "random": "Random",
    "wanda_sp": "Wanda-sp",
    "flap": "FLAP",
}
_WINDOWS = {
    MATRIX: "single matrices",
    HALVES: "half blocks",
    1: "one block",
    ALL: "whole model",
    AUTO: "as memory allows",
}
_RETRAINING = {
    FULL: "all weights",
    BIASES: "biases",
    NORMS: "norms",
    BIASES_NORMS: "biases and norms",
    LORA: "LoRA",
    LORA_PRUNE: "LoRA-Prune",
    MASKLORA: "MaskLoRA",
    SCALELORA: "ScaleLoRA",
    SPP: "SPP",
}
_VALUES = {
    ("loss", "distillation"): "distilled",
    ("loss", "relative_squared_error"): "relative loss",
    ("targets", "behind_sparse"): "behind sparse",
    ("lost_residual", "True"): "no residual",
    ("model_dropout", "True"): "dropout active",
    ("train_norms", "True"): "with norms",
    ("train_norms", "False"): "without norms",
}


def criterion_label(name: str) -> str:
    """Return the name of a criterion as the field writes it; other names stay as they are."""
    return _CRITERIA.get(name, name)


def window_label(window: int | str | None) -> str:
    """Return a window in words."""
    return _WINDOWS.get(window) or f"{window} blocks"


def pattern_label(name: str) -> str:
    """Return a pattern in words.

    `2of4` has two zeros among four weights; N:M, as the field writes it, counts what stays.
    """
    pattern = Pattern.parse(name)
    if pattern.group is not None:
        return f"{pattern.group - pattern.zeros_in_group(pattern.group)}:{pattern.group}"
    share = f"{100 * pattern.sparsity:.0f} %"
    return f"{share} {'structured' if pattern.structured else 'unstructured'}"


def pruning_label(row: Mapping[str, Any]) -> str:
    """Return the criterion and the pattern of a row in words."""
    return f"{criterion_label(row['criterion'])}, {pattern_label(row['pattern'])}"


def pruned_model_label(row: Mapping[str, Any]) -> str:
    """Return the model, the criterion and the pattern of a row in words."""
    return f"{row['model']}, {pruning_label(row)}"


def seeds_label(counts: Collection[int]) -> str:
    """Return over how many seeds the numbers of a panel are means."""
    least, most = min(counts), max(counts)
    if most == 1:
        return "one seed"
    return f"mean of {most} seeds" if least == most else f"means of {least} to {most} seeds"


def kind_of(settings: Mapping[str, Any]) -> Kind:
    """Return what an adaptation is."""
    method = settings["method"]
    return method, None if method in _RETRAINING else settings.get("window", MATRIX)


def is_retraining(kind: Kind) -> bool:
    """Return whether adaptations of this kind train the whole model on the text itself."""
    return kind[0] in _RETRAINING


def variants(adaptations: Registered) -> dict[str, int]:
    """Return the place of each adaptation among the variants of its kind, from 0.

    Adaptations that differ only in how much text they see, and in the settings chosen for that
    amount, are one variant.
    """
    found: dict[str, int] = {}
    of_kinds: dict[Kind, list[str]] = {}
    for name, settings in adaptations.items():
        rest = {key: it for key, it in settings.items() if key not in (*AMOUNTS, *MEMORY)}
        of_kind, written = of_kinds.setdefault(kind_of(settings), []), json.dumps(rest)
        if written not in of_kind:
            of_kind.append(written)
        found[name] = of_kind.index(written)
    return found


def adaptation_labels(adaptations: Registered) -> dict[str, str]:
    """Return each adaptation in words, and `none`: its kind, and what sets it apart.

    Args:
        adaptations: All adaptations of the config. The first of each kind is named by its kind, and
            the others also by how they differ from it; all are named by their amounts of text,
            unless these are alike. If two would have the same label, that of the second also has
            its name in the config.
    """
    firsts, labels = first_of_kinds(adaptations), {NONE: "not adapted"}
    amounts: dict[Kind, list[list[str]]] = {}
    for settings in adaptations.values():
        amounts.setdefault(kind_of(settings), []).append(_amounts(settings))
    for name in sorted(adaptations, key=lambda name: name not in firsts.values()):
        settings = adaptations[name]
        kind, own = kind_of(settings), _amounts(settings)
        alike = all(others == own for others in amounts[kind])
        differs = [*_differences(settings, adaptations[firsts[kind]]), *([] if alike else own)]
        label = ", ".join([_kind_label(settings), *differs])
        labels[name] = f"{label} ({name})" if label in labels.values() else label
    return {name: labels[name] for name in (NONE, *adaptations)}


def first_of_kinds(adaptations: Registered) -> dict[Kind, str]:
    """Return the name of the first adaptation of each kind, by kind.

    An adaptation without an amount of text of its own comes before the others.
    """
    found: dict[Kind, str] = {}
    for name in sorted(adaptations, key=lambda name: bool(_amounts(adaptations[name]))):
        found.setdefault(kind_of(adaptations[name]), name)
    return found


def series_label(settings: Mapping[str, Any], label: str) -> str:
    """Return the label of an adaptation without its amount of text."""
    amounts = set(_amounts(settings))
    return ", ".join(word for word in label.split(", ") if word not in amounts)


def _kind_label(settings: Mapping[str, Any]) -> str:
    method, window = kind_of(settings)
    if method in _RETRAINING:
        return f"retraining: {_RETRAINING[method]}"
    return f"reconstruction: {window_label(window)}{', exact' if method == LEAST_SQUARES else ''}"


def _differences(settings: Mapping[str, Any], first: Mapping[str, Any]) -> list[str]:
    """Return in words how an adaptation differs from the first one of its kind, whatever their
    amounts of text.
    """
    # Learning rates are chosen for each variant, and memory changes no result.
    quiet = (*AMOUNTS, *MEMORY)
    changed = [key for key in settings if key not in quiet and settings[key] != first.get(key)]
    return [
        _VALUES.get((key, str(settings[key]))) or _setting(key, settings[key]) for key in changed
    ]


def _amounts(settings: Mapping[str, Any]) -> list[str]:
    """Return in words how much text an adaptation sees, where its settings say so."""
    words = []
    if budget := settings.get("budget"):
        tokens, times = budget.get("tokens"), budget.get("times")
        words.append(
            f"{tokens:,} tokens" if tokens else f"{times:g} \N{MULTIPLICATION SIGN} tokens"
        )
    if samples := settings.get("samples"):
        words.append(f"{samples} sequences")
    if isinstance(epochs := settings.get("epochs", 1), int) and epochs > 1:
        words.append(f"{epochs} epochs")
    return words


def _setting(key: str, value: Any) -> str:
    """Return a setting in words: "sparse inputs", "bfloat16", "rank 8"."""
    name = key.replace("_", " ")
    if key in ("inputs", "targets"):
        return f"{value} {name}"
    if key == "memory_gb":
        return f"in {value:g} GB"
    return str(value) if key == "precision" else f"{name} {value}"


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
