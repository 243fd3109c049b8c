"""What is refused without pins, and what cannot be pinned."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from huggingface_hub import constants

from freelunch.core.errors import UserError
from freelunch.data.hub_revisions import OnHub, look_up
from freelunch.study.open_study import chosen_study, open_study
from freelunch.study.sources import Hub
from hub_standin import HubStandIn, use_endpoint
from pinned_studies import COMMAND, CONFIG, PINS, STUDY, Said, entry_of, pins, write_study


def test_a_study_without_pins_is_only_planned(
    hub: HubStandIn, did: Said, refused: Said, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("freelunch.cli.main.run_snakemake", lambda *given, **options: 1 / 0)
    message = (
        "studies/mine.yaml: the study names branches or tags, which move, and their commits are "
        "not pinned\n"
        "  found:    models.one.revision: main, models.two.revision: main, "
        "texts.words.revision: main\n"
        "  expected: full commits, or pins in studies/mine.yaml.pins\n"
        f"  to do:    run `{COMMAND}`, which asks the hub for the commits"
    )
    for command in (["check"], ["run"], ["run", "--elsewhere"], ["summary"], ["verify"]):
        assert refused(*command, str(STUDY)) == f"error: {message}\n"
    # As Snakemake itself, without a check before it.
    with pytest.raises(UserError, match=re.escape(message)):
        chosen_study({"study": str(STUDY)})
    rates = ("--tflops", "1", "--disk", "1GB/s")
    did("plan", *rates, str(STUDY))
    assert did("name", str(STUDY)) == "mine\n"
    assert f"; still to be pinned: `{COMMAND}`)." in did("check", "--elsewhere", str(STUDY))
    # It asks for no pins.
    (Path("results") / "mine" / "records").mkdir(parents=True)
    assert "Nothing to remove" in did("tidy", str(STUDY))
    assert not hub.requests, "a plan needs no hub"


def test_a_pin_of_another_revision_does_not_apply(
    hub: HubStandIn, did: Said, refused: Said
) -> None:
    did("pin", str(STUDY))
    tagged = hub.add("team/one", {**CONFIG, "tagged": b""}, branch="v2")
    write_study({"models.one": {"revision": "v2"}})
    said = refused("check", str(STUDY))
    assert "found:    models.one.revision: v2\n" in said and COMMAND in said
    assert "removed from models: team/one at main" in did("pin", str(STUDY))
    assert open_study(STUDY).model("one").fetched()["revision"] == tagged


def test_many_revisions_without_pins_are_counted(hub: HubStandIn, refused: Said) -> None:
    models = {f"m{number}": json.loads(json.dumps(entry_of("one"))) for number in range(9)}
    config = yaml.safe_load(STUDY.read_text())
    config["models"] = models
    config["study"]["grids"][0]["models"] = list(models)
    STUDY.write_text(yaml.safe_dump(config))
    assert "models.m4.revision: main, and 5 more\n" in refused("check", str(STUDY))


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (
            {"models.one": {"revision": "dev"}},
            "models.one.revision: the revision is not there\n  found:    dev, in {hub}/team/one\n",
        ),
        (
            {"texts.words": {"revision": "dev"}},
            "texts.words.revision: the revision is not there\n"
            "  found:    dev, in {hub}/datasets/team/words\n",
        ),
        (
            {"models.one": {"repository": "team/eno"}},
            "models.one.repository: the repository is not there\n  found:    {hub}/team/eno\n",
        ),
        (
            {"texts.words": {"member": "b.txt"}},
            "texts.words.member: the file is not there\n"
            "  found:    b.txt, in {hub}/datasets/team/words at ",
        ),
    ],
)
def test_what_is_not_on_the_hub_is_not_pinned(
    changes: dict[str, dict[str, Any]], said: str, hub: HubStandIn, refused: Said
) -> None:
    write_study(changes)
    assert f"error: {said.format(hub=hub.endpoint)}" in refused("pin", str(STUDY))
    of_model = "models.one" in changes
    assert set(pins()["models"]) == ({"team/two"} if of_model else {"team/one", "team/two"})
    assert ("datasets" in pins()) == of_model


def test_all_that_cannot_be_pinned_is_told_and_the_rest_is_pinned(
    hub: HubStandIn, did: Said, refused: Said, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Or else, each licence to accept would need a run of its own."""
    did("pin", str(STUDY))
    before = pins()
    hub.add("team/gated", CONFIG, gated=True)
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
    hub.add("team/one", CONFIG, gated=True)
    refused("pin", str(STUDY))
    assert pins()["models"] == {"team/one": before["models"]["team/one"]}
    # A check tells all, too.
    hub.add("team/words", {"a.txt": b"words"}, kind="datasets", gated=True)
    said = refused("check", "--models", "one", str(STUDY))
    assert f"{STUDY}: 2 sources cannot be downloaded\n" in said
    assert all(f"\n  {it}.repository: the rep" in said for it in ("models.one", "texts.words"))


def test_a_repository_without_a_config_is_no_model(hub: HubStandIn, refused: Said) -> None:
    hub.add("team/empty", {"README.md": b""})
    write_study({"models.one": {"repository": "team/empty"}})
    said = refused("pin", str(STUDY))
    assert "models.one.repository: config.json is not there\n  found:    team/empty, in " in said


def test_a_pinned_commit_that_vanished_is_named(hub: HubStandIn, did: Said, refused: Said) -> None:
    did("pin", str(STUDY))
    old = hub.commit("team/one")
    new = hub.add("team/one", {**CONFIG, "rewritten": b""})
    hub.forget("team/one", old)
    for command in ("pin", "check"):
        said = refused(command, str(STUDY))
        assert "models.one.revision: the revision is not there" in said and old in said
        assert f"remove its entry from {PINS}, and run `make pin STUDY={STUDY}`" in said
    # As it says.
    kept = pins()
    del kept["models"]["team/one"]
    PINS.write_text(yaml.safe_dump(kept))
    did("pin", str(STUDY))
    assert open_study(STUDY).model("one").fetched()["revision"] == new


@pytest.mark.parametrize("token", [None, "hf_another"])
def test_a_gated_model_says_what_to_accept_and_where_the_token_goes(
    token: str | None,
    hub: HubStandIn,
    did: Said,
    refused: Said,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    commit = hub.add("team/one", CONFIG, gated=True)
    if token:
        monkeypatch.setenv("HF_TOKEN", token)
    expected = (
        "error: models.one.repository: the repository is gated: the hub gives it only to accounts "
        "that have accepted its terms\n"
        "  found:    Access to team/one is restricted and you are not in the authorized list.\n"
        f"  to do:    accept the terms at {hub.endpoint}/team/one, and set the environment "
        "variable HF_TOKEN to a token of the same account that may read gated repositories "
        f"({hub.endpoint}/settings/tokens)\n"
    )
    assert refused("pin", str(STUDY)) == expected
    # The same without pins, before a run.
    words, two = hub.commit("team/words", kind="datasets"), hub.commit("team/two")
    write_study(
        {
            "models.one": {"revision": commit},
            "models.two": {"revision": two},
            "texts.words": {"revision": words},
        }
    )
    assert refused("check", str(STUDY)) == expected
    # Downloads run here, wherever jobs run.
    for options in (["--profile", "slurm"], ["--tflops", "400"], ["--elsewhere"]):
        assert refused("run", *options, str(STUDY)) == expected
    monkeypatch.setenv("HF_TOKEN", hub.token)
    assert "all is well" in did("check", str(STUDY))
    write_study()
    assert commit in did("pin", str(STUDY))


def test_a_renamed_repository_is_followed_and_named(hub: HubStandIn, did: Said) -> None:
    commit = hub.commit("team/one")
    hub.rename("team/one", "company/uno")
    said = did("pin", str(STUDY))
    assert (
        "models.one: team/one was renamed on the hub; write the new name, `repository: co" in said
    )
    assert open_study(STUDY).model("one").fetched()["revision"] == commit


def end_at(source: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the hub end when it is asked for a source."""

    def ask(where: str, entry: Hub) -> OnHub:
        if where == source:
            use_endpoint(monkeypatch, "http://127.0.0.1:9")
        return look_up(where, entry)

    monkeypatch.setattr("freelunch.cli.pin.look_up", ask)


def test_a_hub_that_ends_is_not_asked_again(
    hub: HubStandIn, refused: Said, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was pinned by then is pinned."""
    end_at("models.two", monkeypatch)
    said = refused("pin", str(STUDY))
    assert "error: models.two.repository: team/two cannot be read from" in said
    assert "texts.words" not in said and set(pins()["models"]) == {"team/one"}


def test_a_hub_that_ends_in_between_hides_no_problem(
    hub: HubStandIn, refused: Said, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.add("team/two", CONFIG, gated=True)
    end_at("texts.words", monkeypatch)
    said = refused("pin", str(STUDY))
    assert "2 sources could not be pinned\n  models.two.repository: the repository is gated" in said
    assert "\n  texts.words.repository: team/words cannot be read from http://127.0.0.1:9" in said
    assert set(pins()) == {"models"} and set(pins()["models"]) == {"team/one"}


def test_a_study_of_which_nothing_can_be_pinned_has_no_file_of_pins(
    hub: HubStandIn, refused: Said
) -> None:
    hub.add("team/one", CONFIG, gated=True)
    hub.add("team/words", {"a.txt": b"words"}, kind="datasets", gated=True)
    assert "2 sources could not be pinned" in refused("pin", "--models", "one", str(STUDY))
    assert not PINS.exists()


def test_a_vanished_commit_is_looked_for_in_all_pins(
    hub: HubStandIn, did: Said, refused: Said
) -> None:
    """Though there is a damaged file of another study beside them, and a folder."""
    did("pin", str(STUDY))
    Path("studies/other.yaml.pins").write_bytes(PINS.read_bytes())
    old = hub.commit("team/one")
    hub.add("team/one", {**CONFIG, "rewritten": b""})
    hub.forget("team/one", old)
    both = (
        f"remove its entry from {PINS} and studies/other.yaml.pins, and run `{COMMAND}`, which "
        "pins the newest commit; if the study or its base names the commit itself, name another "
        "there"
    )
    assert both in refused("check", str(STUDY))
    Path("studies/third.yaml.pins").write_text("<<<<<<<")
    Path("studies/folder.pins").mkdir()
    said = refused("check", str(STUDY))
    assert "models.one.revision: the revision is not there" in said and both in said
    assert "third" not in said


def test_a_vanished_commit_that_nobody_pinned(hub: HubStandIn, refused: Said) -> None:
    commits = {place: hub.commit(f"team/{place[-3:]}") for place in ("models.one", "models.two")}
    words = hub.commit("team/words", kind="datasets")
    hub.add("team/one", {**CONFIG, "rewritten": b""})
    hub.forget("team/one", commits["models.one"])
    changes = {place: {"revision": commit} for place, commit in commits.items()}
    write_study({**changes, "texts.words": {"revision": words}})
    said = refused("check", str(STUDY))
    assert "models.one.revision: the revision is not there" in said
    assert "to do:    name a branch, a tag or a full commit of the repository" in said


def test_a_hub_that_cannot_be_reached_changes_nothing(
    hub: HubStandIn, did: Said, refused: Said, monkeypatch: pytest.MonkeyPatch
) -> None:
    did("pin", str(STUDY))
    written = PINS.read_bytes()
    use_endpoint(monkeypatch, "http://127.0.0.1:9")
    said = refused("pin", str(STUDY))
    assert said.startswith("error: models.one.repository: team/one cannot be read from http://127")
    assert "ConnectError" in said
    assert refused("check", str(STUDY)).startswith("error: models.one.repository: team/one cannot")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert "OfflineModeIsEnabled" in refused("pin", str(STUDY))
    assert PINS.read_bytes() == written


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("", ": 1 problem in the config\n  (top): found null; expected a mapping"),
        ("[]", ": 1 problem in the config\n  (top): found []; expected a mapping"),
        ("modles: {}", ": 1 problem in the config\n  modles: unknown key; expected models"),
        (
            "models: {team/one: {main: {commit: main, resolved: 2026-01-31}}}",
            ': 1 problem in the config\n  models.team/one.main.commit: found "main"; ',
        ),
        ("models: {team/one: {main: {}}}", ": 2 problems in the config\n  models.team/one.main: "),
        ("models: {a: 1, a: 2}", ", line 1: the key `a` is given twice"),
        ("models: [", ": not a valid YAML file\n"),
    ],
)
def test_a_damaged_file_of_pins_is_named(
    content: str, said: str, hub: HubStandIn, refused: Said
) -> None:
    PINS.write_text(content)
    for command in ("pin", "check"):
        assert refused(command, str(STUDY)).startswith(f"error: {PINS}{said}")
    assert PINS.read_text() == content
