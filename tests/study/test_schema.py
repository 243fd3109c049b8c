"""The JSON Schema for editors, and the page of settings: both are written from the classes."""

import json
import re
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from configs import STUDIES, changed, config, everything, refusal
from freelunch.study.adaptations import Training
from freelunch.study.config import CHOSEN_BY, KINDS
from freelunch.study.schema import SCHEMA, schema_text, settings_page
from freelunch.study.study import Study

FILE_SCHEMA = json.loads(schema_text())
VALIDATOR = jsonschema.Draft202012Validator(FILE_SCHEMA)


def test_the_file_is_what_the_classes_say() -> None:
    command = f"python -m freelunch schema > {SCHEMA.relative_to(SCHEMA.parents[2])}"
    assert SCHEMA.read_text(encoding="utf-8") == schema_text(), f"write it again: {command}"


def test_the_schema_is_one() -> None:
    jsonschema.Draft202012Validator.check_schema(FILE_SCHEMA)
    # Two classes of one name would be told apart by their modules.
    assert all(name.isidentifier() and "__" not in name for name in FILE_SCHEMA["$defs"])


@pytest.mark.parametrize("path", STUDIES, ids=lambda path: path.stem)
def test_studies_of_the_repository_fit_the_schema(path: Path) -> None:
    given = yaml.safe_load(path.read_text(encoding="utf-8"))
    # As an editor reads the file, and as the workflow hands it on.
    for each in (given, Study.load(path).as_json()):
        assert [error.message for error in VALIDATOR.iter_errors(each)] == []


@pytest.mark.parametrize("given", [config(), everything()], ids=["short", "everything"])
def test_what_the_classes_accept_fits_the_schema(given: dict[str, Any]) -> None:
    assert [error.message for error in VALIDATOR.iter_errors(given)] == []


@pytest.mark.parametrize(
    "changes",
    [
        {"criteria.wanda.exponent": 1},
        {"criteria.wanda.score": "wnada"},
        {"criteria.a__b": {"score": "wanda"}},
        {"adaptations.recon_block.samples": None},
        {"adaptations.recon_block.learning_rate": 0},
        {"adaptations.recon_block.learning_rate": []},
        {"adaptations.recon_block.learning_rate": "0.1"},
        {"adaptations.recon_block.window": "blocks"},
        {"adaptations.recon_block.window": 0},
        {"adaptations.recon_block.warmup": 1},
        {"models.one.architecture": {"hidden_size": 4}},
        {"models.one.sha256": "0" * 63},
        {"models.a/b": {"source": "path", "path": "x"}},
        {"study.evaluation.drift": None},
        {"study.keep_hidden_states": "every_0"},
        {"study.grids": []},
        {"study.grids.0.models": []},
        {"study.grids.0.seeds": [-1]},
        {"study.grids.0.seeds": [0, 0]},
        {"adaptations.recon_block.epochs": [1, 1]},
        {"study.grids.0.seed": [1]},
        {"study.calibration": {"text": "c4", "samples": 4}},
        {"seeds": [1]},
        {"models": None},
    ],
    ids=lambda changes: next(iter(changes)),
)
def test_what_the_classes_refuse_does_not_fit_the_schema(changes: dict[str, Any]) -> None:
    given = changed(changes)
    refusal(given)
    assert not VALIDATOR.is_valid(given)


def test_a_registry_may_be_left_to_the_base() -> None:
    given = {"study": config()["study"]}
    assert not VALIDATOR.is_valid(given)
    assert VALIDATOR.is_valid({**given, "base": "studies/base.yaml"})
    assert not VALIDATOR.is_valid({**given, "base": ["studies/base.yaml"]})


def test_the_page_has_every_setting_of_every_entry_once() -> None:
    text = settings_page()
    sections = {part.partition("\n")[0]: part for part in text.split("\n## ")}

    for registry, kinds in KINDS.items():
        for value in kinds:
            assert f"\n- `{value}`: " in sections[registry]
        for name in {name for kind in kinds.values() for name in kind.model_fields}:
            if name == CHOSEN_BY[registry]:
                continue
            found = []
            for words in re.findall(rf"^\| `{name}` .* \| (.+) \|$", sections[registry], re.M):
                named = set(re.findall(r"`(\w+)`", words)) or {*kinds}
                found += {*kinds} - named if words.startswith("all but ") else named
            assert sorted(found) == sorted(
                value for value, kind in kinds.items() if name in kind.model_fields
            )
    warmup = Training.model_fields["warmup"].description
    row = f"| `warmup` | number at least 0, less than 1 | `0.1` | {warmup} |"
    assert f"{row} all but `least_squares` |" in sections["adaptations"]
    # Markdown would take a bare <name> for HTML.
    words = "lower-case letters and digits, with single . _ or - between"
    row = f"| `name` | {words} | required | Results go to results/&lt;name>/. |"
    assert row in sections["study"] and "|  |\n" not in text
    links = set(re.findall(r"\]\(#([^)]+)\)", text))
    assert links and links <= {heading.lower().replace(".", "") for heading in sections}
