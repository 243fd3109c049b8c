"""A study and its base: what it takes, what it overrides, and in which order."""

import os
from pathlib import Path
from typing import Any

import pytest
import yaml

from configs import TASK, changed, config, refusal
from freelunch.core.errors import UserError
from freelunch.study.config import Part
from freelunch.study.study import Study
from repository import ROOT

STUDY = config()["study"]
BASE: dict[str, Any] = {
    **{key: value for key, value in config().items() if key != "study"},
    "tasks": {"rte": dict(TASK)},
    "adaptations": {
        "recon_block": {"method": "reconstruction"},
        "unused": {"method": "norms"},
        "half": {"method": "full", "budget": {"times": 0.5, "of": "more"}},
        "more": {"method": "full", "budget": {"tokens": 64}},
        "twice": {"method": "full", "budget": {"times": 2, "of": "recon_block"}},
    },
}


@pytest.fixture
def base(tmp_path: Path) -> Path:
    return write(tmp_path, BASE)


def write(folder: Path, content: object) -> Path:
    path = folder / "base.yaml"
    path.write_text(yaml.safe_dump(content, sort_keys=False))
    return path


def study_of(base: Path, changes: dict[str, Any] | None = None, **own: Any) -> Study:
    return Study.check({**based(base, changes), **own}, "config.yaml")


def based(base: Path, changes: dict[str, Any] | None = None) -> dict[str, Any]:
    return changed(changes or {}, {"base": str(base), "study": STUDY})


def names_of(study: Study) -> dict[str, list[str]]:
    written = study.as_json()
    return {registry: list(written[registry]) for registry in written if registry != "study"}


def test_a_study_takes_what_it_names_and_nothing_else(base: Path) -> None:
    assert names_of(study_of(base)) == {
        "models": ["one"],
        "texts": ["c4", "wiki"],
        "tasks": [],
        "criteria": ["magnitude", "wanda"],
        "adaptations": ["recon_block"],
    }


def test_a_study_with_a_base_is_the_study_with_these_entries_written_out(base: Path) -> None:
    found, whole = study_of(base), Study.check(config(), "config.yaml")
    assert found.cells == whole.cells
    assert [found.spec(cell) for cell in found.cells] == [whole.spec(cell) for cell in whole.cells]


def test_tasks_are_taken_by_their_names(base: Path) -> None:
    changes = {"study.evaluation.tasks": {"names": ["rte"]}, "study.grids.0.tasks": True}
    assert names_of(study_of(base, changes))["tasks"] == ["rte"]


def test_what_a_budget_is_a_multiple_of_is_taken_too(base: Path) -> None:
    taken = names_of(study_of(base, {"study.grids.0.adaptations": ["twice", "half"]}))
    assert taken["adaptations"] == ["twice", "half", "recon_block", "more"]
    # Also for an entry of the study's own.
    own = {"own": {"method": "full", "budget": {"times": 3, "of": "more"}}}
    taken = names_of(study_of(base, {"study.grids.0.adaptations": ["own"]}, adaptations=own))
    assert taken["adaptations"] == ["own", "more"]


def test_multiples_of_multiples_are_taken_and_then_refused(base: Path) -> None:
    """They are found however long the chain is, and however it closes."""
    own = {
        "a": {"method": "full", "budget": {"times": 3, "of": "b"}},
        "b": {"method": "full", "budget": {"times": 3, "of": "half"}},
    }
    new = {**based(base, {"study.grids.0.adaptations": ["a"]}), "adaptations": own}
    message = refusal(new)
    assert "adaptations.a.budget.of: how much 'b' sees is not settled" in message
    assert "adaptations.b.budget.of: how much 'half' sees is not settled" in message
    own["b"]["budget"] = {"times": 3, "of": "a"}
    assert "2 problems" in refusal({**new, "adaptations": own})


def test_entries_are_in_the_order_in_which_the_study_names_them(base: Path) -> None:
    """It is that of tables and figures."""
    grid = {**STUDY["grids"][0], "criteria": ["wanda", "magnitude"], "models": ["two"]}
    found = study_of(base, {"study.grids": [grid, STUDY["grids"][0]]})
    assert names_of(found)["criteria"] == ["wanda", "magnitude"]
    assert names_of(found)["models"] == ["two", "one"]
    # Entries of its own that it names stand where it names them; others at the end.
    own = {"last": {"score": "ria"}, "wanda": {"score": "wanda", "scope": "matrix"}}
    found = study_of(base, {"study.grids": [grid]}, criteria=own)
    assert names_of(found)["criteria"] == ["wanda", "magnitude", "last"]


def test_an_entry_of_the_study_takes_the_place_of_the_whole_entry(base: Path) -> None:
    """Nothing is merged: what it does not say has its default."""
    content = changed({"criteria.wanda": {"score": "wanda", "swaps": 3}}, BASE)
    write(base.parent, content)
    assert study_of(base).criterion("wanda").swaps == 3
    found = study_of(base, criteria={"wanda": {"score": "wanda", "scope": "matrix"}})
    wanda = found.criterion("wanda")
    assert (wanda.scope, wanda.swaps) == ("matrix", 0)
    assert found.criterion("magnitude").score == "magnitude"


def test_a_registry_that_the_study_takes_nothing_from_is_empty(base: Path) -> None:
    assert names_of(study_of(base, {"study.grids.0.adaptations": ["none"]}))["adaptations"] == []


def test_a_study_with_a_base_is_complete_when_it_is_written_out(base: Path) -> None:
    """What the workflow hands on needs no base any more, and is the same study."""
    found = study_of(base, {"study.grids.0.adaptations": ["twice", "half", "none"]})
    written = found.as_json()
    assert "base" not in written
    base.unlink()
    again = Study.check(written, "config.yaml")
    assert repr(again.as_json()) == repr(written)
    assert again.cells == found.cells


def test_names_of_the_base_are_among_the_nearest(base: Path) -> None:
    """Also of entries that the study does not take."""
    changes: dict[str, Any] = {
        "study.grids.0.models": ["twos"],
        "study.calibration.text": "unusd",
        "study.grids.0.adaptations": ["unusde"],
    }
    own = {"tow": {"source": "hub", "repository": "a/b", "revision": "0" * 40}}
    message = refusal({**based(base, changes), "models": own})
    for line in (
        "study.grids.0.models: 'twos' is not in `models`; expected two (nearest) out of: "
        "one, tow, two",
        "study.calibration.text: 'unusd' is not in `texts`; expected unused (nearest) out of: "
        "c4, unused, wiki",
        "study.grids.0.adaptations: 'unusde' is not in `adaptations`; expected unused (nearest)",
    ):
        assert line in message


def test_what_is_wrong_with_an_entry_that_is_taken(base: Path) -> None:
    write(base.parent, changed({"models.one.dtyp": "float32", "models.two.dtyp": "x"}, BASE))
    message = refusal(based(base))
    assert "1 problem in the config" in message
    assert "models.one.dtyp: unknown key; expected dtype (nearest)" in message


@pytest.mark.parametrize("value", [None, [], "one", 3])
def test_a_registry_of_the_study_that_is_no_mapping(base: Path, value: object) -> None:
    """The base's does not silently take its place."""
    message = refusal({**based(base), "models": value})
    assert "1 problem in the config" in message
    assert "  models: found" in message and "expected a mapping" in message


# --- Bases that are none


@pytest.mark.parametrize("key", ["study", "base", "model"])
def test_a_base_holds_registries_only(base: Path, key: str) -> None:
    write(base.parent, {**BASE, key: STUDY})
    message = refusal(based(base))
    assert message.startswith(f"{base}: a base holds registries and nothing else")
    assert f"found:    {key}\n" in message
    assert "expected: models, texts, tasks, criteria, adaptations" in message


@pytest.mark.parametrize("content", [None, [], "text", 3, [BASE]])
def test_a_base_that_is_no_mapping(base: Path, content: object) -> None:
    write(base.parent, content)
    assert refusal(based(base)).startswith(f"{base}: a base is a mapping")


@pytest.mark.parametrize("entries", [None, [], "one"])
def test_a_registry_of_the_base_that_is_no_mapping(base: Path, entries: object) -> None:
    write(base.parent, {**BASE, "tasks": entries})
    message = refusal(based(base))
    assert message.startswith(f"{base}: tasks: a registry is a mapping")


@pytest.mark.parametrize("named", ["no/such/base.yaml", ".", "", "x" * 9999, "a\0b/c"])
def test_a_base_that_is_not_there(named: str) -> None:
    """The names of its entries are unknown, so that nothing is said of them."""
    message = refusal({"base": named, "study": STUDY})
    assert message.startswith("config.yaml: 1 problem in the config\n  base: there is no file ")
    assert repr(named[:60]) in message


@pytest.mark.parametrize("named", [None, 3, ["base.yaml"]])
def test_a_base_that_is_no_name(named: object) -> None:
    message = refusal({"base": named, "study": STUDY})
    assert message.endswith(f"\n  base: found {named}; expected the name of a file")


def test_the_file_nearest_to_a_wrong_base_and_all_other_problems(base: Path) -> None:
    new = based(base.with_name("bse.yaml"), {"study.calibration.samples": 0})
    message = refusal({**new, "adaptations": {"own": {"method": "full", "epoch": 3}}})
    assert "3 problems in the config" in message
    assert f"; expected {base} (nearest) out of: " in message
    assert "study.calibration.samples: found 0" in message
    assert "adaptations.own.epoch: unknown key; expected epochs (nearest)" in message
    message = refusal({"base": "config/registery.yaml", "study": STUDY})
    assert "expected config/registry.yaml (nearest)" in message


def test_a_base_that_cannot_be_read(base: Path) -> None:
    base.write_text("models: {one: [}")
    with pytest.raises(UserError, match="not a valid YAML file") as error:
        study_of(base)
    assert str(error.value).startswith(str(base))


def test_a_base_is_beside_the_study(base: Path) -> None:
    path = base.with_name("mine.yaml")
    path.write_text(yaml.safe_dump({"base": "base.yaml", "study": STUDY}))
    assert Study.load(path).as_json() == study_of(base).as_json()
    assert Study.load(Path("mine.yaml"), base.parent).as_json() == study_of(base).as_json()


def test_or_in_the_repository_of_the_workflow(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Wherever the study is and whatever folder it is run in."""
    path = tmp_path / "mine.yaml"
    path.write_text((ROOT / "studies" / "full.yaml").read_text())
    expected = Study.load(ROOT / "studies" / "full.yaml").as_json()
    monkeypatch.chdir(tmp_path)
    assert Study.load(path).as_json() == expected
    # A file beside the study comes first.
    (tmp_path / "config").mkdir()
    (tmp_path / "config" / "registry.yaml").write_text("study: {}\n")
    with pytest.raises(UserError, match=r"^config/registry.yaml: a base holds registries"):
        Study.load(path)


# --- A part of another study


@pytest.fixture
def whole(tmp_path: Path) -> Path:
    path = tmp_path / "whole.yaml"
    grid = {**STUDY["grids"][0], "seeds": [0, 1]}
    path.write_text(yaml.safe_dump({**config(), "study": {**STUDY, "grids": [grid]}}))
    return path


def part_of(whole: Path, part: object, **own: Any) -> Path:
    path = whole.with_name("part.yaml")
    path.write_text(yaml.safe_dump({"base": whole.name, "study": {"part": part, **own}}))
    return path


def test_a_file_that_names_a_part_is_that_part_of_the_study(whole: Path) -> None:
    """Its results, pins and commands are those of the whole study."""
    found = Study.load(part_of(whole, {"seeds": [1]}))
    expected = Study.load(whole, part=Part(seeds=[1]))
    assert found.as_json() == expected.as_json()
    assert {cell.seed for cell in found.cells} == {0, 1}, "the dense model has the seed 0"
    assert len(found.cells) < len(Study.load(whole).cells)
    assert found.command("study") == f"make study STUDY={os.path.relpath(whole)} SEEDS=1"


def test_a_part_that_a_command_names_takes_the_place_of_the_files(whole: Path) -> None:
    found = Study.load(part_of(whole, {"seeds": [1]}), part=Part(seeds=[0]))
    assert {cell.seed for cell in found.cells} == {0}


@pytest.mark.parametrize(
    ("part", "problem"),
    [
        ({"models": ["tow"]}, "study.part.models: no grid is for 'tow'; expected one"),
        ({"seeds": 0}, "study.part.seeds: found 0; expected a list"),
        (None, "study.part: found null; expected a value, or no such key"),
    ],
)
def test_what_is_no_part_is_refused_where_it_is_written(
    whole: Path, part: object, problem: str
) -> None:
    path = part_of(whole, part)
    with pytest.raises(UserError) as error:
        Study.load(path)
    assert str(error.value).startswith(f"{path}, a part of {os.path.relpath(whole)}: 1 problem")
    assert problem in str(error.value)


def test_a_part_of_a_part_is_refused(whole: Path) -> None:
    first = part_of(whole, {"seeds": [1]})
    second = whole.with_name("second.yaml")
    second.write_text(yaml.safe_dump({"base": first.name, "study": {"part": {"seeds": [1]}}}))
    with pytest.raises(UserError, match="a part is one of a whole study"):
        Study.load(second)


def test_a_part_with_settings_of_its_own_is_refused(whole: Path) -> None:
    with pytest.raises(UserError, match="leave nothing in that one but `base` and") as error:
        Study.load(part_of(whole, {"seeds": [1]}, name="mine"))
    assert "a base holds registries and nothing else" in str(error.value)
