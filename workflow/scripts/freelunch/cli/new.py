"""`freelunch new`: write a study of a model and a text that runs as it is."""

import os
import re
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from freelunch.cli.cell_choices import choose_cells
from freelunch.cli.choices import Choices, choose_calibration, choose_windows
from freelunch.cli.given import Given, again, check_given, then
from freelunch.cli.study_file import REGISTRY, StudyFile
from freelunch.core.errors import UserError
from freelunch.core.files import write_atomically
from freelunch.costs.machine import Machine
from freelunch.data.seen_hub import is_repository, model_on_hub
from freelunch.data.seen_model import SeenModel, check_as_fetched, model_at
from freelunch.data.seen_text import SeenText, text_at
from freelunch.data.text_amounts import Amounts
from freelunch.study.families import FAMILIES
from freelunch.study.settings import NAME_LENGTH, RESERVED
from freelunch.study.sources import UNTRAINED
from freelunch.study.study import Study
from freelunch.study.yaml_file import parse_yaml, read_yaml

STUDIES = Path("studies")
# Families whose GGUF files announce the same shapes as their converted config.
_ANNOUNCED = ("llama", "mistral", "qwen2", "qwen3")
_REQUIRED = {"num_hidden_layers", "hidden_size", "intermediate_size", "num_attention_heads"}
_REQUIRED |= {"vocab_size"}
_SHAPES = (
    *("model_type", "num_hidden_layers", "hidden_size", "intermediate_size"),
    *("num_attention_heads", "num_key_value_heads", "head_dim", "vocab_size"),
    "tie_word_embeddings",
)


class Written(NamedTuple):
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
) -> Written:
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
    given = {
        "MODEL": model,
        "TEXT": text,
        "NAME": name or "",
        "EVALUATION": evaluation or "",
        "ELSEWHERE": "" if machine else "1",
    }
    check_given(given)
    if os.path.lexists(STUDIES) and not STUDIES.is_dir():
        raise UserError(
            "a new study is written into the folder of this name, and this is none",
            where=STUDIES,
            expected="a folder, or nothing yet",
            todo="rename it, or write the study in another folder",
        )
    texts = {"TEXT": _path(text)}
    if evaluation is not None:
        texts["EVALUATION"] = _path(evaluation)
    model_name, text_name = valid_name(_basename(model)), _text_name(texts["TEXT"])
    called = valid_name(name or f"{model_name[:29]}-{text_name[:20]}")
    path = STUDIES / f"{called}.yaml"
    _check_free(called, path, given)
    with then(given, "MODEL"):
        entry, seen = _model(model)
    found = {}
    for key, place in texts.items():
        with then(given, key):
            found[key] = text_at(place, key)
    amounts = {
        key: Amounts.of(each.documents, seen.tokenizer, each.complete)
        for key, each in found.items()
    }
    # The last one is the evaluation text, if there are two.
    last = list(texts)[-1]
    with then(given, "TEXT"):
        calibration = choose_calibration(seen, amounts["TEXT"], str(texts["TEXT"]))
    with then(given, last):
        windows = choose_windows(seen, amounts[last], str(texts[last]))
    base = Choices(*calibration, *windows)
    taken = dict(_taken())
    entries = {key: _entry(place, found[key]) for key, place in texts.items()}
    names = {}
    for key, place in texts.items():
        names[key] = _free("texts", _text_name(place), entries[key], taken)
        taken["texts", names[key]] = entries[key]
    own = _free("models", model_name, entry, taken)
    about = [_about_model(str(_path(model)), seen)]
    about += _about_taken("model", model_name, own)
    about += [_about_text(texts[key], found[key], amounts[key]) for key in texts]
    for key, place in texts.items():
        about += _about_taken("text", _text_name(place), names[key])
    file = StudyFile(
        called,
        about,
        {own: entry},
        {names[key]: entries[key] for key in texts},
        names["TEXT"],
        names[last],
        base,
    )

    def study_of(choices: Choices) -> Study:
        return Study.check(replace(file, choices=choices).config(), str(path))

    file = replace(file, choices=choose_cells(base, study_of, seen, machine))
    why = {own: _why_model(seen)} | {names[key]: found[key].why for key in texts}
    written = file.text(why)
    # Before it is written: a file that could not be read would stand in the way of the next try.
    study = Study.check(parse_yaml(written, path), str(path))
    write_atomically(path, written)
    chosen = file.choices
    about += [_about_name(name, called)] if name and name != called else []
    about += [
        f"calibration: {chosen.samples} sequences of {chosen.length} tokens "
        f"({chosen.why_calibration})",
        f"evaluation: {chosen.windows} windows of {chosen.window_length} tokens "
        f"({chosen.why_evaluation})",
        f"cells: {chosen.why_cells}",
    ]
    return Written(path, study, about)


def valid_name(text: str) -> str:
    """Return a text as a name that every registry accepts."""
    name = re.sub(r"[^a-z0-9._-]+|[._-]{2,}", "-", text.lower())
    name = re.sub(r"[._-]{2,}", "-", name).strip("._-") or "unnamed-1"
    stem, dot, rest = name.partition(".")
    name = f"{stem}-1{dot}{rest}" if stem in RESERVED else name
    return name[:NAME_LENGTH].strip("._-")


def _path(given: str) -> Path:
    """Return a path, in which `~` may stand for a user's folder, or begin the name of a file."""
    try:
        return Path(given).expanduser()
    except RuntimeError:
        return Path(given)


def _basename(model: str) -> str:
    path = _path(model)
    name = path.resolve().name if path.exists() else model.rpartition("/")[2]
    # A snapshot in the hub's cache: models--OWNER--NAME/snapshots/COMMIT.
    if path.exists() and path.resolve().parent.name == "snapshots":
        name = path.resolve().parents[1].name.rpartition("--")[2]
    return name.removesuffix(".gguf")


def _text_name(path: Path) -> str:
    return valid_name(re.sub(r"(\.(jsonl?|txt|parquet|gz|md))+$", "", path.name))


def _model(given: str) -> tuple[dict[str, Any], SeenModel]:
    """Return the model's entry in the study, and what it is."""
    path = _path(given)
    if not path.exists() and is_repository(given):
        with tempfile.TemporaryDirectory() as scratch:
            seen, commit = model_on_hub(given, Path(scratch))
        entry: dict[str, Any] = {"source": "hub", "repository": given, "revision": commit}
    else:
        if not path.exists():
            raise UserError(
                "there is no model",
                where=f"MODEL={given}",
                found=f"{path.absolute()} does not exist",
                expected="the path of a folder or a GGUF file, or the name of a model on the "
                "Hugging Face hub, which is owner/name",
                todo="correct the path, or write the owner before the name, such as "
                "HuggingFaceTB/SmolLM2-135M",
            )
        seen = model_at(path, f"MODEL={given}")
        check_as_fetched(path, f"MODEL={given}")
        entry = {"source": "path", "path": _written(path)}
    if seen.dtype in (None, UNTRAINED):
        entry["dtype"] = "float32"
    unseen = entry["source"] == "hub" or (seen.gguf and seen.family in _ANNOUNCED)
    # A config may leave sizes to defaults, which only transformers knows.
    if unseen and (sizes := seen.sizes).keys() >= _REQUIRED:
        entry["architecture"] = {key: sizes[key] for key in _SHAPES if sizes.get(key) is not None}
    return entry, seen


def _written(path: Path) -> str:
    """Return a path for a study: relative to this folder if it is inside, and else absolute."""
    absolute = Path(os.path.abspath(path))
    inside = absolute.is_relative_to(Path.cwd())
    return str(absolute.relative_to(Path.cwd()) if inside else absolute)


def _entry(path: Path, seen: SeenText) -> dict[str, Any]:
    """Return a text's entry in the study."""
    entry = {"source": "path", "path": _written(path), "format": seen.format}
    if seen.format in ("jsonl", "parquet"):
        entry["field"] = seen.field
    return entry


def _taken() -> Iterator[tuple[tuple[str, str], Any]]:
    """Yield registry and name of each model and text that is defined here, with its entry: studies
    share the folders that models and texts are fetched to.
    """
    for file in (REGISTRY, Path("config.yaml"), *sorted(STUDIES.glob("*.yaml"))):
        # A study that cannot be read reserves no names.
        with suppress(UserError, AttributeError):
            config = read_yaml(file)
            for registry in ("models", "texts"):
                for name, entry in (config.get(registry) or {}).items():
                    yield (registry, name), entry


def _check_free(name: str, path: Path, given: Given) -> None:
    """Refuse the name of another study: both would write into results/NAME."""
    names: dict[object, Path] = {}
    for file in (Path("config.yaml"), *sorted(STUDIES.glob("*.yaml"))):
        names[file.stem] = file
        # A study that cannot be read reserves no other name.
        with suppress(UserError, AttributeError, KeyError, TypeError):
            names[read_yaml(file)["study"]["name"]] = file
    if name in names:
        other = next(each for each in numbered(name) if each not in names)
        raise UserError(
            "there is already a study of this name; it is kept as it is",
            where=names[name],
            found=name,
            todo=f"run it (make study STUDY={names[name]}), or give the new one another name: "
            f"{again(given, NAME=other)}",
        )


def numbered(name: str) -> Iterator[str]:
    """Yield names that differ from this one by a number."""
    start = name[: NAME_LENGTH - 4].rstrip("._-")
    return (f"{start}-{number}" for number in range(2, 1000))


def _free(registry: str, name: str, entry: Any, taken: dict[tuple[str, str], Any]) -> str:
    """Return a name that no other model or text has."""
    names = [name, *numbered(name)]
    return next(each for each in names if taken.get((registry, each), entry) == entry)


def _about_name(given: str, called: str) -> str:
    if given.lower().partition(".")[0] in RESERVED:
        return f"named {called}: some systems reserve the name {given}"
    return (
        f"named {called}: a name has only lower-case letters and digits, with single `.`, `_` or "
        f"`-` between them, and at most {NAME_LENGTH} characters"
    )


def _about_taken(kind: str, name: str, own: str) -> list[str]:
    """Return why a model or a text is not called what its file is called."""
    if own == name:
        return []
    return [
        f"the {kind} is called {own} here, since config/registry.yaml or another study has another "
        f"{kind} {name}, and studies share what they fetch"
    ]


def _about_model(given: str, seen: SeenModel) -> str:
    sizes = seen.sizes
    said = [f"{sizes.get('num_hidden_layers', 'unknown')} blocks"]
    said += [f"hidden size {sizes['hidden_size']}"] if "hidden_size" in sizes else []
    said += ["GGUF, dequantised to float32" if seen.gguf else seen.dtype or "of no usable dtype"]
    said += [f"context {seen.positions or 'not stated'}"]
    said += ["head tied to the embedding" if sizes.get("tie_word_embeddings") else "own head"]
    tested = "" if seen.family in FAMILIES else " (a family that was not tested)"
    return f"model {given}: {seen.family}{tested}, {', '.join(said)}"


def _about_text(path: Path, seen: SeenText, amounts: Amounts) -> str:
    field = f", field `{seen.field}`" if seen.format in ("jsonl", "parquet") else ""
    count = f"{len(seen.documents):,}"
    one = "document" if count == "1" else "documents"
    about = "" if amounts.exact else "about "
    more = "" if seen.complete else ", and more that were not read"
    return (
        f"text {path}: {seen.format}{field}, {count} {one}, {about}{amounts.tokens:,} tokens{more}"
    )


def _why_model(seen: SeenModel) -> str:
    if seen.dtype is None:
        return "the model's config states no dtype"
    return "nothing is trained in float16, the model's own dtype" if seen.dtype == UNTRAINED else ""
