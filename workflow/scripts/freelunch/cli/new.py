"""`freelunch new`: write a study of a model and a text that runs as it is."""

import os
import re
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from freelunch.cli.cell_choices import choose_cells
from freelunch.cli.choices import Choices, choose_calibration, choose_windows
from freelunch.cli.study_file import REGISTRY, study_text
from freelunch.core.errors import UserError
from freelunch.core.files import write_atomically
from freelunch.costs.machine import Machine
from freelunch.data.hub import inspect_on_hub
from freelunch.data.inspect_model import InspectedModel, check_as_fetched, inspect_path
from freelunch.data.inspect_text import Amounts, InspectedText, inspect_text
from freelunch.study.families import FAMILIES
from freelunch.study.registry import REPOSITORY
from freelunch.study.settings import NAME_LENGTH, RESERVED
from freelunch.study.sources import UNTRAINED, Architecture, Hub
from freelunch.study.study import Study
from freelunch.study.yaml_file import parse_yaml, read_yaml

STUDIES = Path("studies")


@dataclass(frozen=True)
class NewStudy:
    """A study that was written.

    Attributes:
        path: Its file.
        study: The study.
        about: What was found and chosen, a line each.
    """

    path: Path
    study: Study
    about: list[str]


def write_study(
    model: str,
    text: str,
    name: str | None,
    evaluation: str | None,
    machine: Machine | None,
) -> NewStudy:
    """Look at a model and a text, and write a study of them to studies/NAME.yaml.

    Args:
        model: A folder or a GGUF file, or else the name of a repository on the hub.
        text: The file of the text to calibrate on.
        name: The study's name; None to join the names of both.
        evaluation: The file of the text to evaluate on; None for the same one.
        machine: The machine that runs it; None to choose without one.

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
    if os.path.lexists(STUDIES) and not STUDIES.is_dir():
        raise UserError(
            "a new study is written into the folder of this name, and this is none",
            where=STUDIES,
            expected="a folder, or nothing yet",
            todo="rename it, or write the study in another folder",
        )
    places = {"TEXT": _path(text), "EVALUATION": _path(evaluation or text)}
    names = {key: _text_name(place) for key, place in places.items()}
    model_name = valid_name(_basename(model))
    called = valid_name(name or f"{model_name[:29]}-{names['TEXT'][:20]}")
    path = STUDIES / f"{called}.yaml"
    _check_free(called)
    entry, inspected = _model(model)
    first = inspect_text(places["TEXT"], "TEXT")
    texts = {"TEXT": first, "EVALUATION": first}
    if evaluation:
        texts["EVALUATION"] = inspect_text(places["EVALUATION"], "EVALUATION")
    amounts = {
        key: Amounts.of(each.documents, inspected.tokenizer, each.complete)
        for key, each in texts.items()
    }
    choices = Choices(
        *choose_calibration(inspected, amounts["TEXT"], f"TEXT={places['TEXT']}"),
        *choose_windows(inspected, amounts["EVALUATION"], f"EVALUATION={places['EVALUATION']}"),
    )
    defined = dict(_defined())
    entries = {}
    for key, place in places.items():
        entries[key] = _text_entry(place, texts[key])
        names[key] = _free("texts", names[key], entries[key], defined)
        defined["texts", names[key]] = entries[key]
    model_name = _free("models", model_name, entry, defined)

    def config_of(choices: Choices) -> dict[str, Any]:
        study = choices.as_study((names["TEXT"], names["EVALUATION"]), model_name)
        return {
            "base": str(REGISTRY.relative_to(REPOSITORY)),
            "models": {model_name: entry},
            "texts": {names[key]: entries[key] for key in places},
            "study": {"name": called, **study},
        }

    def study_of(choices: Choices) -> Study:
        return Study.check(config_of(choices), str(path))

    choices = choose_cells(choices, study_of, inspected, machine)
    about = [f"model {model_name} ({_path(model)}): {_about_model(inspected)}"]
    for key in places if evaluation else ("TEXT",):
        about.append(f"text {names[key]} ({places[key]}): {_about_text(texts[key], amounts[key])}")
    about += _about_choices(choices, is_one_text=not evaluation)
    if name and name != called:
        about.append(f"named {called}: {name} is not a valid name")
    written = study_text(config_of(choices), choices, about)
    # Before it is written: a file that could not be read would stand in the way of the next try.
    study = Study.check(parse_yaml(written, path), str(path))
    write_atomically(path, written)
    return NewStudy(path, study, about)


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


def _path(written: str) -> Path:
    """Return a path, in which `~` may stand for a user's folder, or begin the name of a file."""
    return Path(os.path.expanduser(written))


def _basename(model: str) -> str:
    path = _path(model)
    name = path.resolve().name if path.exists() else model.rpartition("/")[2]
    return name.removesuffix(".gguf")


def _text_name(path: Path) -> str:
    return valid_name(re.sub(r"(\.(jsonl?|txt|parquet|gz|md))+$", "", path.name))


def _model(written: str) -> tuple[dict[str, Any], InspectedModel]:
    """Return the model's entry in the study, and what it is."""
    path, where = _path(written), f"MODEL={written}"
    entry: dict[str, Any]
    if not path.exists():
        try:
            on_hub = Hub(source="hub", repository=written, revision="main")
        except ValidationError as error:
            raise UserError(
                "there is no model",
                where=where,
                found=f"{path.absolute()} does not exist",
                expected="the path of a folder or a GGUF file, or the name of a model on the "
                "Hugging Face hub, which is owner/name",
                todo="correct the path, or write the owner before the name, such as "
                "HuggingFaceTB/SmolLM2-135M",
            ) from error
        with tempfile.TemporaryDirectory() as scratch:
            inspected, commit = inspect_on_hub(where, on_hub, Path(scratch))
        entry = {"source": "hub", "repository": written, "revision": commit}
        sizes = {key: inspected.sizes.get(key) for key in Architecture.model_fields}
        shapes = {key: size for key, size in sizes.items() if size is not None}
        # A config may leave sizes to defaults, which only transformers knows.
        with suppress(ValidationError):
            entry["architecture"] = Architecture(**shapes).as_json()
    else:
        inspected = inspect_path(path, where)
        check_as_fetched(path, where)
        entry = {"source": "path", "path": _portable(path)}
    if inspected.dtype in (None, UNTRAINED):
        entry["dtype"] = "float32"
    return entry, inspected


def _portable(path: Path) -> str:
    """Return a path for a study: relative to this folder if it is inside, and else absolute."""
    absolute = Path(os.path.abspath(path))
    inside = absolute.is_relative_to(Path.cwd())
    return str(absolute.relative_to(Path.cwd()) if inside else absolute)


def _text_entry(path: Path, inspected: InspectedText) -> dict[str, Any]:
    """Return a text's entry in the study."""
    entry = {"source": "path", "path": _portable(path), "format": inspected.format}
    has_field = inspected.format in ("jsonl", "parquet")
    return entry | ({"field": inspected.field} if has_field else {})


def _configs() -> Iterator[tuple[Path, Any]]:
    """Yield the studies here, with their files; one that cannot be read reserves no names."""
    for file in (Path("config.yaml"), *sorted(STUDIES.glob("*.yaml"))):
        config = None
        with suppress(UserError):
            config = read_yaml(file)
        yield file, config if isinstance(config, dict) else {}


def _defined() -> Iterator[tuple[tuple[str, str], Any]]:
    """Yield registry and name of each model and text that is defined here, with its entry: studies
    share the folders that models and texts are fetched to.
    """
    for config in (read_yaml(REGISTRY), *(config for _, config in _configs())):
        for registry in ("models", "texts"):
            entries = config.get(registry)
            for name, entry in entries.items() if isinstance(entries, dict) else ():
                yield (registry, name), entry


def _free(registry: str, name: str, entry: Any, defined: dict[tuple[str, str], Any]) -> str:
    """Return a name that no other model or text has."""
    names = [name, *numbered(name)]
    return next(each for each in names if defined.get((registry, each), entry) == entry)


def _check_free(name: str) -> None:
    """Refuse the name of another study: both would write into results/NAME."""
    files: dict[object, Path] = {}
    for file, config in _configs():
        files[file.stem] = file
        study = config.get("study")
        files[study.get("name") if isinstance(study, dict) else file.stem] = file
    if name in files:
        other = next(each for each in numbered(name) if each not in files)
        raise UserError(
            "there is already a study of this name; it is kept as it is",
            where=files[name],
            found=name,
            todo=f"run it (make study STUDY={files[name]}), or give the new one another name: "
            f"NAME={other}",
        )


def _about_model(model: InspectedModel) -> str:
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


def _about_choices(choices: Choices, *, is_one_text: bool) -> Iterator[str]:
    yield (
        f"calibration: {choices.samples} sequences of {choices.length} tokens "
        f"({choices.why_calibration})"
    )
    seen = "; calibration has seen parts of this text" if is_one_text else ""
    seen += ", so also read the held-out perplexity" if seen and choices.held_out else ""
    yield (
        f"evaluation: {choices.windows} windows of {choices.window_length} tokens "
        f"({choices.why_evaluation}{seen})"
    )
    yield f"cells: {choices.why_cells}"
