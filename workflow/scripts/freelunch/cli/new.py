"""`freelunch new`: write a study of a model and a text that runs as it is."""

import os
import re
import tempfile
import textwrap
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from freelunch.cli.choices import Grids, choose_grids, choose_lengths
from freelunch.core.errors import UserError
from freelunch.core.files import write_atomically
from freelunch.costs.machine import Machine
from freelunch.data.hub import inspect_on_hub
from freelunch.data.inspect_model import InspectedModel, check_as_fetched, inspect_path
from freelunch.data.inspect_text import Amounts, InspectedText, inspect_text
from freelunch.study.cell import NONE
from freelunch.study.families import FAMILIES
from freelunch.study.registry import REPOSITORY
from freelunch.study.settings import NAME_LENGTH, RESERVED
from freelunch.study.sources import UNTRAINED, Architecture, Hub
from freelunch.study.study import Study
from freelunch.study.windows import AUTO
from freelunch.study.yaml_file import parse_yaml, read_yaml

STUDIES = Path("studies")
# What every new study is based on.
REGISTRY = REPOSITORY / "config" / "registry.yaml"
_WIDTH = 118
_MANUAL = (
    "Written by `freelunch new`. Edit anything: docs/guide/settings.md describes every key.",
    "With one seed, the audit says what it finds on this sample and order. To settle a claim, add "
    "`seeds: [0, 1, 2]` to the grids.",
    "Short trainings find the learning rates (docs/guide/windows.md, Learning rates).",
)
Config = dict[str, Any]


def write_study(
    model: str, text: str, name: str | None, evaluation: str | None, machine: Machine | None
) -> tuple[Path, list[str]]:
    """Look at a model and a text, and write a study of them to studies/NAME.yaml; return the file,
    and what was found and chosen, a line each.

    The arguments are those of the command; without a machine, none limits the study.

    Raises:
        UserError: There is a study of this name already, or no study of these two can run.
    """
    # `make new` passes on empty text for what is not given.
    if missing := [key for key, value in (("MODEL", model), ("TEXT", text)) if not value]:
        raise UserError(
            "a study needs a model and a text",
            found=f"no {' and no '.join(missing)}",
            todo="type `make new MODEL=<folder, GGUF file or owner/name on the hub> TEXT=<file>`",
        )
    model_name = valid_name(_basename(model))
    places = {"TEXT": _path(text), **({"EVALUATION": _path(evaluation)} if evaluation else {})}
    names = {key: valid_name(_SUFFIXES.sub("", path.name)) for key, path in places.items()}
    called = valid_name(name or f"{model_name[:29]}-{names['TEXT'][:20]}")
    path = STUDIES / f"{called}.yaml"
    others = dict(_studies())
    _check_free(called, others)
    entry, inspected = _model(model)
    config: Config = {"base": str(REGISTRY.relative_to(REPOSITORY)), "models": {}, "texts": {}}
    about, amounts = [], {}
    defined = [read_yaml(REGISTRY), *others.values(), config]
    for key, place in places.items():
        of_text = inspect_text(place, key)
        names[key] = _define("texts", names[key], _text_entry(place, of_text), defined)
        amounts[key] = Amounts.of(of_text.documents, inspected.tokenizer, of_text.complete)
        about.append(f"text {names[key]} ({place}): {_about_text(of_text, amounts[key])}")
    model_name = _define("models", model_name, entry, defined)
    about.insert(0, f"model {model_name} ({_path(model)}): {about_model(inspected)}")
    last = "EVALUATION" if evaluation else "TEXT"
    lengths = choose_lengths(
        inspected,
        (f"TEXT={places['TEXT']}", amounts["TEXT"]),
        (f"EVALUATION={places[last]}", amounts[last]),
    )
    sample, windows, held_out = lengths.calibration, lengths.perplexity, lengths.held_out
    study: Config = {
        "name": called,
        "calibration": {"text": names["TEXT"], **sample},
        "evaluation": {"perplexity": {"text": names[last], **windows}},
    }
    if held_out:
        study["evaluation"]["drift"], study["selection"] = held_out, dict(held_out)

    def with_cells(grids: Grids) -> Config:
        names = dict.fromkeys(name for grid in grids for name in grid["adaptations"])
        known = read_yaml(REGISTRY)["adaptations"]
        found = {name: {**known[name], "learning_rate": AUTO} for name in names if name != NONE}
        return {**config, "adaptations": found, "study": {**study, "grids": grids}}

    def study_of(grids: Grids) -> Study:
        return Study.check(with_cells(grids), str(path))

    grids, why_cells = choose_grids(model_name, inspected, machine, study_of)
    config = with_cells(grids)
    seen = "" if evaluation else "; calibration has seen parts of this text"
    seen += ", so also read the held-out perplexity" if seen and held_out else ""
    about += [
        f"calibration: {sample['samples']} sequences of {sample['length']} tokens "
        f"({lengths.why_calibration})",
        f"evaluation: {windows['windows']} windows of {windows['length']} tokens "
        f"({lengths.why_perplexity}{seen})",
        f"cells: {why_cells}",
    ]
    about += [f"named {called}: {name} is not a valid name"] if name not in (None, called) else []
    written = study_text(config, about)
    # Before it is written: a file that could not be read would stand in the way of the next try.
    Study.check(parse_yaml(written, path), str(path))
    write_atomically(path, written)
    return path, about


def study_text(config: Config, about: Iterable[str]) -> str:
    """Return the text of a study's file: what was found and chosen as a comment, and settings."""
    # A character that would end a line of YAML, or spoil it, is `?`.
    said = ("".join(char if char.isprintable() else "?" for char in each) for each in about)
    comments = textwrap.TextWrapper(
        _WIDTH,
        initial_indent="# ",
        subsequent_indent="#   ",
        break_long_words=False,
        break_on_hyphens=False,
    )
    lines = [line for each in (*_MANUAL, *said) for line in comments.wrap(each)]
    text = yaml.safe_dump(config, default_flow_style=None, sort_keys=False, width=_WIDTH)
    return "\n".join([*lines, "", text])


# --- Names

_SUFFIXES = re.compile(r"(\.(jsonl?|txt|parquet|gz|md))+$")


def valid_name(text: str) -> str:
    """Return a text as a name that every registry accepts."""
    name = re.sub(r"[^a-z0-9._-]+|[._-]{2,}", "-", text.lower())
    name = re.sub(r"[._-]{2,}", "-", name).strip("._-") or "unnamed-1"
    stem, dot, rest = name.partition(".")
    name = f"{stem}-1{dot}{rest}" if stem in RESERVED else name
    return name[:NAME_LENGTH].strip("._-")


def numbered(name: str) -> Iterator[str]:
    """Yield names that differ from this one by a number."""
    start = name[: NAME_LENGTH - 4].rstrip("._-")
    return (f"{start}-{number}" for number in range(2, 1000))


def _basename(model: str) -> str:
    path = _path(model)
    name = path.resolve().name if path.exists() else model.rpartition("/")[2]
    return name.removesuffix(".gguf")


def _studies() -> Iterator[tuple[Path, Config]]:
    """Yield the studies here; one that cannot be read reserves no names but its file's."""
    for file in (Path("config.yaml"), *sorted(STUDIES.glob("*.yaml"))):
        config = None
        with suppress(UserError):
            config = read_yaml(file)
        yield file, config if isinstance(config, dict) else {}


def _define(registry: str, name: str, entry: Config, defined: list[Config]) -> str:
    """Define a model or a text in the last of some configs, and return its name, which is another's
    in none: studies share the folders that models and texts are fetched to.
    """

    def is_free(name: str) -> bool:
        entries = [each.get(registry) for each in defined]
        return all(each.get(name, entry) == entry for each in entries if isinstance(each, dict))

    name = next(filter(is_free, [name, *numbered(name)]))
    defined[-1][registry][name] = entry
    return name


def _check_free(name: str, others: dict[Path, Config]) -> None:
    """Refuse the name of another study: both would write into results/NAME."""
    files: dict[object, Path] = {}
    for file, config in others.items():
        study = config.get("study")
        files[file.stem] = files[study.get("name") if isinstance(study, dict) else ""] = file
    if name in files:
        other = next(each for each in numbered(name) if each not in files)
        raise UserError(
            "there is already a study of this name; it is kept as it is",
            where=files[name],
            found=name,
            todo=f"run it (make study STUDY={files[name]}), or give the new one another name: "
            f"NAME={other}",
        )
    if os.path.lexists(STUDIES) and not STUDIES.is_dir():
        raise UserError(
            "a new study is written into the folder of this name, and this is none",
            where=STUDIES,
            expected="a folder, or nothing yet",
            todo="rename it, or write the study in another folder",
        )


# --- The model and the texts


def _path(written: str) -> Path:
    """Return a path, in which `~` may stand for a user's folder, or begin the name of a file."""
    return Path(os.path.expanduser(written))


def _portable(path: Path) -> str:
    """Return a path for a study: relative to this folder if it is inside, and else absolute."""
    absolute = Path(os.path.abspath(path))
    inside = absolute.is_relative_to(Path.cwd())
    return str(absolute.relative_to(Path.cwd()) if inside else absolute)


def _model(written: str) -> tuple[Config, InspectedModel]:
    """Return the model's entry in the study, and what it is."""
    path, where = _path(written), f"MODEL={written}"
    entry: Config = {"source": "path", "path": _portable(path)}
    if path.exists():
        inspected = inspect_path(path, where)
        check_as_fetched(path, where)
    else:
        try:
            on_hub = Hub(source="hub", repository=written, revision="main")
        except ValidationError as error:
            raise UserError(
                "there is no model",
                where=where,
                found=f"{path.absolute()} does not exist",
                expected="the path of a folder or a GGUF file, or owner/name on the Hugging Face "
                "hub, such as HuggingFaceTB/SmolLM2-135M",
                todo="correct the path, or write the owner before the name",
            ) from error
        with tempfile.TemporaryDirectory() as scratch:
            inspected, commit = inspect_on_hub(where, on_hub, Path(scratch))
        entry = {"source": "hub", "repository": written, "revision": commit}
        sizes = {key: inspected.sizes.get(key) for key in Architecture.model_fields}
        shapes = {key: size for key, size in sizes.items() if size is not None}
        # A config may leave sizes to defaults, which only transformers knows.
        with suppress(ValidationError):
            entry["architecture"] = Architecture(**shapes).as_json()
    if inspected.dtype in (None, UNTRAINED):
        entry["dtype"] = "float32"
    return entry, inspected


def _text_entry(path: Path, text: InspectedText) -> Config:
    entry = {"source": "path", "path": _portable(path), "format": text.format}
    return entry | ({"field": text.field} if text.format in ("jsonl", "parquet") else {})


def about_model(model: InspectedModel) -> str:
    """Return what a model is, in a few words."""
    sizes = model.sizes
    said = [model.family if model.family in FAMILIES else f"{model.family} (not tested)"]
    said += [f"{sizes.get('num_hidden_layers') or 'unknown'} blocks"]
    said += [f"hidden size {sizes['hidden_size']}"] if "hidden_size" in sizes else []
    dtype = model.dtype or "no usable dtype, so float32"
    if model.dtype == UNTRAINED:
        dtype = f"float32, since nothing is trained in {UNTRAINED}"
    said += ["GGUF, dequantised to float32" if model.gguf else dtype]
    return ", ".join([*said, f"context {model.positions or 'not stated'}"])


def _about_text(text: InspectedText, amounts: Amounts) -> str:
    field = f", field `{text.field}`" if text.format in ("jsonl", "parquet") else ""
    about = "" if amounts.exact else "about "
    more = "" if text.complete else ", and more that were not read"
    count = f"{len(text.documents):,} document{'' if len(text.documents) == 1 else 's'}"
    return f"{text.format}{field}, {count}, {about}{amounts.tokens:,} tokens{more}"
