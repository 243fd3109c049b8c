"""The text of a study's file that `freelunch new` writes: settings, with reasons as comments."""

import math
import textwrap
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import yaml

from freelunch.cli.choices import Choices
from freelunch.study.registry import REPOSITORY
from freelunch.study.yaml_file import read_yaml

# What every new study is based on.
REGISTRY = REPOSITORY / "config" / "registry.yaml"
_WIDTH = 118


@dataclass(frozen=True)
class StudyFile:
    """A study's file.

    Attributes:
        name: The study's name.
        about: What was found out about the model and the texts, a sentence each.
        models: The entry of the model, by its name.
        texts: The entries of the texts for calibration and for evaluation, by their names.
        calibration: The name of the text for calibration.
        evaluation: The name of the text for evaluation.
        choices: The settings that depend on the model and the texts.
    """

    name: str
    about: list[str]
    models: dict[str, dict[str, Any]]
    texts: dict[str, dict[str, Any]]
    calibration: str
    evaluation: str
    choices: Choices

    def config(self) -> dict[str, Any]:
        """Return the study as the content of its file."""
        (model,) = self.models
        texts = self.calibration, self.evaluation
        study = {"name": self.name, **self.choices.as_study(texts, model)}
        return {
            "base": str(REGISTRY.relative_to(REPOSITORY)),
            "models": self.models,
            "texts": self.texts,
            "study": study,
        }

    def text(self, why: Mapping[str, str]) -> str:
        """Return the file's text.

        Args:
            why: Reasons of the entries of models and texts, by their names.
        """
        config, choices = self.config(), self.choices
        study = config["study"]
        lines = _comment(
            "Written by `freelunch new`. Edit anything: docs/guide/settings.md describes every key."
        )
        lines += [line for said in self.about for line in _comment(said)]
        lines += ["", f"base: {config['base']}", "", *_entries("models", self.models, why)]
        lines += ["", *_entries("texts", self.texts, why), "", "study:"]
        lines += [f"  name: {_flow(self.name)}", *_comment(choices.why_calibration, "  ")]
        lines += [f"  calibration: {_flow(study['calibration'])}", "  evaluation:"]
        same = self.calibration == self.evaluation
        seen = "; calibration has seen parts of this text" if same else ""
        seen += ", so also read the held-out perplexity" if same and choices.held_out else ""
        lines += _comment(choices.why_evaluation + seen, "    ")
        lines += [f"    perplexity: {_flow(study['evaluation']['perplexity'])}"]
        if choices.held_out:
            lines += _comment("drift uses documents that calibration does not touch", "    ")
            lines += [f"    drift: {_flow(study['evaluation']['drift'])}"]
            lines += [f"  selection: {_flow(study['selection'])}"]
        seeds = "with one seed, the audit says what it finds on this sample and order; to settle a "
        seeds += "claim, add `seeds: [0, 1, 2]` to the grids"
        lines += [*_comment(choices.why_cells, "  "), *_comment(seeds, "  "), "  grids:"]
        for grid in study["grids"]:
            first, *others = grid.items()
            lines += [f"    - {first[0]}: {_flow(first[1])}"]
            lines += [f"      {key}: {_flow(value)}" for key, value in others]
        return "\n".join([*lines, "", *_rates(choices)]) + "\n"


def _rates(choices: Choices) -> list[str]:
    """Return the comment that searches the learning rates of all adaptations of the study."""
    registry = read_yaml(REGISTRY)["adaptations"]
    lines = [
        *_comment(
            "The learning rates of these adaptations were tuned for SmolLM2-135M. To search them "
            "for your model, remove the # from all of the next lines: the best rate of each list "
            "is chosen, in about three times the time. A search for some of them alone favours "
            "those in every comparison (docs/guide/windows.md)."
        ),
        "#adaptations:",
    ]
    for name in dict.fromkeys(("recon_block", *choices.adaptations)):
        entry = registry[name] | {"learning_rate": _around(registry[name]["learning_rate"])}
        entry |= {} if choices.held_out else {"select_on": "evaluation"}
        lines += textwrap.wrap(
            f"{name}: {_flow(entry)}",
            _WIDTH,
            initial_indent="#  ",
            subsequent_indent="#    ",
            break_on_hyphens=False,
        )
    return lines


def _around(rate: float) -> list[float]:
    """Return a learning rate between its neighbours among 0.0001, 0.0003, 0.001 and so on."""
    steps = [digit * 10.0**exponent for exponent in range(-6, 1) for digit in (1, 3)]
    steps = [float(f"{step:g}") for step in steps]
    at = steps.index(rate)
    return steps[at - 1 : at + 2]


def _entries(
    registry: str, entries: Mapping[str, Mapping[str, Any]], why: Mapping[str, str]
) -> list[str]:
    lines = [f"{registry}:"]
    for name, entry in entries.items():
        lines += [f"  {_flow(name)}:", *(_comment(why[name], "    ") if why.get(name) else [])]
        for key, value in entry.items():
            if isinstance(value, Mapping):
                lines += [
                    f"    {key}:",
                    *(f"      {at}: {_flow(each)}" for at, each in value.items()),
                ]
            else:
                lines.append(f"    {key}: {_flow(value)}")
    return lines


def _flow(value: Any) -> str:
    """Return a value as YAML in one line."""
    has_breaks = isinstance(value, str) and value.splitlines() not in ([], [value])
    text = yaml.safe_dump(
        value,
        default_style='"' if has_breaks else None,
        default_flow_style=True,
        allow_unicode=True,
        sort_keys=False,
        width=math.inf,
    )
    # A value that is no list or mapping ends with a mark.
    return text.removesuffix("...\n").rstrip("\n")


def _comment(said: str, indent: str = "") -> list[str]:
    text = said[0].upper() + said[1:] + ("" if said.endswith((".", ":")) else ".")
    return textwrap.wrap(
        text,
        _WIDTH,
        initial_indent=f"{indent}# ",
        subsequent_indent=f"{indent}# ",
        break_long_words=False,
        break_on_hyphens=False,
    )
