"""From a config to a study: validation, defaults, cells and the spec of each cell."""

import copy
import json
import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any, cast

import jsonschema
import jsonschema.validators
import yaml

from freelunch.candidates import adaptation_of, candidates_of, is_searched
from freelunch.cell import DENSE, NONE, Cell
from freelunch.entry import deciding
from freelunch.errors import UserError, nearest
from freelunch.methods import FULL, LOW_RANK, SCALED, is_retraining, series_of, trained_by
from freelunch.paths import Paths
from freelunch.patterns import Pattern
from freelunch.windows import AUTO, LEAST_SQUARES, MATRIX, compares_windows

SCHEMA = Path(__file__).resolve().parents[2] / "schemas" / "config.schema.json"

_EXPONENT = re.compile(r"[-+]?[\d.]+e[-+]?\d+", re.IGNORECASE)


def _is_integer(checker: object, value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_number(checker: object, value: object) -> bool:
    return _is_integer(checker, value) or (isinstance(value, float) and math.isfinite(value))


# To JSON Schema 1.0 is an integer, and NaN, which YAML can say, a number.
_Validator = jsonschema.validators.extend(  # type: ignore[no-untyped-call]
    jsonschema.Draft202012Validator,
    type_checker=jsonschema.Draft202012Validator.TYPE_CHECKER.redefine_many(
        {"integer": _is_integer, "number": _is_number}
    ),
)


@dataclass(frozen=True)
class Study:
    """A validated config with every default filled in.

    Attributes:
        config: The registries and the `study` block.
        source: The file the config came from, for messages.
    """

    config: dict[str, Any]
    source: str

    @classmethod
    def load(cls, path: Path) -> "Study":
        """Read and check a config file."""
        try:
            config = yaml.safe_load(path.read_text(encoding="utf-8"))
        except FileNotFoundError as error:
            raise UserError("there is no such config file", where=path) from error
        except yaml.YAMLError as error:
            raise UserError("this is not YAML", where=path, found=error) from error
        return cls.check(config, str(path))

    @classmethod
    def check(cls, config: object, source: str) -> "Study":
        """Check a config and fill in defaults.

        Raises:
            UserError: With every problem at once, each with its key and the nearest valid name.
        """
        schema = config_schema()
        validator = _Validator(schema)
        problems = {_describe(error) for error in validator.iter_errors(config)}
        try:
            for problem in _cross_check(cast(Mapping[str, Any], config)):
                problems.add(problem)
        except (AttributeError, KeyError, TypeError, ValueError):
            # The structure is wrong, as the schema says; what was seen before that counts all the
            # same, so that one run names every problem it can. Text in place of a mapping is a
            # ValueError.
            if not problems:
                raise
        if problems:
            count = "1 problem" if len(problems) == 1 else f"{len(problems)} problems"
            raise UserError(f"{count} in the config\n" + "\n".join(sorted(problems)), where=source)
        filled = copy.deepcopy(dict(cast(Mapping[str, Any], config)))
        _fill(filled, schema, schema)
        for registry in ("models", "texts", "tasks", "criteria", "adaptations"):
            # Snakemake compares settings as they are printed: keys written in another order would
            # make everything run again.
            filled[registry] = {name: _in_order(entry) for name, entry in filled[registry].items()}
        return cls(filled, source)

    @property
    def name(self) -> str:
        return str(self.block["name"])

    @property
    def block(self) -> dict[str, Any]:
        """The `study` block."""
        return dict(self.config["study"])

    @property
    def paths(self) -> Paths:
        return Paths(self.name)

    @property
    def cells(self) -> list[Cell]:
        """Every cell, each model's dense cell first, in the order of the grids."""
        grids = self.block["grids"]
        found = dict.fromkeys(Cell.dense(model) for grid in grids for model in grid["models"])
        for grid in grids:
            for model in grid["models"]:
                for criterion in grid["criteria"]:
                    for pattern in grid["patterns"]:
                        for adaptation in grid["adaptations"]:
                            for seed in grid["seeds"]:
                                cell = Cell(model, criterion, pattern, adaptation, seed)
                                found.setdefault(cell)
        return list(found)

    def model(self, name: str) -> dict[str, Any]:
        """Return what decides a model's numbers."""
        return deciding(self.config["models"][name])

    def text(self, name: str) -> dict[str, Any]:
        """Return what decides a text's content."""
        return deciding(self.config["texts"][name])

    def measures_drift(self, cell: Cell) -> bool:
        """Tell whether a cell's activations are compared with the dense model's."""
        return "drift" in self.block["evaluation"] and not cell.is_dense

    def asks_tasks(self, cell: Cell) -> bool:
        """Tell whether a cell is evaluated on tasks: a grid with `tasks: true` has it, or the dense
        model of such a grid.
        """
        return any(
            cell.model in grid["models"]
            and (
                cell.is_dense
                or (
                    cell.criterion in grid["criteria"]
                    and cell.pattern in grid["patterns"]
                    and cell.adaptation in grid["adaptations"]
                    and cell.seed in grid["seeds"]
                )
            )
            for grid in self.block["grids"]
            if grid["tasks"]
        )

    @property
    def tasks(self) -> dict[str, Any]:
        """Settings of the zero-shot tasks, their entries included; empty if there are none."""
        settings = self.block["evaluation"].get("tasks")
        if settings is None:
            return {}
        entries = {name: deciding(self.config["tasks"][name]) for name in settings["names"]}
        return {"limit": settings["limit"], "seed": settings["seed"], "tasks": entries}

    def source_files(self, registry: str, name: str) -> list[str]:
        """Return the user's own files that an entry of `models`, `texts` or `tasks` points at.

        They are inputs of the workflow: when one changes, what depends on it runs again.
        """
        entry = self.config[registry][name]
        if "path" not in entry:
            return []
        path = Path(entry["path"])
        if not path.is_dir():
            return [str(path)]
        return sorted(str(file) for file in path.iterdir() if file.is_file())

    def criterion(self, name: str) -> dict[str, Any]:
        return dict(self.config["criteria"][name])

    def needs_gram(self, model: str, seed: int) -> bool:
        """Tell whether a cell of a model and seed needs Gram matrices of the dense activations."""
        used = {cell.criterion for cell in self.cells if (cell.model, cell.seed) == (model, seed)}
        entries = [self.criterion(name) for name in used - {DENSE}]
        return any(needs_gram(entry) for entry in entries if entry["statistics"] == "dense")

    def adaptation(self, name: str) -> dict[str, Any] | None:
        """Return the settings of an adaptation or of a candidate of one; None for `none`.

        In place of a budget they have `samples`, and those only where they are not the calibration
        sample's. Of an adaptation that lists epochs its candidates have them.
        """
        if name == NONE:
            return None
        entry = dict(self.config["adaptations"][adaptation_of(name)])
        if name not in self.config["adaptations"]:
            entry = candidates_of(adaptation_of(name), entry)[name]
        if "budget" in entry:
            tokens = budget_tokens(entry.pop("budget"), self.config)
            if isinstance(entry["epochs"], list):
                # Each candidate has samples of its own; what they share is this.
                entry["budget"] = {"tokens": round(tokens)}
            else:
                each = self.block["calibration"]["length"] * entry["epochs"]
                entry["samples"] = max(1, round(tokens / each))
        if entry.get("samples") == self.block["calibration"]["samples"]:
            del entry["samples"]
        return entry

    def samples(self, adaptation: str) -> int:
        """Return how many sequences an adaptation, or a candidate of one, is trained on."""
        settings = self.adaptation(adaptation) or {}
        return int(settings.get("samples", self.block["calibration"]["samples"]))

    def candidate_names(self, adaptation: str) -> list[str]:
        """Return the runs among which an adaptation is chosen; empty if it lists none."""
        return list(candidates_of(adaptation, self.adaptation(adaptation) or {}))

    def candidates(self, cell: Cell) -> list[Cell]:
        """Return a cell's candidates, as cells."""
        return [replace(cell, adaptation=name) for name in self.candidate_names(cell.adaptation)]

    def sizes(self, adaptation: str) -> list[int]:
        """Return how many sequences an adaptation or its candidates are trained on, where that is
        not the calibration sample.
        """
        names = self.candidate_names(adaptation) or [adaptation]
        found = {self.samples(name) for name in names}
        return sorted(found - {self.block["calibration"]["samples"]})

    def needs_held_out(self, cell: Cell) -> bool:
        """Tell whether held-out text has a part in a cell: its drift is measured on it, candidates
        are compared on it, or a sample that is extended leaves it out.
        """
        if self.measures_drift(cell):
            return True
        settings = self.adaptation(cell.adaptation) or {}
        if self.candidates(cell) and settings["select_on"] == "calibration":
            return True
        most = max(self.sizes(cell.adaptation), default=0)
        return most > int(self.block["calibration"]["samples"])

    @property
    def selected_on_evaluation(self) -> list[str]:
        """Return the adaptations whose settings are chosen on the text that they are judged by."""
        return [
            name
            for name, entry in self.config["adaptations"].items()
            if is_searched(entry) and entry["select_on"] == "evaluation"
        ]

    @property
    def compares_windows(self) -> bool:
        """Tell whether a pruned model is reconstructed in several ways, by a seed that is not
        adapted too.
        """
        kinds = [
            {json.dumps(_kind(entry)) for entry in entries if compares_windows(entry)}
            for entries in self._adapted_by
        ]
        return any(len(of_model) > 1 for of_model in kinds)

    @property
    def compares_sizes(self) -> bool:
        """Tell whether several models are pruned."""
        return len({cell.model for cell in self.cells if not cell.is_dense}) > 1

    @property
    def compares_budgets(self) -> bool:
        """Tell whether a pruned model is both reconstructed and retrained."""
        return any(
            any(map(is_retraining, entries))
            and any(entry["method"] == "reconstruction" for entry in entries)
            for entries in self._adapted_by
        )

    @property
    def series(self) -> dict[str, str]:
        """Return what the series of each adaptation is called, by its name."""
        return series_of(self.config["adaptations"])

    @property
    def references(self) -> list[str]:
        """Return the reconstructions, first those that retraining is best compared with: what other
        budgets are multiples of, then any window but a single matrix.
        """
        entries = self.config["adaptations"]
        named = {
            entry["budget"]["of"] for entry in entries.values() if "of" in entry.get("budget", {})
        }
        local = [name for name, entry in entries.items() if entry["method"] == "reconstruction"]
        return sorted(
            local, key=lambda name: (name not in named, entries[name]["window"] == MATRIX)
        )

    @property
    def _adapted_by(self) -> list[list[dict[str, Any]]]:
        """Return the entries by which each pruned model is adapted, of those that are also not."""
        ways: dict[Cell, set[str]] = {}
        for cell in self.cells:
            ways.setdefault(replace(cell, adaptation=NONE), set()).add(cell.adaptation)
        return [
            [self.config["adaptations"][name] for name in sorted(names - {NONE})]
            for names in ways.values()
            if NONE in names
        ]

    @property
    def selection(self) -> dict[str, Any]:
        """Settings of the held-out text on which candidates are compared."""
        return dict(self.block["selection"])

    @property
    def calibration(self) -> dict[str, Any]:
        """Settings of the calibration sample, the text's entry included."""
        settings = dict(self.block["calibration"])
        return {**settings, "text": {"name": settings["text"], **self.text(settings["text"])}}

    @property
    def perplexity(self) -> dict[str, Any]:
        """Settings of the perplexity, the text's entry included."""
        settings = dict(self.block["evaluation"]["perplexity"])
        return {**settings, "text": {"name": settings["text"], **self.text(settings["text"])}}

    def spec(self, cell: Cell) -> dict[str, Any]:
        """Return everything in the config that decides a cell's numbers.

        A record carries it; a record whose spec differs from today's is refused.
        """
        spec: dict[str, Any] = {
            "cell": str(cell),
            "model": self.model(cell.model),
            "evaluation": {"perplexity": self.perplexity},
        }
        if self.measures_drift(cell):
            spec["evaluation"]["drift"] = dict(self.block["evaluation"]["drift"])
        if self.asks_tasks(cell):
            spec["evaluation"]["tasks"] = self.tasks
        if not cell.is_dense:
            spec["calibration"] = self.calibration
            spec["criterion"] = self.criterion(cell.criterion)
            spec["pattern"] = cell.pattern
            spec["adaptation"] = self.adaptation(cell.adaptation)
            if self.needs_held_out(cell):
                spec["selection"] = self.selection
            spec["seed"] = cell.seed
        return _in_order(spec)


def budget_tokens(budget: Mapping[str, Any], config: Mapping[str, Any]) -> float:
    """Return how many tokens a budget of an entry of `adaptations` is.

    Args:
        budget: Checked: what it is a multiple of has no alternatives and no multiple itself.
        config: A study's config, with or without its defaults.
    """
    if "tokens" in budget:
        return float(budget["tokens"])
    other = config["adaptations"][budget["of"]]
    if "budget" in other:
        return float(budget["times"] * other["budget"]["tokens"])
    calibration = config["study"]["calibration"]
    samples = other.get("samples", calibration["samples"])
    return float(budget["times"] * samples * calibration["length"] * other.get("epochs", 1))


def _kind(adaptation: Mapping[str, Any]) -> list[Any]:
    """Return what adaptations that are compared by their windows differ in."""
    keys = ("method", "window", "memory_gb", "inputs", "targets")
    return [adaptation.get(key) for key in keys]


def _in_order(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return settings as JSON has them, no tuples and no aliases, with keys in one order."""
    return dict(json.loads(json.dumps(settings, sort_keys=True)))


def needs_gram(criterion: Mapping[str, Any]) -> bool:
    """Tell whether an entry of `criteria` needs Gram matrices, as the schema says."""
    return criterion.get("swaps", 0) > 0 or _says(criterion, "x-gram")


def changes_parameters(criterion: Mapping[str, Any]) -> bool:
    """Tell whether an entry of `criteria` changes parameters besides making weights 0."""
    return bool(criterion.get("bias_compensation", False)) or _says(criterion, "x-changes")


def _says(criterion: Mapping[str, Any], keyword: str) -> bool:
    """Tell whether the schema's definition of a criterion has a keyword of ours set."""
    definition = config_schema()["$defs"].get(f"criterion_{criterion['score']}", {})
    return bool(definition.get(keyword, False))


@cache
def config_schema() -> dict[str, Any]:
    """Return the schema of a config, with a branch for each kind of criterion and each method of
    retraining that it defines.
    """
    schema: dict[str, Any] = json.loads(SCHEMA.read_text(encoding="utf-8"))
    prefix, definitions = "criterion_", schema["$defs"]
    kinds = [name.removeprefix(prefix) for name in definitions if name.startswith(prefix)]
    criterion = definitions["criterion"]
    criterion["properties"]["score"]["enum"] = kinds
    criterion["allOf"] = [_branch("score", kind, f"{prefix}{kind}") for kind in kinds]
    adaptation, retraining = definitions["adaptation"], definitions.pop("retraining")
    methods = definitions.pop("methods")["x-methods"]
    for method, parts in methods.items():
        properties = dict(retraining["properties"])
        for part in parts:
            properties |= definitions[part]["properties"]
        definitions[f"retraining_{method}"] = {**retraining, "properties": properties}
        adaptation["properties"]["method"]["enum"].append(method)
        adaptation["allOf"].append(_branch("method", method, f"retraining_{method}"))
    for part in {part for parts in methods.values() for part in parts}:
        # A part of others, and nothing by itself.
        del definitions[part]
    return schema


def _branch(key: str, value: str, definition: str) -> dict[str, Any]:
    """Return the part of a schema that says what else there is where a key has a value."""
    return {
        "if": {"properties": {key: {"const": value}}, "required": [key]},
        "then": {"$ref": f"#/$defs/{definition}"},
    }


def _describe(error: jsonschema.ValidationError) -> str:
    """Return one line (or more) for one violation of the schema."""
    key = ".".join(str(part) for part in error.absolute_path) or "(top)"
    if error.validator == "additionalProperties" and isinstance(error.instance, Mapping):
        valid = _properties(error)
        unknown = [str(name) for name in error.instance if name not in valid]
        lines = []
        for name in unknown:
            where = name if key == "(top)" else f"{key}.{name}"
            lines.append(f"  {where}: unknown key; expected {nearest(name, valid)}")
        return "\n".join(lines)
    found = json.dumps(error.instance, default=str)
    found = found if len(found) < 60 else found[:57] + "..."
    description = error.schema.get("description") if isinstance(error.schema, Mapping) else None
    text = f"  {key}: found {found}; {error.message}"
    if error.validator == "required":
        text = f"  {key}: {error.message}"
    if error.validator == "enum" and isinstance(error.instance, str):
        names = [str(value) for value in cast(list[Any], error.validator_value)]
        text = f"  {key}: found {error.instance!r}; expected {nearest(error.instance, names)}"
    if error.validator == "type" and _EXPONENT.fullmatch(str(error.instance)):
        text += " (YAML reads 1e-3 as text: write 1.0e-3 or 0.001)"
    return text + (f" ({description})" if description else "")


def _properties(error: jsonschema.ValidationError) -> dict[str, Any]:
    return dict(error.schema.get("properties", {})) if isinstance(error.schema, Mapping) else {}


def _fill(value: Any, schema: Mapping[str, Any], root: Mapping[str, Any]) -> None:
    """Fill in the defaults that a schema gives, in place, also below $ref, allOf and if/then."""
    if "$ref" in schema:
        _fill(value, root["$defs"][schema["$ref"].removeprefix("#/$defs/")], root)
    for branch in schema.get("allOf", []):
        _fill(value, branch, root)
    if "if" in schema and jsonschema.Draft202012Validator(schema["if"]).is_valid(value):
        _fill(value, schema.get("then", {}), root)
    if isinstance(value, dict):
        properties = schema.get("properties", {})
        for key, sub in properties.items():
            if not isinstance(sub, Mapping):
                continue
            default = _default(sub, root)
            if default is not _MISSING:
                value.setdefault(key, copy.deepcopy(default))
            if key in value:
                _fill(value[key], sub, root)
        extra = schema.get("additionalProperties")
        if isinstance(extra, Mapping):
            for key in value.keys() - properties.keys():
                _fill(value[key], extra, root)
    if isinstance(value, list) and isinstance(schema.get("items"), Mapping):
        for item in value:
            _fill(item, schema["items"], root)


_MISSING = object()


def _default(schema: Mapping[str, Any], root: Mapping[str, Any]) -> Any:
    if "default" not in schema and "$ref" in schema:
        return _default(root["$defs"][schema["$ref"].removeprefix("#/$defs/")], root)
    return schema.get("default", _MISSING)


def with_defaults(entry: Mapping[str, Any], kind: str = "criterion") -> dict[str, Any]:
    """Return an entry of a registry with every setting that the schema has a default for.

    Args:
        entry: The entry.
        kind: The schema's definition of it: `criterion` or `adaptation`.
    """
    filled = dict(entry)
    _fill(filled, config_schema()["$defs"][kind], config_schema())
    return filled


def _adaptation_problems(
    name: str, entry: Mapping[str, Any], config: Mapping[str, Any]
) -> Iterator[str]:
    """Yield what does not go together in an entry of `adaptations`.

    Args:
        name: Its key.
        entry: The entry.
        config: The whole of it.
    """
    settings, where = with_defaults(entry, "adaptation"), f"  adaptations.{name}"
    text = config["texts"].get(config["study"]["calibration"]["text"])
    has_documents = isinstance(text, Mapping) and text.get("source") != "tokens"
    if settings["method"] != LEAST_SQUARES:
        yield from _sample_problems(where, settings, config, has_documents)
        if is_searched(settings) and settings["select_on"] == "calibration" and not has_documents:
            yield (
                f"{where}.select_on: candidates are compared on documents that calibration left, "
                "and a `tokens` source has none; expected evaluation, or a text"
            )
    if not is_retraining(settings):
        yield from _reconstruction_problems(where, settings)


def _sample_problems(
    where: str, settings: Mapping[str, Any], config: Mapping[str, Any], has_documents: bool
) -> Iterator[str]:
    """Yield what is wrong with how much an adaptation is trained on."""
    calibration = config["study"]["calibration"]
    length, samples = calibration["length"], settings.get("samples", calibration["samples"])
    step = settings["batch"] * length
    if "budget" in settings:
        if "samples" in settings:
            yield f"{where}: `samples` and `budget` say the same; expected one of them"
        problem = _budget_problem(settings["budget"], config["adaptations"])
        if problem:
            yield f"{where}.budget{problem}"
            return
        tokens = budget_tokens(settings["budget"], config)
        counts = (
            settings["epochs"] if isinstance(settings["epochs"], list) else [settings["epochs"]]
        )
        if tokens < step * max(counts):
            yield (
                f"{where}.budget: found {tokens:g} tokens; expected at least {step * max(counts)}, "
                f"one step of {settings['batch']} sequences of {length} tokens in each epoch"
            )
        samples = max(round(tokens / (length * count)) for count in counts)
    elif samples < settings["batch"]:
        yield (
            f"{where}.batch: found {settings['batch']} sequences of a sample of {samples}; "
            "expected no more than it has"
        )
    if settings.get("micro_batch", 0) > settings["batch"]:
        yield (
            f"{where}.micro_batch: found {settings['micro_batch']}; expected at most the batch, "
            f"{settings['batch']}"
        )
    if samples > calibration["samples"] and not has_documents:
        yield (
            f"{where}: {samples} sequences are more than the `tokens` source of the calibration "
            f"has; expected at most {calibration['samples']}, or a text"
        )


def _budget_problem(budget: Mapping[str, Any], adaptations: Mapping[str, Any]) -> str | None:
    """Return what is wrong with what a budget is a multiple of."""
    if "of" not in budget:
        return None
    if budget["of"] not in adaptations:
        return f".of: {budget['of']!r} is not in `adaptations`; expected " + nearest(
            budget["of"], adaptations
        )
    other = adaptations[budget["of"]]
    if other["method"] == LEAST_SQUARES or is_searched(other) or "of" in other.get("budget", {}):
        return (
            f".of: how much {budget['of']!r} sees is not settled; expected an adaptation that "
            "trains, lists no epochs or learning rates and is no multiple itself"
        )
    return None


def _reconstruction_problems(where: str, settings: Mapping[str, Any]) -> Iterator[str]:
    """Yield what does not go together in the settings of a reconstruction."""
    if (settings["inputs"], settings["targets"]) == ("dense", "local"):
        yield (
            f"{where}.targets: with dense inputs the dense window's own outputs are the dense "
            "activations; expected dense, or inputs: sparse"
        )
    if settings["method"] == LEAST_SQUARES:
        return
    trained = trained_by(settings)
    if settings["window"] == MATRIX and trained.norms:
        key, wanted = ("trains", "other") if trained.weights is None else ("train_norms", "false")
        yield (
            f"{where}.{key}: a window of one matrix holds no norm; expected {wanted}, and the same "
            "for the windows it is compared with"
        )
    if settings["window"] == AUTO and "memory_gb" not in settings:
        yield f"{where}.memory_gb: `window: auto` fills a memory budget; expected one, in GB"
    if settings["window"] != AUTO and "memory_gb" in settings:
        yield f"{where}.memory_gb: only `window: auto` has a memory budget; expected no such key"
    trains = settings.get("trains", FULL)
    for name, having in (("rank", LOW_RANK), ("alpha", SCALED)):
        if name in settings and trains not in having:
            yield f"{where}.{name}: `trains: {trains}` has none; expected no such key"
    if trained.weights is None and settings["window"] != MATRIX:
        for name, needed in (("train_norms", trained.norms), ("train_biases", trained.biases)):
            if needed and not settings[name]:
                yield f"{where}.{name}: `trains: {trains}` trains them; expected true"


def _fits(where: str, name: str, criterion: Mapping[str, Any], pattern: Pattern) -> Iterator[str]:
    """Yield what keeps a criterion from pruning in a pattern."""
    structured = _says(criterion, "x-structured")
    if structured != pattern.structured:
        kind = "whole units: it takes sNN" if structured else "single weights: it takes uNN or NofM"
        yield (
            f"  {where}: {name!r} prunes {kind}, not {pattern.name}; put it in a grid of its own"
        )
    block = criterion.get("column_block", 0)
    if pattern.group and block % pattern.group:
        fitting = max(block // pattern.group, 1) * pattern.group
        yield (
            f"  criteria.{name}.column_block: found {block}; expected a multiple of "
            f"{pattern.group}, for {pattern.name}, such as {fitting}"
        )


def _drift_problems(config: Mapping[str, Any]) -> Iterator[str]:
    """Yield what is wrong with the text that drift is measured on."""
    study, where = config["study"], "  study.evaluation.drift"
    schema = config_schema()["properties"]["study"]["properties"]
    drift = schema["evaluation"]["properties"]["drift"]["properties"]["samples"]["default"]
    held_out = schema["selection"]["properties"]["samples"]["default"]
    samples = study["evaluation"]["drift"].get("samples", drift)
    there = study.get("selection", {}).get("samples", held_out)
    if samples > there:
        yield (
            f"{where}.samples: found {samples}; expected at most selection.samples, {there}, the "
            "sequences that are held out"
        )
    text = config["texts"].get(study["calibration"]["text"], {})
    if text.get("source") == "tokens":
        yield f"{where}: a `tokens` source has no documents to hold out; expected no such key"


def _cross_check(config: Mapping[str, Any]) -> Iterator[str]:
    """Yield what a schema cannot say: names that are defined nowhere, texts of the wrong kind."""
    study = config["study"]
    texts = config["texts"]
    for where, text, ids_allowed in (
        ("study.calibration.text", study["calibration"]["text"], True),
        ("study.evaluation.perplexity.text", study["evaluation"]["perplexity"]["text"], False),
    ):
        if text not in texts:
            yield f"  {where}: {text!r} is not in `texts`; expected {nearest(text, texts)}"
        elif texts[text]["source"] == "tokens" and not ids_allowed:
            yield f"  {where}: {text!r} is a `tokens` source; expected a text"
    perplexity = study["evaluation"]["perplexity"]
    if (perplexity.get("stride") or 0) > perplexity["length"]:
        yield (
            f"  study.evaluation.perplexity.stride: found {perplexity['stride']}; expected at most "
            f"the length, {perplexity['length']}: what lies between windows would be left out"
        )
    if "drift" in study["evaluation"]:
        yield from _drift_problems(config)
    asked = study["evaluation"].get("tasks", {}).get("names", [])
    for name in asked:
        if name not in config.get("tasks", {}):
            yield (
                f"  study.evaluation.tasks.names: {name!r} is not in `tasks`; expected "
                + nearest(name, config.get("tasks", {}))
            )
    asking = [index for index, grid in enumerate(study["grids"]) if grid.get("tasks", False)]
    if asking and not asked:
        yield (
            f"  study.grids.{asking[0]}.tasks: there is no `evaluation.tasks` to evaluate these "
            "cells on; expected its `names`"
        )
    if asked and not asking:
        yield "  study.evaluation.tasks: no grid asks for it; expected `tasks: true` in a grid"
    registries = {
        "models": list(config["models"]),
        "criteria": list(config["criteria"]),
        "adaptations": [NONE, *config["adaptations"]],
    }
    for index, grid in enumerate(study["grids"]):
        for registry, valid in registries.items():
            for name in grid[registry]:
                if name not in valid:
                    where = f"study.grids.{index}.{registry}"
                    yield f"  {where}: {name!r} is not in `{registry}`; expected " + nearest(
                        name, valid
                    )
        trained = [config["adaptations"].get(name, {}) for name in grid["adaptations"]]
        if any(entry.get("method", LEAST_SQUARES) != LEAST_SQUARES for entry in trained):
            for model in grid["models"]:
                if config["models"].get(model, {}).get("dtype") == "float16":
                    yield (
                        f"  models.{model}.dtype: gradients vanish in float16; "
                        "expected bfloat16 or float32"
                    )
        for name in grid["patterns"]:
            try:
                pattern = Pattern.parse(name)
            except ValueError as error:
                yield f"  study.grids.{index}.patterns: {error}"
                continue
            for criterion in grid["criteria"]:
                if entry := config["criteria"].get(criterion):
                    where = f"study.grids.{index}"
                    yield from _fits(where, criterion, with_defaults(entry), pattern)
    for name, entry in config["criteria"].items():
        criterion = with_defaults(entry)
        if criterion.get("scope") == "model" and criterion["statistics"] == "sparse":
            yield (
                f"  criteria.{name}: scope `model` compares the units of all blocks before any is "
                "pruned; expected statistics: dense"
            )
    for name, entry in config["adaptations"].items():
        yield from _adaptation_problems(name, entry, config)
    for registry, reserved in (("criteria", DENSE), ("adaptations", NONE)):
        if reserved in config[registry]:
            yield f"  {registry}.{reserved}: this name is reserved; choose another"
    for registry in ("models", "texts", "tasks"):
        for name, entry in config.get(registry, {}).items():
            if "path" in entry and not Path(entry["path"]).exists():
                yield (
                    f"  {registry}.{name}.path: there is nothing at {entry['path']}; expected a "
                    + ("folder" if registry == "models" else "file")
                    + " (absolute, or relative to the repository)"
                )
