"""`freelunch pin`: what it writes, what its pins change, and what is refused."""

from typing import Any

import pytest
import yaml
from huggingface_hub import constants

from artifacts import write_facts
from freelunch.study.open_study import chosen_study, open_study
from freelunch.study.pins import PINS
from hub_standin import HubStandIn, use_endpoint
from pinned_studies import COMMAND, CONFIG, STUDY, Said, write_study
from refusals import refused as refused_call
from repository import ROOT

MODEL = "models/team/one@main"


def commits() -> dict[str, str]:
    found: dict[str, str] = yaml.safe_load(PINS.read_text())["commits"]
    return found


def test_it_writes_the_commits_of_branches_and_tags_once(team: HubStandIn, did: Said) -> None:
    """Those of a model and a dataset of one name, of a renamed repository, and of a task, too."""
    config = yaml.safe_load(STUDY.read_text())
    entry = {"source": "hub", "repository": "team/one", "revision": "1.0", "member": "a.txt"}
    config["tasks"] = {"rte": {**entry, "format": "jsonl", "documents": 1}}
    config["study"]["evaluation"]["tasks"] = {"names": ["rte"]}
    config["study"]["grids"][0]["tasks"] = True
    STUDY.write_text(yaml.safe_dump(config))
    found = {
        "datasets/team/one@1.0": team.add("team/one", {}, kind="datasets", branch="1.0"),
        "datasets/team/words@main": team.commit("team/words", kind="datasets"),
        "models/team/one@main": team.commit("team/one"),
        "models/team/two@main": team.commit("team/two"),
    }
    team.rename("team/two", "company/due")
    # What the study asks for now is added by part, and what is there stays.
    assert "models.two" not in did("pin", "--models", "one", str(STUDY))
    did("pin", str(STUDY))
    assert commits() == found
    study = open_study(STUDY)
    assert study.model("two").fetched()["revision"] == found["models/team/two@main"]
    assert study.config.tasks["rte"].revision == found["datasets/team/one@1.0"]
    # The branch moves, and nothing changes.
    new = team.add("team/one", {**CONFIG, "new": b""})
    did("pin", str(STUDY))
    assert commits() == found and open_study(STUDY) == study
    # Without its line, the pin moves, and so does what depends on it: nothing else.
    PINS.write_text(PINS.read_text().replace(f"  {MODEL}: {found[MODEL]}\n", ""))
    did("pin", str(STUDY))
    assert commits() == {**found, MODEL: new}
    after = open_study(STUDY)
    changed = {str(cell) for cell in after.cells if study.spec(cell) != after.spec(cell)}
    assert changed == {"one/dense/none/seed0", "one/wanda-u50/none/seed0"}


def test_a_study_without_pins_is_only_planned(
    team: HubStandIn, did: Said, refused: Said, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("freelunch.cli.main.run_snakemake", lambda *given, **options: 1 / 0)
    found = "models.one.revision: main, models.two.revision: main, texts.words.revision: main\n"
    for command in (["check"], ["run"], ["run", "--elsewhere"], ["summary"], ["verify"]):
        said = refused(*command, str(STUDY))
        assert said.startswith(f"error: {STUDY}: ") and found in said and f"`{COMMAND}`" in said
    # As Snakemake itself, without a check before it.
    with refused_call(where=STUDY, todo=COMMAND):
        chosen_study({"study": str(STUDY)})
    did("plan", "--tflops", "1", "--disk", "1GB/s", str(STUDY))
    assert did("name", str(STUDY)) == "mine\n"
    assert f"; still to be pinned: `{COMMAND}`)." in did("check", "--elsewhere", str(STUDY))
    assert not team.requests, "a plan needs no hub"
    # A pin of another revision does not apply, and a full commit needs none.
    did("pin", str(STUDY))
    write_study({"models.one": {"revision": "v2"}, "models.two": {"revision": 40 * "a"}})
    assert "found:    models.one.revision: v2\n" in refused("check", str(STUDY))
    # That of the other part is not asked for.
    assert f"run `{COMMAND} MODELS=one`" in refused("check", "--models", "one", str(STUDY))
    assert "all is well" in did("check", "--elsewhere", "--models", "two", str(STUDY))


@pytest.mark.parametrize(
    ("place", "change", "where", "found"),
    [
        ("models.two", {"revision": "dev"}, "revision", "dev, in {hub}/team/two\n"),
        ("texts.words", {"revision": "dev"}, "revision", "dev, in {hub}/datasets/team/words\n"),
        ("models.two", {"repository": "team/eno"}, "repository", "{hub}/team/eno\n"),
    ],
)
def test_what_is_not_there_is_not_pinned_and_what_came_before_is(
    place: str, change: dict[str, Any], where: str, found: str, team: HubStandIn, refused: Said
) -> None:
    write_study({place: change})
    said = refused("pin", str(STUDY))
    assert said.startswith(f"error: {place}.{where}: ")
    assert f"found:    {found.format(hub=team.endpoint)}" in said
    assert commits()[MODEL] == team.commit("team/one")


@pytest.mark.parametrize("token", [None, "hf_another"])
def test_a_check_tells_what_cannot_be_downloaded(
    token: str | None, team: HubStandIn, did: Said, refused: Said, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is gated, not there, only a pickle, or gone since it was pinned."""
    if token:
        monkeypatch.setenv("HF_TOKEN", token)
    did("pin", str(STUDY))
    old = team.commit("team/one")
    team.add("team/one", {**CONFIG, "rewritten": b""})
    team.forget("team/one", old)
    team.add("team/two", CONFIG, gated=True)
    said = refused("check", str(STUDY))
    assert "models.one.revision: the revision is not there\n" in said and old in said
    assert "pins.yaml" in said and f"run `{COMMAND}`" in said
    # Downloads run here, wherever jobs run.
    for options in (["--profile", "slurm"], ["--tflops", "400"], ["--elsewhere"]):
        assert refused("run", *options, str(STUDY)) == said
    PINS.unlink()
    did("pin", str(STUDY))
    said = refused("check", str(STUDY))
    assert "models.two.repository: the repository is gated" in said
    assert f"{team.endpoint}/team/two, and" in said and f"({team.endpoint}/settings/tokens)" in said
    assert "hf_another" not in said
    monkeypatch.setenv("HF_TOKEN", team.token)
    assert "all is well" in did("check", str(STUDY))
    others = {
        "models.one": ("team/empty", {"README.md": b""}, "config.json is not there"),
        "models.two": ("team/pickle", {"config.json": b"{}", "a.bin": b""}, "refs/pr/NUMBER"),
    }
    for place, (name, files, found) in others.items():
        team.add(name, files)
        write_study({place: {"repository": name}})
        did("pin", str(STUDY))
        assert found in refused("check", str(STUDY))
    write_study({"texts.words": {"member": "b.txt"}})
    said = refused("check", str(STUDY))
    assert f"found:    b.txt, in {team.endpoint}/datasets/team/words at " in said


def test_a_hub_that_cannot_be_reached_changes_nothing(
    team: HubStandIn, did: Said, refused: Said, monkeypatch: pytest.MonkeyPatch
) -> None:
    did("pin", "--models", "one", str(STUDY))
    written = PINS.read_bytes()
    use_endpoint(monkeypatch, "http://127.0.0.1:9")
    said = refused("pin", str(STUDY))
    assert said.startswith("error: models.two.repository: team/two cannot be read from http:")
    # The others are not asked for.
    said = refused("check", "--models", "one", str(STUDY))
    assert said.startswith("error: models.one.repository: team/one cannot be read from http:")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert "OfflineModeIsEnabled" in refused("pin", str(STUDY))
    assert PINS.read_bytes() == written


@pytest.mark.parametrize(
    ("content", "named"),
    [
        ("", "(top)"),
        ("[]", "(top)"),
        ("comits: {}", "comits"),
        ("commits: {models/team/one@main: main}", "commits.models/team/one@main"),
        ("commits: {a: 1, a: 2}", "line 1"),
        ("commits: [", ""),
    ],
)
@pytest.mark.usefixtures("team")
def test_a_damaged_file_of_pins_is_named(content: str, named: str, refused: Said) -> None:
    PINS.write_text(content)
    for command in ("pin", "check"):
        said = refused(command, str(STUDY))
        assert said.startswith(f"error: {PINS}") and named in said
    assert PINS.read_text() == content


def test_a_check_asks_for_what_is_not_here_yet(
    team: HubStandIn, did: Said, refused: Said, monkeypatch: pytest.MonkeyPatch
) -> None:
    did("pin", str(STUDY))

    def asked(*options: str) -> int:
        team.requests.clear()
        did("check", *options, str(STUDY))
        return len(team.requests)

    assert asked() == 5, "one request for each, and for each model its files"
    assert asked("--elsewhere") == 0
    study = open_study(STUDY)
    fetched, settings = study.paths.model("one"), study.model("one").deciding()
    # Another commit was fetched, perhaps for another study.
    write_facts(fetched, settings={**settings, "revision": 40 * "0"})
    assert asked() == 5
    write_facts(fetched, settings=settings)
    with monkeypatch.context() as patch:
        patch.setattr(constants, "HF_HUB_OFFLINE", True)
        assert asked() == 0
    assert asked() == 3
    use_endpoint(monkeypatch, "http://127.0.0.1:9")
    assert "team/two cannot be read from http://127.0.0.1:9" in refused("check", str(STUDY))


def test_a_study_of_the_repository_names_no_commit_that_nobody_made() -> None:
    """Such as forty zeros: what is not known yet is a branch, for `make pin`."""
    for path in (ROOT / "config" / "registry.yaml", *(ROOT / "studies").glob("*.yaml")):
        assert "0" * 40 not in path.read_text(), path
