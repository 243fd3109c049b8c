"""`freelunch new`: write a study of a model and a text that runs as it is."""

import json
import os
import re
import tempfile
import textwrap
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from freelunch.cli.choices import Grids, choose_grids, choose_lengths
from freelunch.core.errors import UserError
from freelunch.core.files import write_atomically
from freelunch.costs.machine import Machine
from freelunch.data.hub import inspect_on_hub, newest_commit
from freelunch.data.inspect_model import InspectedModel, check_as_fetched, inspect_path
from freelunch.data.inspect_text import Amounts, InspectedText, inspect_text, read_documents
from freelunch.data.sources import obtain
from freelunch.study import sources
from freelunch.study.cell import NONE
from freelunch.study.families import FAMILIES
from freelunch.study.registry import REPOSITORY
from freelunch.study.settings import NAME_LENGTH
from freelunch.study.source_files import files_at
from freelunch.study.study import Study
from freelunch.study.windows import AUTO
from freelunch.study.yaml_file import parse_yaml, read_yaml

STUDIES = Path("studies")
# What every new study is based on.
REGISTRY = REPOSITORY / "config" / "registry.yaml"
_WIDTH = 118
_MANUAL = (
    "Written by `freelunch new`. Edit anything: docs/guide/settings.md describes every key.",
    "Verdicts are single-seed. To settle a claim, add `seeds: [0, 1, 2]` to the grids.",
    "Short trainings find the learning rates (docs/guide/windows.md, Learning rates).",
)
Config = dict[str, Any]


def write_study(
    model: str,
    text: Sequence[str],
    name: str | None,
    evaluation: str | None,
    machine: Machine | None,
) -> tuple[Path, list[str]]:
    """Look at a model and a text, and write a study of them to studies/NAME.yaml; return the file,
    and what was found and chosen, a line each.

    The arguments are those of the command; without a machine, none limits the study. UserError:
    there is a study of this name already, or no study of these two can run.
    """
    # `make new` passes on empty text for what is not given.
    given = (("MODEL", model), ("TEXT", "".join(text)))
    if missing := [key for key, value in given if not value]:
        raise UserError(
            "a study needs a model and a text",
            found=f"no {' and no '.join(missing)}",
            todo="type `make new MODEL=<folder, GGUF file or owner/name on the hub> TEXT=<file, "
            "folder or text of config/registry.yaml>`",
        )
    model_name = valid_name(_basename(model))
    places = {"TEXT": [*text], **({"EVALUATION": [evaluation]} if evaluation else {})}
    names = {key: valid_name(_SUFFIXES.sub("", _basename(at[0]))) for key, at in places.items()}
    called = valid_name(name or f"{model_name[:29]}-{names['TEXT'][:20]}")
    path = STUDIES / f"{called}.yaml"
    others = dict(_studies())
    _check_free(called, others)
    # A text is read in less time than a model is looked at, above all on the hub.
    texts = {key: _text(at, key) for key, at in places.items()}
    entry, inspected = _model(model)
    config: Config = {"base": str(REGISTRY.relative_to(REPOSITORY)), "models": {}, "texts": {}}
    about, amounts = [], {}
    defined = [read_yaml(REGISTRY), *others.values(), config]
    for key, (of_text, text_entry) in texts.items():
        if text_entry is not None:
            names[key] = _define("texts", names[key], text_entry, defined)
        amounts[key] = Amounts.of(of_text.documents, inspected.tokenizer, of_text.complete)
        at = ", ".join(places[key])
        named = names[key] if at == names[key] else f"{names[key]} ({at})"
        about.append(f"text {named}: {_about_text(of_text, amounts[key])}")
    model_name = _define("models", model_name, entry, defined)
    about.insert(0, f"model {model_name} ({_path(model)}): {about_model(inspected)}")
    last = "EVALUATION" if evaluation else "TEXT"
    sample, held_out, windows, why_sample, why_windows = choose_lengths(
        inspected,
        (f"TEXT={', '.join(places['TEXT'])}", amounts["TEXT"]),
        (f"EVALUATION={', '.join(places[last])}", amounts[last]),
    )
    study: Config = {
        "name": called,
        "precision": AUTO,
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
    beginning = inspected.beginning
    if beginning is None or beginning.token is not None:
        does = "may begin a text with one" if beginning is None else beginning.text
        about.append(
            f"beginning-of-sequence token: the tokenizer {does}; `bos: auto` in the model's entry, "
            "the default, measures the dense model with and without it; or set `always` or `never`"
        )
    about += [
        f"calibration: {sample['samples']} sequences of {sample['length']} tokens ({why_sample})",
        f"evaluation: {windows['windows']} windows of {windows['length']} tokens "
        f"({why_windows}{seen})",
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
    # A registry that stays empty is the base's alone. YAML would name what is in two places once.
    written = json.loads(json.dumps({key: value for key, value in config.items() if value}))
    text = yaml.safe_dump(written, default_flow_style=None, sort_keys=False, width=_WIDTH)
    return "\n".join([*lines, "", text])


# --- Names

_SUFFIXES = re.compile(r"(\.(jsonl?|txt|parquet|gz|md))+$")


def valid_name(text: str) -> str:
    """Return a text as a name that every registry accepts."""
    name = re.sub(r"[^a-z0-9._-]+|[._-]{2,}", "-", text.lower())
    name = re.sub(r"[._-]{2,}", "-", name).strip("._-") or "unnamed-1"
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


# --- The model and the texts


def _path(written: str) -> Path:
    """Return a path, in which `~` may stand for a user's folder, or begin the name of a file."""
    return Path(os.path.expanduser(written))


def _portable(path: Path) -> str:
    absolute = Path(os.path.abspath(path))
    inside = absolute.is_relative_to(Path.cwd())
    return str(absolute.relative_to(Path.cwd()) if inside else absolute)


def _model(written: str) -> tuple[Config, InspectedModel]:
    path, where = _path(written), f"MODEL={written}"
    entry: Config = {"source": "path", "path": _portable(path)}
    if path.exists():
        inspected = inspect_path(path, where)
        check_as_fetched(path, where)
    else:
        try:
            on_hub = sources.Hub(source="hub", repository=written, revision="main")
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
        sizes = {key: inspected.sizes.get(key) for key in sources.Architecture.model_fields}
        shapes = {key: size for key, size in sizes.items() if size is not None}
        # A config may leave sizes to defaults, which only transformers knows.
        with suppress(ValidationError):
            entry["architecture"] = sources.Architecture(**shapes).as_json()
    if inspected.dtype in (None, sources.UNTRAINED):
        entry["dtype"] = "float32"
    return entry, inspected


# A file of a dataset on the hub.
_HUB_FILE = re.compile(r"(?P<repository>[^/:]+/[^/:]+):(?P<member>.+)")


def _text(written: Sequence[str], key: str) -> tuple[InspectedText, Config | None]:
    """Return a text, and its entry in the study; None if it is one of the registry's. What is not
    there as a file or folder is a name in the registry, or a file on the hub.
    """
    (first, *more), paths = written, [_path(each) for each in written]
    is_here = bool(more) or paths[0].exists()
    registered = None if is_here else read_yaml(REGISTRY)["texts"].get(first)
    on_hub = None if is_here else _HUB_FILE.fullmatch(first)
    if registered is None and on_hub is None:
        files = [Path(file) for file in files_at([*map(str, paths)])]
        text, listed = inspect_text(files or paths, key), [*map(_portable, paths)]
        return text, _with_format({"source": "path", "path": listed if more else listed[0]}, text)
    where, entry = f"texts.{first}", dict(registered or {})
    if on_hub is not None:
        where = f"{key}={first}"
        entry = {"source": "hub", **on_hub.groupdict(), "revision": "main", "format": "plain"}
        entry["revision"] = newest_commit(where, sources.HubText.model_validate(entry))
    asked: Any = sources.read_text(entry)
    if isinstance(asked, sources.Mixture | sources.Tokens):
        raise UserError(
            "a new study takes texts that have documents and are not mixed",
            where=f"{key}={first}",
            found=f"source: {asked.source}",
            expected="a text with documents",
            todo="name one of its parts, and write the mixture into the study afterwards "
            "(docs/guide/configuration.md, Mixtures)",
        )
    with tempfile.TemporaryDirectory() as folder:
        (scratch := Path(folder) / "text").mkdir()
        files = [*obtain(where, asked, scratch).files.values()]
        if registered is None:
            text = inspect_text(files, key)
            return text, _with_format(entry, text)
        stored = getattr(asked, "format", "plain"), getattr(asked, "field", "text")
        return InspectedText(*stored, *read_documents(files, *stored, key)), None


def _with_format(entry: Config, text: InspectedText) -> Config:
    field = {"field": text.field} if text.format in ("jsonl", "parquet") else {}
    return {**entry, "format": text.format, **field}


def about_model(model: InspectedModel) -> str:
    """Return what a model is, in a few words."""
    sizes = model.sizes
    known = "" if model.family in FAMILIES else " (docs/guide/families.md lists what is tested)"
    said = [f"{model.family}{known}"]
    said += [f"{sizes.get('num_hidden_layers') or 'unknown'} blocks"]
    said += [f"hidden size {sizes['hidden_size']}"] if "hidden_size" in sizes else []
    dtype = model.dtype or "no usable dtype, so float32"
    if model.dtype == sources.UNTRAINED:
        dtype = f"float32, since nothing is trained in {sources.UNTRAINED}"
    said += ["GGUF, dequantised to float32" if model.gguf else dtype]
    return ", ".join([*said, f"context {model.positions or 'not stated'}"])


def _about_text(text: InspectedText, amounts: Amounts) -> str:
    field = f", field `{text.field}`" if text.format in ("jsonl", "parquet") else ""
    about = "" if amounts.exact else "about "
    more = "" if text.complete else ", and more that were not read"
    count = f"{len(text.documents):,} document{'' if len(text.documents) == 1 else 's'}"
    if text.format == sources.PARAGRAPHS:
        count += (
            " of 2,000 characters or more, divided at blank lines (neighbours are not independent)"
        )
    return f"{text.format}{field}, {count}, {about}{amounts.tokens:,} tokens{more}"
