"""`freelunch pin`: what it writes beside a study, and what cannot be pinned."""

import re
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import yaml
from huggingface_hub import constants

from artifacts import write_facts
from freelunch.core.errors import UserError
from freelunch.data.hub import newest_commit
from freelunch.study.config import Part
from freelunch.study.open_study import chosen_study, open_study
from freelunch.study.sources import Hub
from freelunch.study.study import Study
from hub_standin import HubStandIn, use_endpoint
from pinned_studies import COMMAND, CONFIG, PINS, STUDY, Said, pins, write_study
from repository import ROOT


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


# --- What is refused


def test_a_study_without_pins_is_only_planned(
    team: HubStandIn, did: Said, refused: Said, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("freelunch.cli.main.run_snakemake", lambda *given, **options: 1 / 0)
    found = "models.one.revision: main, models.two.revision: main, texts.words.revision: main\n"
    for command in (["check"], ["run"], ["run", "--elsewhere"], ["summary"], ["verify"]):
        said = refused(*command, str(STUDY))
        assert said.startswith(f"error: {STUDY}: ") and found in said and f"`{COMMAND}`" in said
    # As Snakemake itself, without a check before it.
    with pytest.raises(UserError, match=re.escape(COMMAND)):
        chosen_study({"study": str(STUDY)})
    did("plan", "--tflops", "1", "--disk", "1GB/s", str(STUDY))
    assert did("name", str(STUDY)) == "mine\n"
    assert f"; still to be pinned: `{COMMAND}`)." in did("check", "--elsewhere", str(STUDY))
    # It asks for no pins.
    (Path("results") / "mine" / "records").mkdir(parents=True)
    assert "Nothing to remove" in did("tidy", str(STUDY))
    assert not team.requests, "a plan needs no hub"


@pytest.mark.parametrize(
    ("place", "change", "where", "found"),
    [
        ("models.one", {"revision": "dev"}, "revision", "dev, in {hub}/team/one\n"),
        ("texts.words", {"revision": "dev"}, "revision", "dev, in {hub}/datasets/team/words\n"),
        ("models.one", {"repository": "team/eno"}, "repository", "{hub}/team/eno\n"),
        ("models.one", {"repository": "team/empty"}, "repository", "{hub}/team/empty at "),
        ("models.one", {"repository": "team/pickle"}, "models.one", "pytorch_model.bin\n"),
        ("texts.words", {"member": "b.txt"}, "member", "b.txt, in {hub}/datasets/team/words at "),
    ],
)
def test_what_cannot_be_fetched_is_not_pinned(
    place: str, change: dict[str, Any], where: str, found: str, team: HubStandIn, refused: Said
) -> None:
    team.add("team/empty", {"README.md": b""})
    team.add("team/pickle", {"config.json": b"{}", "pytorch_model.bin": b"pickle"})
    write_study({place: change})
    said = refused("pin", str(STUDY))
    assert said.startswith(f"error: {where if where == place else f'{place}.{where}'}: ")
    assert f"found:    {found.format(hub=team.endpoint)}" in said
    assert ("refs/pr/NUMBER" in said) == (change.get("repository") == "team/pickle")
    of_model = place == "models.one"
    assert set(pins()["models"]) == ({"team/two"} if of_model else {"team/one", "team/two"})
    assert ("datasets" in pins()) == of_model


def test_all_that_cannot_be_pinned_is_told_and_the_rest_is_pinned(
    team: HubStandIn, did: Said, refused: Said
) -> None:
    """Or else, each licence to accept would need a run of its own."""
    did("pin", str(STUDY))
    before = pins()
    team.add("team/gated", CONFIG, gated=True)
    write_study({"models.one": {"repository": "team/gated"}, "models.two": {"revision": "dev"}})
    said = refused("pin", str(STUDY))
    assert said.startswith(f"error: {STUDY}: 2 sources could not be pinned\n  models.one.reposi")
    assert "\n  models.two.revision: the revision is not there\n" in said
    # Nothing is unpinned before all is well: the names may be misspelled.
    assert pins() == before and "removed" not in said
    write_study()
    assert "is as it was" in did("pin", str(STUDY))
    # What is pinned stays pinned when its repository is closed.
    write_study({"models.two": {"revision": "dev"}})
    did("pin", "--models", "one", str(STUDY))
    team.add("team/one", CONFIG, gated=True)
    refused("pin", str(STUDY))
    assert pins()["models"] == {"team/one": before["models"]["team/one"]}
    # A check tells all, too.
    team.add("team/words", {"a.txt": b"words"}, kind="datasets", gated=True)
    said = refused("check", "--models", "one", str(STUDY))
    assert f"{STUDY}: 2 sources cannot be downloaded\n" in said
    assert all(f"\n  {place}.repository: " in said for place in ("models.one", "texts.words"))
    # Without any pin, there is no file of them.
    PINS.unlink()
    assert "2 sources could not be pinned" in refused("pin", "--models", "one", str(STUDY))
    assert not PINS.exists()


def test_a_pinned_commit_that_vanished_is_named(team: HubStandIn, did: Said, refused: Said) -> None:
    did("pin", str(STUDY))
    old = team.commit("team/one")
    new = team.add("team/one", {**CONFIG, "rewritten": b""})
    team.forget("team/one", old)
    for command in ("pin", "check"):
        said = refused(command, str(STUDY))
        assert "models.one.revision: the revision is not there" in said and old in said
        assert "*.pins" in said and f"run `{COMMAND}`" in said
    # As it says.
    left = pins()
    del left["models"]["team/one"]
    PINS.write_text(yaml.safe_dump(left))
    did("pin", str(STUDY))
    assert open_study(STUDY).model("one").fetched()["revision"] == new


@pytest.mark.parametrize("token", [None, "hf_another"])
def test_a_gated_model_says_what_to_accept_and_where_the_token_goes(
    token: str | None, team: HubStandIn, did: Said, refused: Said, monkeypatch: pytest.MonkeyPatch
) -> None:
    commit = team.add("team/one", CONFIG, gated=True)
    if token:
        monkeypatch.setenv("HF_TOKEN", token)
    said = refused("pin", str(STUDY))
    assert said.startswith("error: models.one.repository: the repository is gated")
    assert "found:    Access to team/one is restricted and you are not in the authorized" in said
    assert f"{team.endpoint}/team/one, and" in said and f"({team.endpoint}/settings/tokens)" in said
    assert "hf_another" not in said
    # The same without pins, before a run.
    words, two = team.commit("team/words", kind="datasets"), team.commit("team/two")
    revisions = {"models.one": commit, "models.two": two, "texts.words": words}
    write_study({place: {"revision": revision} for place, revision in revisions.items()})
    assert refused("check", str(STUDY)) == said
    # Downloads run here, wherever jobs run.
    for options in (["--profile", "slurm"], ["--tflops", "400"], ["--elsewhere"]):
        assert refused("run", *options, str(STUDY)) == said
    monkeypatch.setenv("HF_TOKEN", team.token)
    assert "all is well" in did("check", str(STUDY))
    write_study()
    assert commit in did("pin", str(STUDY))


@pytest.mark.parametrize("ending", ["models.two", "texts.words"])
def test_a_hub_that_ends_in_between(
    ending: str, team: HubStandIn, refused: Said, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is not asked again, hides no earlier problem, and what was pinned by then is pinned."""

    def ask(where: str, entry: Hub) -> str:
        if where == ending:
            use_endpoint(monkeypatch, "http://127.0.0.1:9")
        return newest_commit(where, entry)

    monkeypatch.setattr("freelunch.cli.pin.newest_commit", ask)
    team.add("team/two", CONFIG, gated=True)
    said = refused("pin", str(STUDY))
    assert (
        f"{ending}.repository: team/" in said and "cannot be read from http://127.0.0.1:9" in said
    )
    assert (
        ("texts.words" in said)
        == ("2 sources could not be pinned" in said)
        == (ending == "texts.words")
    )
    assert set(pins()) == {"models"} and set(pins()["models"]) == {"team/one"}


def test_a_hub_that_cannot_be_reached_changes_nothing(
    team: HubStandIn, did: Said, refused: Said, monkeypatch: pytest.MonkeyPatch
) -> None:
    did("pin", str(STUDY))
    written = PINS.read_bytes()
    use_endpoint(monkeypatch, "http://127.0.0.1:9")
    for command in ("pin", "check"):
        said = refused(command, str(STUDY))
        assert said.startswith("error: models.one.repository: team/one cannot be read from http:")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert "OfflineModeIsEnabled" in refused("pin", str(STUDY))
    assert PINS.read_bytes() == written


@pytest.mark.parametrize(
    ("content", "named"),
    [
        ("", "(top)"),
        ("[]", "(top)"),
        ("modles: {}", "modles"),
        (
            "models: {team/one: {main: {commit: main, resolved: 2026-01-31}}}",
            "models.team/one.main.commit",
        ),
        ("models: {team/one: {main: {}}}", "models.team/one.main"),
        ("models: {a: 1, a: 2}", "line 1"),
        ("models: [", ""),
    ],
)
def test_a_damaged_file_of_pins_is_named(
    content: str, named: str, team: HubStandIn, refused: Said
) -> None:
    PINS.write_text(content)
    for command in ("pin", "check"):
        said = refused(command, str(STUDY))
        assert said.startswith(f"error: {PINS}") and named in said
    assert PINS.read_text() == content


# --- What a check asks the hub, and what is read without it


def test_a_check_asks_for_what_is_not_here_yet(
    team: HubStandIn, did: Said, refused: Said, monkeypatch: pytest.MonkeyPatch
) -> None:
    did("pin", str(STUDY))
    team.requests.clear()
    did("check", str(STUDY))
    assert len(team.requests) == 5, "one request for each, and for each model its files"
    team.requests.clear()
    did("check", "--elsewhere", str(STUDY))
    study = open_study(STUDY)
    fetched = study.paths.model("one")
    settings = study.model("one").deciding()
    # Another commit was fetched, perhaps for another study.
    write_facts(fetched, settings={**settings, "revision": 40 * "0"})
    did("check", str(STUDY))
    assert len(team.requests) == 5
    team.requests.clear()
    write_facts(fetched, settings=settings)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    did("check", str(STUDY))
    assert not team.requests
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    did("check", str(STUDY))
    assert len(team.requests) == 3
    use_endpoint(monkeypatch, "http://127.0.0.1:9")
    assert "team/two cannot be read from http://127.0.0.1:9" in refused("check", str(STUDY))


def test_a_study_of_the_repository_names_no_commit_that_nobody_made() -> None:
    """Such as forty zeros: what is not known yet is a branch, for `make pin`."""
    for path in (ROOT / "config" / "registry.yaml", *(ROOT / "studies").glob("*.yaml")):
        assert "0" * 40 not in path.read_text(), path
    assert not (ROOT / "studies" / "large.yaml.pins").exists()
    study = Study.load(Path("studies/large.yaml"), ROOT)
    assert study.model("qwen2.5-72b").fetched()["revision"] == "main"
