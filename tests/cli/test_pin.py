"""`freelunch pin`: what it writes beside a study."""

import json
from datetime import UTC, datetime
from pathlib import Path

import yaml

from freelunch.study.config import Part
from freelunch.study.open_study import open_study
from hub_standin import HubStandIn
from pinned_studies import COMMAND, CONFIG, PINS, STUDY, Said, pins, write_study


def test_it_writes_the_commits_beside_the_study(team: HubStandIn, did: Said) -> None:
    commits = {name: team.commit(name) for name in ("team/one", "team/two")}
    words = team.commit("team/words", kind="datasets")
    said = did("pin", str(STUDY))
    today = datetime.now(UTC).date()
    assert PINS.read_text().partition("datasets:")[2] == (
        f"""
  team/words:
    main:
      commit: {words}
      resolved: {today}
models:
  team/one:
    main:
      commit: {commits["team/one"]}
      resolved: {today}
  team/two:
    main:
      commit: {commits["team/two"]}
      resolved: {today}
"""
    )
    assert f"written by `{COMMAND}`" in PINS.read_text()
    assert f"models.one: team/one at main is {commits['team/one']}\n" in said
    assert said.endswith(f"Written: {PINS}. Keep it with the study.\n")
    # A second time changes nothing.
    written = PINS.read_bytes()
    assert did("pin", str(STUDY)).endswith(f"{PINS} is as it was.\n")
    assert PINS.read_bytes() == written


def test_a_part_is_pinned_alone(team: HubStandIn, did: Said, refused: Said) -> None:
    """A model that nobody may download here keeps no other model from being pinned."""
    one, files = team.commit("team/one"), {**CONFIG, "name": b"team/two"}
    two = team.add("team/two", files, gated=True)
    assert "models.one: " in did("pin", "--models", "one", str(STUDY))
    assert set(pins()["models"]) == {"team/one"} and set(pins()["datasets"]) == {"team/words"}
    part = Part(models=["one"])
    assert open_study(STUDY, part).model("one").fetched()["revision"] == one
    assert "still to be pinned" not in did("check", "--elsewhere", "--models", "one", str(STUDY))
    assert f"run `{COMMAND} MODELS=two`" in refused("check", "--models", "two", str(STUDY))
    team.add("team/two", files)
    # The pins of the other part stay.
    did("pin", "--models", "two", str(STUDY))
    assert open_study(STUDY).model("one").fetched()["revision"] == one
    assert open_study(STUDY).model("two").fetched()["revision"] == two


def test_everything_that_depends_on_a_revision_depends_on_the_commit(
    team: HubStandIn, did: Said
) -> None:
    did("pin", str(STUDY))
    study, commit = open_study(STUDY), team.commit("team/one")
    assert study.model("one").fetched()["revision"] == commit
    for cell in study.cells:
        spec = json.dumps(study.spec(cell))
        assert team.commit(f"team/{cell.model}") in spec and '"main"' not in spec
    written = study.as_json()
    assert written["models"]["one"]["revision"] == commit
    assert written["texts"]["words"]["revision"] == team.commit("team/words", kind="datasets")


def test_a_pin_stays_when_the_branch_moves(team: HubStandIn, did: Said) -> None:
    did("pin", str(STUDY))
    before, old = open_study(STUDY), team.commit("team/one")
    new = team.add("team/one", {**CONFIG, "new": b""})
    said = did("pin", str(STUDY))
    assert (
        f"is {old}, pinned on {datetime.now(UTC).date()} in {PINS}; the hub has {new} now\n" in said
    )
    assert open_study(STUDY) == before
    # Without its entry, it moves, and so does what depends on it: nothing else.
    left = pins()
    del left["models"]["team/one"]
    PINS.write_text(yaml.safe_dump(left))
    did("pin", str(STUDY))
    after = open_study(STUDY)
    changed = {str(cell) for cell in after.cells if before.spec(cell) != after.spec(cell)}
    assert changed == {"one/dense/none/seed0", "one/wanda-u50/none/seed0"}
    assert after.model("one").fetched()["revision"] == new
    assert after.model("two") == before.model("two") and after.config.texts == before.config.texts


def test_studies_share_pins_since_they_share_what_is_fetched(team: HubStandIn, did: Said) -> None:
    did("pin", str(STUDY))
    old = team.commit("team/one")
    new = team.add("team/one", {**CONFIG, "new": b""})
    other = Path("config.yaml")
    other.write_text(STUDY.read_text().replace("name: mine", "name: other"))
    said = did("pin", str(other))
    today = datetime.now(UTC).date()
    assert f"at main is {old}, pinned on {today} in {PINS}; the hub has {new} now\n" in said
    assert open_study(other).config.models == open_study(STUDY).config.models


def test_tags_and_odd_names_are_revisions(team: HubStandIn, did: Said) -> None:
    for revision in ("v1.0", "1.0", "refs/pr/3", "0123", "1e3"):
        commit = team.add("team/one", {**CONFIG, "of": revision.encode()}, branch=revision)
        write_study({"models.one": {"revision": revision}})
        did("pin", str(STUDY))
        assert open_study(STUDY).model("one").fetched()["revision"] == commit
        assert list(pins()["models"]["team/one"]) == [revision]


def test_a_model_and_a_dataset_of_one_name_are_two(team: HubStandIn, did: Said) -> None:
    dataset = team.add("team/one", {"a.txt": b"others"}, kind="datasets")
    write_study({"texts.words": {"repository": "team/one"}})
    did("pin", str(STUDY))
    study = open_study(STUDY)
    assert study.text("words").fetched()["revision"] == dataset
    assert study.model("one").fetched()["revision"] == team.commit("team/one") != dataset


def test_a_pin_of_another_revision_does_not_apply(
    team: HubStandIn, did: Said, refused: Said
) -> None:
    did("pin", str(STUDY))
    tagged = team.add("team/one", {**CONFIG, "tagged": b""}, branch="v2")
    write_study({"models.one": {"revision": "v2"}})
    said = refused("check", str(STUDY))
    assert "found:    models.one.revision: v2\n" in said and COMMAND in said
    assert "removed from models: team/one at main" in did("pin", str(STUDY))
    assert open_study(STUDY).model("one").fetched()["revision"] == tagged
    assert list(pins()["models"]["team/one"]) == ["v2"]


def test_a_renamed_repository_is_followed(team: HubStandIn, did: Said) -> None:
    commit = team.commit("team/one")
    team.rename("team/one", "company/uno")
    did("pin", str(STUDY))
    assert open_study(STUDY).model("one").fetched()["revision"] == commit


def test_a_full_commit_needs_no_pin(team: HubStandIn, did: Said) -> None:
    did("pin", str(STUDY))
    words = team.commit("team/words", kind="datasets")
    write_study(
        {
            "models.one": {"revision": team.commit("team/one")},
            "models.two": {"revision": team.commit("team/two")},
            "texts.words": {"revision": words},
        }
    )
    assert open_study(STUDY).text("words").fetched()["revision"] == words
    team.requests.clear()
    said = did("pin", str(STUDY))
    assert said.count("removed from ") == 3 and said.endswith("since it names no branch or tag.\n")
    assert not PINS.exists() and not team.requests


def test_tasks_are_pinned_too(team: HubStandIn, did: Said, refused: Said) -> None:
    config = yaml.safe_load(STUDY.read_text())
    entry = {"source": "hub", "repository": "team/words", "revision": "v2", "member": "a.txt"}
    config["tasks"] = {"rte": {**entry, "format": "jsonl", "documents": 1}}
    config["study"]["evaluation"]["tasks"] = {"names": ["rte"]}
    config["study"]["grids"][0]["tasks"] = True
    STUDY.write_text(yaml.safe_dump(config))
    commit = team.add("team/words", {"a.txt": b"more"}, kind="datasets", branch="v2")
    assert "tasks.rte.revision: v2" in refused("check", str(STUDY))
    did("pin", str(STUDY))
    assert open_study(STUDY).config.tasks["rte"].revision == commit
