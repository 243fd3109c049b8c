"""The file of a study that `freelunch new` writes: reasons as comments, and settings as YAML."""

import textwrap
from collections.abc import Iterable
from typing import Any

import yaml

from freelunch.cli.choices import Choices
from freelunch.study.registry import REPOSITORY
from freelunch.study.yaml_file import read_yaml

# What every new study is based on.
REGISTRY = REPOSITORY / "config" / "registry.yaml"
_WIDTH = 118
_MANUAL = (
    "Written by `freelunch new`. Edit anything: docs/guide/settings.md describes every key.",
    "With one seed, the audit says what it finds on this sample and order. To settle a claim, add "
    "`seeds: [0, 1, 2]` to the grids.",
)
_SEARCH = (
    "The learning rates of these adaptations were tuned for SmolLM2-135M. To search them for your "
    "model, remove the # from all of the next lines: the best rate of each list is chosen, in "
    "about three times the time. A search for some of them alone favours those in every comparison "
    "(docs/guide/windows.md).",
)


def study_text(config: dict[str, Any], choices: Choices, about: Iterable[str]) -> str:
    """Return the text of a study's file.

    Args:
        config: The study, as the content of its file.
        choices: What was chosen for it.
        about: What was found and chosen, a line each.
    """
    rates = _as_yaml({"adaptations": _searches(choices)}).splitlines()
    lines = [*_comment(_MANUAL), *_comment(about), "", _as_yaml(config), *_comment(_SEARCH)]
    return "\n".join([*lines, *(f"#{line}" for line in rates)]) + "\n"


def _searches(choices: Choices) -> dict[str, Any]:
    """Return the adaptations of the study, with their learning rates to be searched."""
    registry = read_yaml(REGISTRY)["adaptations"]
    entries = {}
    for name in dict.fromkeys(("recon_block", *choices.adaptations)):
        entries[name] = registry[name] | {"learning_rate": _around(registry[name]["learning_rate"])}
        if not choices.held_out:
            entries[name]["select_on"] = "evaluation"
    return entries


def _around(rate: float) -> list[float]:
    """Return a learning rate between its neighbours among 0.0001, 0.0003, 0.001 and so on."""
    steps = [float(f"{digit}e{exponent}") for exponent in range(-6, 1) for digit in (1, 3)]
    at = steps.index(rate)
    return steps[at - 1 : at + 2]


def _as_yaml(content: dict[str, Any]) -> str:
    return yaml.safe_dump(content, default_flow_style=None, sort_keys=False, width=_WIDTH)


def _comment(said: Iterable[str]) -> list[str]:
    """Return lines of a comment; a character that would end a line of YAML, or spoil it, is `?`."""
    shown = ("".join(char if char.isprintable() else "?" for char in each) for each in said)
    wrapper = textwrap.TextWrapper(
        _WIDTH,
        initial_indent="# ",
        subsequent_indent="#   ",
        break_long_words=False,
        break_on_hyphens=False,
    )
    return [line for each in shown for line in wrapper.wrap(each)]
