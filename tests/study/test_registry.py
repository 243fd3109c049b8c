"""A study and its base: what it takes, what it overrides, and in which order."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from configs import TASK, changed, config, problems
from freelunch.study.study import Study
from refusals import refused
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
    """Its entries written out make the same study."""
    study, whole = study_of(base), Study.check(config(), "config.yaml")
    assert names_of(study) == {
        "models": ["one"],
        "texts": ["c4", "wiki"],
        "tasks": [],
        "criteria": ["magnitude", "wanda"],
        "adaptations": ["recon_block"],
    }
    assert study.cells == whole.cells
    assert [study.spec(cell) for cell in study.cells] == [whole.spec(cell) for cell in whole.cells]
    changes = {"study.evaluation.tasks": {"names": ["rte"]}, "study.grids.0.tasks": True}
    assert names_of(study_of(base, changes))["tasks"] == ["rte"]
    assert names_of(study_of(base, {"study.grids.0.adaptations": ["none"]}))["adaptations"] == []


def test_what_a_budget_is_a_multiple_of_is_taken_too(base: Path) -> None:
    """Also for an entry of the study's own, and however long the chain is: then it is refused."""
    taken = names_of(study_of(base, {"study.grids.0.adaptations": ["twice", "half"]}))
    assert taken["adaptations"] == ["twice", "half", "recon_block", "more"]
    own = {"own": {"method": "full", "budget": {"times": 3, "of": "more"}}}
    taken = names_of(study_of(base, {"study.grids.0.adaptations": ["own"]}, adaptations=own))
    assert taken["adaptations"] == ["own", "more"]
    for last in ("half", "own"):
        own = {
            "own": {"method": "full", "budget": {"times": 3, "of": "next"}},
            "next": {"method": "full", "budget": {"times": 3, "of": last}},
        }
        new = {**based(base, {"study.grids.0.adaptations": ["own"]}), "adaptations": own}
        keys = [line.partition(": ")[0] for line in problems(new)]
        assert keys == ["adaptations.next.budget.of", "adaptations.own.budget.of"]


def test_entries_are_in_the_order_in_which_the_study_names_them(base: Path) -> None:
    """It is that of tables and figures. Entries of its own that it does not name come last."""
    grid = {**STUDY["grids"][0], "criteria": ["wanda", "magnitude"], "models": ["two"]}
    names = names_of(study_of(base, {"study.grids": [grid, STUDY["grids"][0]]}))
    assert names["criteria"] == ["wanda", "magnitude"] and names["models"] == ["two", "one"]
    own = {"last": {"score": "ria"}, "wanda": {"score": "wanda", "scope": "matrix"}}
    names = names_of(study_of(base, {"study.grids": [grid]}, criteria=own))
    assert names["criteria"] == ["wanda", "magnitude", "last"]


def test_an_entry_of_the_study_takes_the_place_of_the_whole_entry(base: Path) -> None:
    """Nothing is merged: what it does not say has its default."""
    write(base.parent, changed({"criteria.wanda": {"score": "wanda", "swaps": 3}}, BASE))
    assert study_of(base).config.criteria["wanda"].as_json()["swaps"] == 3
    study = study_of(base, criteria={"wanda": {"score": "wanda", "scope": "matrix"}})
    assert study.criterion("wanda").as_json()["swaps"] == 0
    assert study.criterion("wanda").scope == "matrix"
    assert study.criterion("magnitude").score == "magnitude"


# --- Bases that are none


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        ({**BASE, "study": STUDY}, "study: unknown key; expected one of: adaptations, criteria"),
        ({**BASE, "base": "x.yaml"}, "base: unknown key"),
        ({**BASE, "tasks": "one"}, 'tasks: found "one"; expected a mapping'),
        (None, "(top): found null; expected a mapping"),
        ([BASE], "(top): found"),
        (
            changed({"models.two.dtyp": "x"}, BASE),
            "models.two.dtyp: unknown key; expected dtype (nearest)",
        ),
    ],
)
def test_what_is_wrong_in_a_base_is_told_of_its_file(
    base: Path, content: object, problem: str
) -> None:
    write(base.parent, content)
    with refused(where=base, todo="move other keys") as caught:
        study_of(base)
    assert caught.value.problem.startswith(f"1 problem in the config\n  {problem}")
    base.write_text("models: {one: [}")
    with refused(where=base, found="line 1"):
        study_of(base)


@pytest.mark.parametrize(
    "named", ["no/such/base.yaml", ".", "", "x" * 9999, "a\0b/c", None, 3, ["base.yaml"]]
)
def test_a_base_that_is_not_there(named: object) -> None:
    with refused(where="config.yaml: base", found=repr(named)[:60]):
        Study.check({"base": named, "study": STUDY}, "config.yaml")


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
    with refused(where="config/registry.yaml"):
        Study.load(path)
