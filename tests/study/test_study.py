"""From a config to a study: what is refused and how, what is filled in, what decides a number."""

import copy
import json
import math
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import assume, given
from hypothesis import strategies as st

from freelunch.core.errors import UserError
from freelunch.study.cell import NAME, WORD, Cell, derive_seed
from freelunch.study.methods import METHODS
from freelunch.study.schema import SCHEMA, config_schema
from freelunch.study.study import Study

ROOT = SCHEMA.parents[2]
SCHEMA_JSON = config_schema()
STUDIES = [ROOT / "config.yaml", *sorted((ROOT / "studies").glob("*.yaml"))]


@pytest.fixture(autouse=True)
def _in_the_repository(monkeypatch: pytest.MonkeyPatch) -> None:
    """Paths of a config are relative to it."""
    monkeypatch.chdir(ROOT)


def config() -> dict[str, Any]:
    """Return a config that says no more than it has to."""
    wheel = {"source": "wheel", "package": "p", "version": "1", "sha256": "0" * 64, "member": "m"}
    return {
        "models": {"one": dict(wheel), "two": dict(wheel)},
        "texts": {
            "c4": {**wheel, "format": "lines"},
            "wiki": {**wheel, "format": "jsonl"},
            "unused": {**wheel, "format": "plain"},
        },
        "criteria": {"magnitude": {"score": "magnitude"}, "wanda": {"score": "wanda"}},
        "adaptations": {
            "recon_block": {"method": "reconstruction"},
            "recon_two": {"method": "reconstruction", "window": 2},
        },
        "study": {
            "name": "tests",
            "calibration": {"text": "c4", "samples": 4, "length": 8},
            "evaluation": {"perplexity": {"text": "wiki", "length": 8}},
            "grids": [
                {
                    "models": ["one"],
                    "criteria": ["magnitude", "wanda"],
                    "patterns": ["u50"],
                    "adaptations": ["none", "recon_block"],
                }
            ],
        },
    }


def changed(changes: Mapping[str, Any], base: dict[str, Any] | None = None) -> dict[str, Any]:
    """Return a config with the values at dotted keys replaced."""
    new = copy.deepcopy(base or config())
    for key, value in changes.items():
        inner: Any = new
        *parents, last = key.split(".")
        for part in parents:
            inner = inner[int(part)] if isinstance(inner, list) else inner[part]
        inner[int(last) if isinstance(inner, list) else last] = value
    return new


# What is asked for of two tasks by the one grid, and of drift.
TASK = {
    "source": "wheel",
    "package": "p",
    "version": "1",
    "sha256": "0" * 64,
    "member": "m",
    "format": "arrow",
    "documents": 9,
}
ASKED: dict[str, Any] = {
    "tasks": {"rte": dict(TASK), "boolq": dict(TASK)},
    "study.evaluation.tasks": {"names": ["rte"]},
    "study.grids.0.tasks": True,
}
DRIFT: dict[str, Any] = {"study.evaluation.drift": {}}


def refusal(new: object) -> str:
    """Return the message of the UserError that a config has to raise."""
    with pytest.raises(UserError) as caught:
        Study.check(new, "config.yaml")
    return str(caught.value)


# --- Studies of the repository


@pytest.mark.parametrize("path", STUDIES, ids=lambda path: path.stem)
def test_every_study_of_the_repository_is_valid(path: Path) -> None:
    found = Study.load(path)
    assert found.cells[0].is_dense
    json.dumps([found.spec(cell) for cell in found.cells], allow_nan=False)


def test_studies_have_names_of_their_own() -> None:
    names = [Study.load(path).name for path in STUDIES]
    assert names[0] == "laptop"
    assert len(set(names)) == len(names), "two studies would share a folder of results"


def test_the_default_study_states_every_setting() -> None:
    """Its reader sees all there is to set: filling in defaults changes nothing."""
    found = yaml.safe_load((ROOT / "config.yaml").read_text())
    filled = Study.load(ROOT / "config.yaml").config
    # The other windows say what differs.
    for name in ("recon_block", "masklora"):
        assert filled["adaptations"][name] == found["adaptations"][name]
    assert filled["criteria"] == found["criteria"]
    assert filled["study"] == found["study"]
    assert filled["models"] == found["models"]


# --- Defaults


def test_every_default_is_filled_in() -> None:
    filled = Study.check(config(), "config.yaml").config
    assert filled["models"]["one"]["dtype"] == "float32"
    assert filled["texts"]["wiki"]["field"] == "text"
    assert filled["criteria"] == {
        "magnitude": {"score": "magnitude", "scope": "matrix", "statistics": "dense", "swaps": 0},
        "wanda": {"score": "wanda", "scope": "row", "statistics": "dense", "swaps": 0},
    }
    shared = SCHEMA_JSON["$defs"]
    described = {
        name: {**shared.get(str(entry.get("$ref", "")).removeprefix("#/$defs/"), {}), **entry}
        for name, entry in shared["reconstruction"]["properties"].items()
    }
    settings = {name: entry["default"] for name, entry in described.items() if "default" in entry}
    assert settings.keys() == described.keys() - {"method", "memory_gb", *ABSENT}
    assert filled["adaptations"]["recon_block"] == {"method": "reconstruction", **settings}
    assert filled["adaptations"]["recon_two"]["window"] == 2
    assert filled["study"]["dense_limit"] == 1000
    assert filled["study"]["evaluation"]["perplexity"]["windows"] is None
    assert filled["study"]["grids"][0]["seeds"] == [0]


def test_no_default_of_the_schema_is_forgotten() -> None:
    """Each key with a default is set wherever its object is, whatever leads there."""
    scores = SCHEMA_JSON["$defs"]["criterion"]["properties"]["score"]["enum"]
    criteria = {score: {"score": score} for score in scores}
    adaptations = {method: {"method": method} for method in ("least_squares", *METHODS)}
    adaptations |= config()["adaptations"]
    given = changed({"criteria": criteria, "adaptations": adaptations} | ASKED | DRIFT)
    filled = Study.check(given, "config.yaml").config

    def keys(value: object) -> Iterator[str]:
        if isinstance(value, Mapping):
            for key, inner in value.items():
                yield key
                yield from keys(inner)
        elif isinstance(value, list):
            for inner in value:
                yield from keys(inner)

    def defaults(schema: object) -> Iterator[str]:
        if isinstance(schema, Mapping):
            for key, inner in schema.get("properties", {}).items():
                if isinstance(inner, Mapping):
                    reference = str(inner.get("$ref", "")).removeprefix("#/$defs/")
                    if "default" in {**SCHEMA_JSON["$defs"].get(reference, {}), **inner}:
                        yield key
            for inner in schema.values():
                yield from defaults(inner)
        elif isinstance(schema, list):
            for inner in schema:
                yield from defaults(inner)

    expected = set(defaults(SCHEMA_JSON))
    assert {"dtype", "field", "seeds", "learning_rate", "dense_limit", "windows"} <= expected
    assert expected <= set(keys(filled))


def test_the_order_of_keys_is_not_kept() -> None:
    """Snakemake compares what is printed."""

    def reverse(value: Any) -> Any:
        if not isinstance(value, dict):
            return value
        return {key: reverse(inner) for key, inner in reversed(value.items())}

    given = yaml.safe_load((ROOT / "config.yaml").read_text())
    assert "architecture" in given["models"]["smollm2-135m"]
    one, two = (Study.check(it, "config.yaml").config for it in (given, reverse(given)))
    for registry in ("models", "texts", "criteria", "adaptations"):
        for name, entry in one[registry].items():
            assert repr(entry) == repr(two[registry][name])


def test_filling_in_is_done_once() -> None:
    once = Study.check(config(), "config.yaml").config
    assert Study.check(once, "config.yaml").config == once


def test_the_given_config_is_left_alone() -> None:
    given_config = config()
    Study.check(given_config, "config.yaml")
    assert given_config == config()


def test_entries_do_not_share_their_defaults() -> None:
    grid = config()["study"]["grids"][0]
    grids = Study.check(changed({"study.grids": [grid, dict(grid)]}), "config.yaml").block["grids"]
    grids[0]["seeds"].append(1)
    assert grids[1]["seeds"] == [0]


# --- The schema itself


def schemas(value: object = SCHEMA_JSON, path: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    if isinstance(value, dict):
        yield path, value
        for key, inner in value.items():
            yield from schemas(inner, f"{path}/{key}")
    elif isinstance(value, list):
        for number, inner in enumerate(value):
            yield from schemas(inner, f"{path}/{number}")


def test_every_key_is_described() -> None:
    for path, schema in schemas():
        # The shapes of a model have the names that its own config.json has.
        if "properties" not in schema or path.endswith(("/architecture", "/if")):
            continue
        for key, inner in schema["properties"].items():
            if inner is True or "const" in inner:
                continue
            reference = str(inner.get("$ref", "")).removeprefix("#/$defs/")
            described = {**SCHEMA_JSON["$defs"].get(reference, {}), **inner}
            structural = "properties" in described
            assert structural or described.get("description"), f"{path}: {key}"


def test_unknown_keys_are_refused_everywhere() -> None:
    """In the schema: each object says so itself, or through one branch for each of its kinds."""
    for path, schema in schemas():
        if "properties" not in schema or path.endswith("/if"):
            continue
        if "allOf" in schema:
            kinds = next(iter(schema["properties"].values()))["enum"]
            branches = [branch["then"] for branch in schema["allOf"]]
            assert len(branches) == len(kinds), path
            branches = [
                SCHEMA_JSON["$defs"][branch["$ref"].removeprefix("#/$defs/")]
                if "$ref" in branch
                else branch
                for branch in branches
            ]
            assert all(branch["additionalProperties"] is False for branch in branches), path
        else:
            assert schema.get("additionalProperties", True) is not True, path


# Settings that have no default: what they are without it is said in other ways.
ABSENT = ("samples", "budget", "trains", "rank", "alpha")


def mappings(value: object, key: str = "") -> Iterator[str]:
    """Yield the dotted key of every mapping in a config but the registries."""
    if isinstance(value, Mapping):
        if key not in ("models", "texts", "criteria", "adaptations"):
            yield key
        for name, inner in value.items():
            yield from mappings(inner, f"{key}.{name}" if key else name)
    elif isinstance(value, list):
        for number, inner in enumerate(value):
            yield from mappings(inner, f"{key}.{number}")


@pytest.mark.parametrize("key", list(mappings(config())))
def test_a_misspelled_key_is_refused_wherever_it_is(key: str) -> None:
    misspelt = f"{key}.learing_rate" if key else "learing_rate"
    message = refusal(changed({misspelt: 1}))
    assert "1 problem in the config" in message
    assert f"{misspelt}: unknown key; expected" in message
    if key.startswith("adaptations"):
        assert "expected learning_rate (nearest) out of: alpha, batch, " in message


# --- Problems


def test_all_problems_at_once() -> None:
    message = refusal(
        changed(
            {
                "models.one.dtyp": "float32",
                "texts.c4.format": "line",
                "criteria.wanda.score": "wnada",
                "adaptations.recon_block.epochs": 0,
                "study.calibration.samples": "many",
                "study.grids.0.seeds": [],
            }
        )
    )
    assert message.startswith("config.yaml: 6 problems in the config")
    for line in (
        "models.one.dtyp: unknown key; expected dtype (nearest)",
        "texts.c4.format: found 'line'; expected lines (nearest)",
        "criteria.wanda.score: found 'wnada'; expected wanda (nearest) out of: ",
        "adaptations.recon_block.epochs: found 0",
        'study.calibration.samples: found "many"',
        "study.grids.0.seeds: found []",
    ):
        assert line in message


def test_all_problems_that_the_schema_cannot_see_at_once() -> None:
    message = refusal(
        changed(
            {
                "study.calibration.text": "c44",
                "study.evaluation.perplexity.text": "wikki",
                "study.grids.0.models": ["oen"],
                "study.grids.0.criteria": ["wnada", "magnitude"],
                "study.grids.0.patterns": ["u50", "u00", "4of4", "u100"],
                "study.grids.0.adaptations": ["recon_blok"],
            }
        )
    )
    assert message.startswith("config.yaml: 8 problems in the config")
    for line in (
        "study.calibration.text: 'c44' is not in `texts`; expected c4 (nearest)",
        "study.evaluation.perplexity.text: 'wikki' is not in `texts`; expected wiki (nearest)",
        "study.grids.0.models: 'oen' is not in `models`; expected one (nearest)",
        "study.grids.0.criteria: 'wnada' is not in `criteria`; expected wanda (nearest)",
        "study.grids.0.adaptations: 'recon_blok' is not in `adaptations`; "
        "expected recon_block (nearest) out of: none, recon_block, recon_two",
        "study.grids.0.patterns: u00 prunes nothing",
        "study.grids.0.patterns: '4of4': expected NofM with 0 < N < M",
        "study.grids.0.patterns: not a pattern: 'u100'",
    ):
        assert line in message


@pytest.mark.parametrize("number", ["1e-3", "1E-3", "1.5e3"])
def test_yaml_reads_some_exponents_as_text(number: str) -> None:
    new = config()
    new["adaptations"]["recon_block"] |= yaml.safe_load(f"learning_rate: {number}")
    message = refusal(new)
    assert "adaptations.recon_block.learning_rate" in message
    assert "write 1.0e-3 or 0.001" in message
    new["adaptations"]["recon_block"] |= yaml.safe_load("learning_rate: 1.0e-3")
    Study.check(new, "config.yaml")


def test_the_hint_about_exponents_is_for_numbers_only() -> None:
    assert "1.0e-3" not in refusal(changed({"study.calibration.samples": "three"}))


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("adaptations.recon_block.learning_rate", 0),
        ("adaptations.recon_block.learning_rate", -1e-3),
        ("adaptations.recon_block.learning_rate", float("nan")),
        ("adaptations.recon_block.learning_rate", float("inf")),
        ("adaptations.recon_block.warmup", 1),
        ("adaptations.recon_block.warmup", -0.1),
        ("adaptations.recon_block.epochs", 0),
        ("adaptations.recon_block.epochs", 1.0),
        ("adaptations.recon_block.epochs", True),
        ("adaptations.recon_block.batch", 2.0),
        ("adaptations.recon_block.window_blocks", 0),
        ("adaptations.recon_block.shuffle", 1),
        ("adaptations.recon_block.method", "retraining"),
        ("study.calibration.samples", 0),
        ("study.calibration.length", 1),
        ("study.evaluation.perplexity.windows", 1),
        ("study.dense_limit", 1),
        ("study.dense_limit", float("nan")),
        ("study.name", "../escape"),
        ("study.name", "Laptop"),
        ("study.grids", []),
        ("study.grids.0.models", []),
        ("study.grids.0.models", ["one", "one"]),
        ("study.grids.0.seeds", [0, 0]),
        ("study.grids.0.seeds", [-1]),
        ("models.one.source", "ftp"),
        ("models.one.sha256", "0" * 63),
        ("models.a/b", {"source": "wheel"}),
        ("criteria.a-b", {"score": "wanda"}),
        ("criteria.a__b", {"score": "wanda"}),
    ],
)
def test_values_that_are_refused(key: str, value: object) -> None:
    message = refusal(changed({key: value}))
    assert key.rpartition(".")[2].split("/")[0] in message or key.rpartition(".")[0] in message


@pytest.mark.parametrize("key", ["models.one.source", "study.name", "study.calibration.text"])
def test_a_key_that_is_missing(key: str) -> None:
    new = config()
    parent, _, last = key.rpartition(".")
    inner: Any = new
    for part in parent.split("."):
        inner = inner[part]
    del inner[last]
    message = refusal(new)
    assert f"{parent}: '{last}' is a required property" in message


@pytest.mark.parametrize("value", [None, "text", [], 3, {}, {1: 2}, {"models": {1: {}}}])
def test_what_is_no_config_at_all(value: object) -> None:
    assert "in the config" in refusal(value)


@pytest.mark.parametrize(("registry", "name"), [("criteria", "dense"), ("adaptations", "none")])
def test_reserved_names(registry: str, name: str) -> None:
    entry = next(iter(config()[registry].values()))
    message = refusal(changed({f"{registry}.{name}": entry}))
    assert f"{registry}.{name}: this name is reserved" in message


def test_a_path_where_nothing_is() -> None:
    entry = {"source": "path", "path": "no/such/model"}
    message = refusal(
        changed(
            {
                "models.mine": entry,
                "texts.mine": {**entry, "path": "no/such/text", "format": "lines"},
            }
        )
    )
    assert "models.mine.path: there is nothing at no/such/model; expected a folder" in message
    assert "texts.mine.path: there is nothing at no/such/text; expected a file" in message


def test_token_ids_are_for_calibration_only(tmp_path: Path) -> None:
    path = tmp_path / "ids.safetensors"
    path.touch()
    base = changed({"texts.ids": {"source": "tokens", "path": str(path)}})
    Study.check(changed({"study.calibration.text": "ids"}, base), "config.yaml")
    message = refusal(changed({"study.evaluation.perplexity.text": "ids"}, base))
    assert "'ids' is a `tokens` source; expected a text" in message


def test_a_config_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="there is no such file"):
        Study.load(tmp_path / "config.yaml")
    (tmp_path / "config.yaml").write_text("models: {one: [}")
    with pytest.raises(UserError, match="this is not YAML") as error:
        Study.load(tmp_path / "config.yaml")
    assert "line 1" in str(error.value)


# --- Cells


def test_cells_in_order_dense_first() -> None:
    grid = config()["study"]["grids"][0]
    other = {**grid, "models": ["two", "one"], "criteria": ["wanda"], "seeds": [3, 0]}
    cells = Study.check(changed({"study.grids": [grid, other]}), "config.yaml").cells
    assert list(map(str, cells)) == [
        "one/dense/none/seed0",
        "two/dense/none/seed0",
        "one/magnitude-u50/none/seed0",
        "one/magnitude-u50/recon_block/seed0",
        "one/wanda-u50/none/seed0",
        "one/wanda-u50/recon_block/seed0",
        "two/wanda-u50/none/seed3",
        "two/wanda-u50/none/seed0",
        "two/wanda-u50/recon_block/seed3",
        "two/wanda-u50/recon_block/seed0",
        "one/wanda-u50/none/seed3",
        "one/wanda-u50/recon_block/seed3",
    ]
    assert [cell.is_dense for cell in cells[:3]] == [True, True, False]


NAMES = st.from_regex(NAME, fullmatch=True)
WORDS = st.from_regex(WORD, fullmatch=True)
CELLS = st.builds(
    Cell, NAMES, WORDS.filter(lambda word: word != "dense"), WORDS, WORDS, st.integers(0, 10**6)
) | st.builds(Cell.dense, NAMES)


@given(CELLS)
def test_a_cell_is_its_name(cell: Cell) -> None:
    assert Cell.parse(str(cell)) == cell
    assert cell.record_name == str(cell).replace("/", "__") + ".json"


@given(CELLS, CELLS)
def test_other_cells_have_other_records(one: Cell, other: Cell) -> None:
    assume(one != other)
    assert one.record_name != other.record_name


@pytest.mark.parametrize(
    "text",
    [
        "",
        "m/wanda-u50/none",
        "m/wanda/none/seed0",
        "m/wanda-u50/none/seed",
        "m/wanda-u50/none/seed-1",
        "M/wanda-u50/none/seed0",
        "m/wanda-u50/none/seed0/",
        "../wanda-u50/none/seed0",
        "m/wanda-u50/none/seed0\n",
    ],
)
def test_what_is_no_cell(text: str) -> None:
    with pytest.raises(ValueError, match="not a cell"):
        Cell.parse(text)


def test_seeds_for_each_purpose() -> None:
    seeds = {derive_seed(seed, purpose) for seed in range(50) for purpose in ("a", "b", "c")}
    assert len(seeds) == 150
    assert all(0 <= seed < 2**63 for seed in seeds)
    assert derive_seed(0, "calibration") == derive_seed(0, "calibration")


# --- What decides a number

RECON = "one/wanda-u50/recon_block/seed0"
PRUNED = "one/wanda-u50/none/seed0"
DENSE = "one/dense/none/seed0"
EVERYONE = {RECON, PRUNED, DENSE}
CHANGES: list[tuple[str, Any, set[str]]] = [
    ("models.one.version", "2", EVERYONE),
    ("models.one.sha256", "1" * 64, EVERYONE),
    ("models.one.dtype", "bfloat16", EVERYONE),
    ("models.one.licence", "MIT", set()),
    (
        "models.one.architecture",
        {
            "num_hidden_layers": 1,
            "hidden_size": 4,
            "intermediate_size": 4,
            "num_attention_heads": 1,
            "vocab_size": 9,
        },
        set(),
    ),
    ("models.two.version", "2", set()),
    ("texts.c4.member", "other", {RECON, PRUNED}),
    ("texts.c4.licence", "MIT", set()),
    ("texts.wiki.field", "body", EVERYONE),
    ("texts.unused.member", "other", set()),
    ("criteria.wanda.scope", "matrix", {RECON, PRUNED}),
    ("criteria.magnitude.scope", "row", set()),
    ("adaptations.recon_block.learning_rate", 0.1, {RECON}),
    ("adaptations.recon_block.window", 2, {RECON}),
    ("adaptations.recon_block.window", "all", {RECON}),
    ("adaptations.recon_block.inputs", "sparse", {RECON}),
    ("adaptations.recon_block.loss", "negative_cosine", {RECON}),
    ("adaptations.recon_block.optimiser", "sgd", {RECON}),
    ("adaptations.recon_block.schedule", "cosine", {RECON}),
    ("adaptations.recon_block.precision", "bfloat16", {RECON}),
    ("adaptations.recon_block.select_on", "evaluation", {RECON}),
    ("adaptations.recon_block.learning_rate", [0.1, 0.2], {RECON}),
    ("adaptations.recon_two.targets", "dense", set()),
    ("study.keep_hidden_states", "none", set()),
    ("study.selection", {"samples": 3}, set()),
    ("adaptations.recon_block.warmup", 0.5, {RECON}),
    ("adaptations.recon_block.epochs", 2, {RECON}),
    ("adaptations.recon_block.batch", 3, {RECON}),
    ("adaptations.recon_block.shuffle", False, {RECON}),
    ("adaptations.recon_block.train_norms", False, {RECON}),
    ("adaptations.recon_block.train_biases", False, {RECON}),
    ("adaptations.recon_block.samples", 5, {RECON}),
    ("adaptations.recon_block.samples", 4, set()),
    ("adaptations.recon_block.budget", {"tokens": 64}, {RECON}),
    ("adaptations.recon_block.budget", {"tokens": 32}, set()),
    ("adaptations.recon_block.trains", "norms", {RECON}),
    ("adaptations.recon_two.epochs", 2, set()),
    ("study.name", "other", set()),
    ("study.dense_limit", 5, set()),
    ("study.calibration.samples", 5, {RECON, PRUNED}),
    ("study.calibration.length", 9, {RECON, PRUNED}),
    ("study.calibration.text", "unused", {RECON, PRUNED}),
    ("study.evaluation.perplexity.length", 9, EVERYONE),
    ("study.evaluation.perplexity.windows", 2, EVERYONE),
    ("study.evaluation.perplexity.text", "unused", EVERYONE),
    ("study.grids.0.seeds", [0, 1], set()),
    ("study.grids.0.patterns", ["u50", "u60"], set()),
]


@pytest.mark.parametrize(("key", "value", "concerned"), CHANGES, ids=[key for key, *_ in CHANGES])
def test_a_spec_changes_with_what_decides_the_number(
    key: str, value: object, concerned: set[str]
) -> None:
    before = Study.check(config(), "config.yaml")
    after = Study.check(changed({key: value}), "config.yaml")
    cells = [Cell.parse(cell) for cell in sorted(EVERYONE)]
    found = {str(cell) for cell in cells if before.spec(cell) != after.spec(cell)}
    assert found == concerned


@pytest.mark.parametrize(
    ("key", "value", "concerned"),
    [
        ("tasks.rte.member", "other", {DENSE, PRUNED, RECON}),
        ("tasks.rte.documents", 8, {DENSE, PRUNED, RECON}),
        ("tasks.rte.licence", "MIT", set()),
        ("tasks.boolq.member", "other", set()),
        ("study.evaluation.tasks.limit", 3, {DENSE, PRUNED, RECON}),
        ("study.evaluation.tasks.seed", 1, {DENSE, PRUNED, RECON}),
        ("study.evaluation.tasks.names", ["boolq"], {DENSE, PRUNED, RECON}),
        ("study.evaluation.drift", {"samples": 2}, {PRUNED, RECON}),
        ("study.selection", {"samples": 9}, {PRUNED, RECON}),
    ],
)
def test_what_is_measured_is_part_of_the_spec(key: str, value: object, concerned: set[str]) -> None:
    given = changed(ASKED | DRIFT)
    before = Study.check(copy.deepcopy(given), "config.yaml")
    after = Study.check(changed({key: value}, given), "config.yaml")
    cells = [Cell.parse(cell) for cell in (DENSE, PRUNED, RECON)]
    assert {str(it) for it in cells if before.spec(it) != after.spec(it)} == concerned


def test_tasks_are_asked_of_the_cells_of_grids_that_say_so() -> None:
    grid = config()["study"]["grids"][0]
    asking = {**grid, "criteria": ["wanda"], "adaptations": ["none"], "tasks": True}
    other = {**grid, "models": ["two"]}
    given = changed(ASKED | {"study.grids": [grid, asking, other]})
    study = Study.check(given, "config.yaml")
    asked = {str(cell) for cell in study.cells if study.asks_tasks(cell)}
    assert asked == {"one/dense/none/seed0", "one/wanda-u50/none/seed0"}
    assert study.tasks["tasks"].keys() == {"rte"}
    without = Study.check(config(), "config.yaml")
    assert without.tasks == {} and not any(map(without.asks_tasks, without.cells))
    assert not any(map(without.measures_drift, without.cells))


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({**ASKED, "study.evaluation.tasks": {"names": ["rt"]}}, "rte (nearest)"),
        ({"study.grids.0.tasks": True}, "there is no `evaluation.tasks`"),
        ({**ASKED, "study.grids.0.tasks": False}, "no grid asks for it"),
        ({**ASKED, "tasks.rte": {**TASK, "documents": 0}}, "tasks.rte.documents"),
        ({**ASKED, "tasks.rte": {**TASK, "format": "csv"}}, "tasks.rte.format"),
        (
            {
                **ASKED,
                "tasks.rte": {"source": "path", "path": "x", "format": "jsonl", "documents": 1},
            },
            "tasks.rte.path: there is nothing at x",
        ),
        ({"study.evaluation.drift": {"samples": 17}}, "expected at most selection.samples, 16"),
        (DRIFT | {"study.selection": {"samples": 4}}, "found 8; expected at most"),
    ],
)
def test_what_cannot_be_measured_is_refused(changes: dict[str, Any], problem: str) -> None:
    base = changed({"tasks": {"rte": TASK}})
    assert problem in refusal(changed(changes, base))


def test_token_ids_hold_nothing_out_for_drift(tmp_path: Path) -> None:
    ids = tmp_path / "ids.safetensors"
    ids.touch()
    text = {"source": "tokens", "path": str(ids)}
    assert "no documents to hold out" in refusal(changed({"texts.c4": text} | DRIFT))


def test_what_a_spec_holds() -> None:
    found = Study.check(config(), "config.yaml")
    dense, pruned, recon = (found.spec(Cell.parse(cell)) for cell in (DENSE, PRUNED, RECON))
    assert dense.keys() == {"cell", "model", "evaluation"}
    more = {"calibration", "criterion", "pattern", "adaptation", "seed"}
    assert pruned.keys() == recon.keys() == dense.keys() | more
    assert (recon["cell"], recon["pattern"], recon["seed"]) == (RECON, "u50", 0)
    assert recon["criterion"] == {
        "score": "wanda",
        "scope": "row",
        "statistics": "dense",
        "swaps": 0,
    }
    assert pruned["adaptation"] is None and recon["adaptation"]["epochs"] == 1
    assert recon["calibration"]["text"]["name"] == "c4"
    assert recon["evaluation"]["perplexity"]["text"]["name"] == "wiki"


def test_every_setting_of_a_reconstruction_was_changed_above() -> None:
    settings = SCHEMA_JSON["$defs"]["reconstruction"]["properties"]
    # Those that go with one value of another setting only have tests of their own.
    changeable = settings.keys() - {"method", "memory_gb", "targets", "rank", "alpha"}
    assert changeable == {
        key.rpartition(".")[2] for key, *_ in CHANGES if key.startswith("adaptations.recon_block")
    }


def test_what_is_written_out_changes_no_spec() -> None:
    """A default that is stated, or keys in another order, decide nothing."""
    before = Study.check(config(), "config.yaml")
    written = json.loads(json.dumps(before.config, sort_keys=True))
    after = Study.check(written, "other.yaml")
    assert [before.spec(cell) for cell in before.cells] == [
        after.spec(cell) for cell in after.cells
    ]


def test_cells_differ_in_their_specs() -> None:
    found = Study.check(changed({"study.grids.0.seeds": [0, 1]}), "config.yaml")
    specs = [json.dumps(found.spec(cell), sort_keys=True) for cell in found.cells]
    assert len(set(specs)) == len(specs)


def test_the_users_own_files_are_inputs(tmp_path: Path) -> None:
    for name in ("config.json", "model.safetensors", "text.txt"):
        (tmp_path / name).touch()
    (tmp_path / "folder").mkdir()
    found = Study.check(
        changed(
            {
                "models.mine": {"source": "path", "path": str(tmp_path)},
                "texts.mine": {
                    "source": "path",
                    "path": str(tmp_path / "text.txt"),
                    "format": "plain",
                },
            }
        ),
        "config.yaml",
    )
    names = ["config.json", "model.safetensors", "text.txt"]
    assert found.source_files("models", "mine") == [str(tmp_path / name) for name in names]
    assert found.source_files("texts", "mine") == [str(tmp_path / "text.txt")]
    assert found.source_files("models", "one") == []


# --- What planning may not import


def test_planning_imports_no_tensor_library() -> None:
    """All modules of the planning rooms are imported, in a process of their own."""
    forbidden = {"torch", "transformers", "safetensors", "tokenizers", "matplotlib", "numpy"}
    code = f"""
import importlib, pkgutil, sys
for room in ("core", "study", "costs", "records"):
    package = importlib.import_module(f"freelunch.{{room}}")
    for module in pkgutil.iter_modules(package.__path__):
        importlib.import_module(f"freelunch.{{room}}.{{module.name}}")
assert "freelunch.costs.plan" in sys.modules
print(*sorted({forbidden!r} & set(sys.modules)))
"""
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "workflow" / "scripts")}
    output = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True
    )
    assert output.stdout.strip() == ""


def test_schema_and_names_are_checked_together() -> None:
    config = yaml.safe_load((ROOT / "config.yaml").read_text())
    config["study"]["name"] = "Not A Name"
    config["study"]["calibration"]["text"] = "c5"
    config["study"]["grids"][0]["patterns"] = ["x50"]
    with pytest.raises(UserError) as error:
        Study.check(config, "config.yaml")
    message = str(error.value)
    assert "3 problems" in message
    for key in ("study.name", "study.calibration.text", "study.grids.0.patterns"):
        assert key in message


def test_float16_is_refused_where_its_gradients_would_vanish() -> None:
    config = yaml.safe_load((ROOT / "config.yaml").read_text())
    config["models"]["smollm2-135m"]["dtype"] = "float16"
    with pytest.raises(UserError, match="gradients vanish in float16"):
        Study.check(config, "config.yaml")
    grid = {**config["study"]["grids"][0], "adaptations": ["none"], "tasks": True}
    config["study"]["grids"] = [grid]
    Study.check(config, "config.yaml")


def test_a_stride_longer_than_its_windows_is_refused() -> None:
    length = config()["study"]["evaluation"]["perplexity"]["length"]
    for stride in (None, 1, length):
        Study.check(changed({"study.evaluation.perplexity.stride": stride}), "made-up.yaml")
    with pytest.raises(UserError, match=f"found {length + 1}; expected at most the length"):
        Study.check(changed({"study.evaluation.perplexity.stride": length + 1}), "made-up.yaml")


# --- Retraining, and how much an adaptation sees


def with_adaptations(**entries: dict[str, Any]) -> dict[str, Any]:
    """Return a config with more adaptations; the first of them is run."""
    names = ["none", "recon_block", *entries]
    return changed(
        {
            "adaptations": {**config()["adaptations"], **entries},
            "study.grids.0.adaptations": names,
        }
    )


def test_each_method_has_its_own_settings() -> None:
    """A rank says nothing where there is none, and is refused."""
    low_rank = {"rank", "alpha", "train_norms", "train_biases", "train_head"}
    for method, expected, refused in (
        ("full", {"train_norms", "train_biases", "train_head"}, "rank"),
        ("biases", set(), "train_norms"),
        ("norms", set(), "train_biases"),
        ("biases_norms", set(), "train_head"),
        ("lora", {*low_rank, "dropout"}, "window"),
        ("lora_prune", {*low_rank, "dropout"}, "inputs"),
        ("masklora", low_rank, "dropout"),
        ("scalelora", low_rank - {"alpha"}, "alpha"),
        ("spp", low_rank, "dropout"),
    ):
        filled = Study.check(with_adaptations(x={"method": method}), "config.yaml").config
        shared = {"method", "loss", "optimiser", "learning_rate", "schedule", "warmup", "epochs"}
        shared |= {"batch", "gradient_checkpointing", "clip", "shuffle", "precision", "select_on"}
        assert filled["adaptations"]["x"].keys() == shared | expected
        message = refusal(with_adaptations(x={"method": method, refused: 1}))
        assert f"adaptations.x.{refused}: unknown key" in message


@pytest.mark.parametrize(
    ("entry", "samples"),
    [
        ({}, None),
        ({"samples": 4}, None),
        ({"samples": 7}, 7),
        ({"budget": {"tokens": 80}}, 10),
        ({"budget": {"tokens": 80}, "epochs": 2}, 5),
        ({"budget": {"times": 3, "of": "recon_block"}}, 12),
        ({"budget": {"times": 3, "of": "recon_block"}, "epochs": 3}, None),
        ({"budget": {"times": 0.5, "of": "recon_block"}}, 2),
        ({"budget": {"times": 2, "of": "other"}}, 10),
        ({"budget": {"times": 2, "of": "epochs"}}, 24),
        # Whole sequences in whole epochs, and never more than the budget.
        ({"budget": {"tokens": 87}}, 10),
        ({"budget": {"tokens": 80}, "epochs": 3}, 3),
        ({"budget": {"times": 0.7, "of": "other"}}, 3),
    ],
)
@pytest.mark.parametrize("method", ["full", "reconstruction"])
def test_a_budget_decides_how_many_sequences(
    method: str, entry: dict[str, Any], samples: int | None
) -> None:
    """Of 8 tokens; 4 sequences, the calibration sample, need not be said."""
    others = {
        "other": {"method": "full", "budget": {"tokens": 40}},
        "epochs": {"method": "full", "epochs": 3},
    }
    found = Study.check(with_adaptations(x={"method": method, **entry}, **others), "config.yaml")
    settings = found.adaptation("x")
    assert settings is not None and settings.get("samples") == samples
    assert "budget" not in settings
    assert found.samples("x") == (samples or 4)


def test_candidates_share_a_budget() -> None:
    """Twice the epochs see half the sequences."""
    entry = {"method": "full", "epochs": [1, 2], "budget": {"times": 4, "of": "recon_block"}}
    found = Study.check(with_adaptations(x=entry), "config.yaml")
    assert [found.samples(name) for name in found.candidate_names("x")] == [16, 8]
    cell = next(cell for cell in found.cells if cell.adaptation == "x")
    assert found.spec(cell)["adaptation"]["budget"] == {"tokens": 128}
    assert "selection" in found.spec(cell)


def test_a_sample_that_is_extended_leaves_out_the_held_out_text() -> None:
    """So its size is part of what decides the number."""
    entries = {"x": {"method": "full", "samples": 9}, "y": {"method": "full", "samples": 3}}
    found = Study.check(with_adaptations(**entries), "config.yaml")
    specs = {cell.adaptation: found.spec(cell) for cell in found.cells}
    assert "selection" in specs["x"]
    assert "selection" not in specs["y"]


@pytest.mark.parametrize(
    ("entry", "key", "expected"),
    [
        ({"method": "full", "budget": {"tokens": 15}}, "budget", "at least 16, one step"),
        ({"method": "full", "budget": {"times": 0.1, "of": "recon_block"}}, "budget", "at least"),
        (
            {"method": "full", "budget": {"tokens": 40}, "epochs": [1, 3]},
            "budget",
            "at least 48, one step",
        ),
        (
            {"method": "full", "budget": {"times": math.inf, "of": "recon_block"}},
            "budget.times",
            "found Infinity",
        ),
        ({"method": "full", "budget": {"tokens": 10**15}}, "budget.tokens", "1000000000000"),
        (
            {"method": "full", "budget": {"times": 2, "of": "recon_blok"}},
            "budget.of",
            "recon_block",
        ),
        ({"method": "full", "budget": {"times": 2, "of": "searched"}}, "budget.of", "settled"),
        ({"method": "full", "budget": {"times": 2, "of": "multiple"}}, "budget.of", "settled"),
        ({"method": "full", "budget": {"times": 2, "of": "exact"}}, "budget.of", "settled"),
        ({"method": "full", "budget": {"times": 2}}, "budget", ""),
        ({"method": "full", "budget": {"tokens": 64}, "samples": 3}, "x", "one of them"),
        ({"method": "full", "batch": 5}, "batch", "no more than it has"),
        ({"method": "reconstruction", "rank": 3}, "rank", "expected no such key"),
        ({"method": "reconstruction", "trains": "full", "alpha": 3}, "alpha", "no such key"),
        ({"method": "reconstruction", "trains": "scalelora", "alpha": 3}, "alpha", "no such key"),
        ({"method": "full", "micro_batch": 3}, "micro_batch", "at most the batch, 2"),
        (
            {"method": "reconstruction", "trains": "norms", "train_norms": False},
            "train_norms",
            "expected true",
        ),
        (
            {"method": "reconstruction", "trains": "norms", "window": "matrix"},
            "trains",
            "holds no norm",
        ),
        ({"method": "masklra"}, "method", "masklora (nearest)"),
    ],
)
def test_what_does_not_go_together_is_refused(
    entry: dict[str, Any], key: str, expected: str
) -> None:
    others: dict[str, dict[str, Any]] = {
        "searched": {"method": "full", "learning_rate": [0.1, 0.2]},
        "multiple": {"method": "full", "budget": {"times": 2, "of": "recon_block"}},
        "exact": {"method": "least_squares"},
    }
    message = refusal(with_adaptations(x=entry, **others))
    assert "1 problem in the config" in message
    assert f"adaptations.x{'' if key == 'x' else '.' + key}" in message
    assert expected in message


def test_a_tokens_source_cannot_be_extended() -> None:
    given = with_adaptations(x={"method": "full", "samples": 9})
    given["texts"]["c4"] = {"source": "tokens", "path": str(ROOT / "README.md")}
    message = refusal(given)
    assert "9 sequences are more than the `tokens` source" in message


def test_a_dense_model_is_not_adapted() -> None:
    given = config()
    given["study"]["grids"][0]["criteria"] = ["dense"]
    message = refusal(given)
    assert "study.grids.0.criteria: the dense model is always evaluated" in message
    assert "nothing of it was pruned" in message


def test_series_are_what_differs_in_more_than_the_budget() -> None:
    entries: dict[str, dict[str, Any]] = {
        "full_1": {"method": "full"},
        "full_3": {"method": "full", "samples": 12},
        "distilled": {"method": "full", "loss": "distillation"},
        "low": {"method": "reconstruction", "trains": "masklora", "rank": 2},
        # The larger budget that takes less memory for the same steps.
        "full_9": {
            "method": "full",
            "samples": 36,
            "micro_batch": 1,
            "gradient_checkpointing": True,
        },
        "branches": {"method": "reconstruction", "trains": "lora"},
    }
    found = Study.check(with_adaptations(**entries), "config.yaml")
    assert found.compares_budgets
    assert found.series == {
        "recon_block": "reconstruction, window 1",
        "recon_two": "reconstruction, window 2",
        "full_1": "full",
        "full_3": "full",
        "distilled": "full, distilled",
        "low": "reconstruction, window 1, masklora",
        "full_9": "full",
        "branches": "reconstruction, window 1, lora, dense",
    }
    assert "branches" not in found.references
    assert not Study.check(config(), "config.yaml").compares_budgets
