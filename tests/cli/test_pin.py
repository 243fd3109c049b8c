"""`freelunch pin`: what it writes beside a study, and what a run refuses without it."""

import json
import re
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import yaml
from huggingface_hub import constants

from artifacts import write_facts
from configs import ARCHITECTURE, ROOT
from freelunch.cli.main import main
from freelunch.core.errors import STUDY_VARIABLE, UserError
from freelunch.study.choice import chosen_study, open_study
from freelunch.study.config import Part
from freelunch.study.study import Study
from hub_standin import HubStandIn, hub_here, use_endpoint
from own_models import machine

STUDY, PINS = Path("studies/mine.yaml"), Path("studies/mine.yaml.pins")
COMMAND = "make pin STUDY=studies/mine.yaml"
CONFIG = {"config.json": b"{}", "model.safetensors": b"weights"}
Captured = pytest.CaptureFixture[str]
Said = Callable[..., str]


@pytest.fixture(autouse=True)
def _in_a_folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv(STUDY_VARIABLE, "config.yaml")
    monkeypatch.setattr("freelunch.cli.main.this_machine", lambda size: machine())


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[HubStandIn]:
    """A hub with two models and a dataset."""
    with hub_here(monkeypatch, tmp_path) as standin:
        for name in ("team/one", "team/two"):
            standin.add(name, {**CONFIG, "name": name.encode()})
        standin.add("team/words", {"a.txt": b"words"}, kind="datasets")
        write()
        yield standin


@pytest.fixture
def did(monkeypatch: pytest.MonkeyPatch, capsys: Captured) -> Said:
    """Run a command that has to succeed; return what it printed."""

    def run(*arguments: str) -> str:
        monkeypatch.setattr("sys.argv", ["freelunch", *arguments])
        status, printed = main(), capsys.readouterr()
        assert status == 0, printed.err
        return printed.out

    return run


@pytest.fixture
def refused(monkeypatch: pytest.MonkeyPatch, capsys: Captured) -> Said:
    """Run a command that has to fail; return its one error."""

    def run(*arguments: str) -> str:
        monkeypatch.setattr("sys.argv", ["freelunch", *arguments])
        assert main() == 1
        said = capsys.readouterr().err
        assert said.startswith("error: ") and said.count("error: ") == 1
        return said

    return run


def write(changes: Mapping[str, Mapping[str, Any]] | None = None) -> None:
    """Write a study of two models and a text on the hub, with changes to its entries."""
    source = {"source": "hub", "revision": "main"}
    model = {**source, "architecture": ARCHITECTURE}
    text = {**source, "repository": "team/words", "member": "a.txt", "format": "plain"}
    entries = {
        "models.one": {**model, "repository": "team/one"},
        "models.two": {**model, "repository": "team/two"},
        "models.unused": {**model, "repository": "team/nowhere"},
        "texts.words": text,
        "texts.unused": {**text, "repository": "team/nowhere"},
    }
    config: dict[str, Any] = {
        "models": {},
        "texts": {},
        "criteria": {"wanda": {"score": "wanda"}},
        "adaptations": {},
        "study": {
            "name": "mine",
            "calibration": {"text": "words", "samples": 2, "length": 8},
            "evaluation": {"perplexity": {"text": "words", "length": 8}},
            "grids": [
                {
                    "models": ["one", "two"],
                    "criteria": ["wanda"],
                    "patterns": ["u50"],
                    "adaptations": ["none"],
                }
            ],
        },
    }
    for place, entry in entries.items():
        registry, _, name = place.partition(".")
        config[registry][name] = {**entry, **(changes or {}).get(place, {})}
    STUDY.parent.mkdir(exist_ok=True)
    STUDY.write_text(yaml.safe_dump(config))


def pins() -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load(PINS.read_text())
    return found


# --- What it writes


def test_it_writes_the_commits_beside_the_study(hub: HubStandIn, did: Said) -> None:
    commits = {name: hub.commit(name) for name in ("team/one", "team/two")}
    words = hub.commit("team/words", kind="datasets")
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


def test_a_part_is_pinned_alone(hub: HubStandIn, did: Said, refused: Said) -> None:
    """A model that nobody may download here keeps no other model from being pinned."""
    one, files = hub.commit("team/one"), {**CONFIG, "name": b"team/two"}
    two = hub.add("team/two", files, gated=True)
    assert "models.one: " in did("pin", "--models", "one", str(STUDY))
    assert set(pins()["models"]) == {"team/one"} and set(pins()["datasets"]) == {"team/words"}
    part = Part(models=["one"])
    assert open_study(STUDY, part).model("one").fetched()["revision"] == one
    assert "still to be pinned" not in did("check", "--elsewhere", "--models", "one", str(STUDY))
    assert f"run `{COMMAND} MODELS=two`" in refused("check", "--models", "two", str(STUDY))
    hub.add("team/two", files)
    # The pins of the other part stay.
    did("pin", "--models", "two", str(STUDY))
    assert open_study(STUDY).model("one").fetched()["revision"] == one
    assert open_study(STUDY).model("two").fetched()["revision"] == two


def test_everything_that_depends_on_a_revision_depends_on_the_commit(
    hub: HubStandIn, did: Said
) -> None:
    did("pin", str(STUDY))
    study, commit = open_study(STUDY), hub.commit("team/one")
    assert study.model("one").fetched()["revision"] == commit
    for cell in study.cells:
        spec = json.dumps(study.spec(cell))
        assert hub.commit(f"team/{cell.model}") in spec and '"main"' not in spec
    written = study.as_json()
    assert written["models"]["one"]["revision"] == commit
    assert written["texts"]["words"]["revision"] == hub.commit("team/words", kind="datasets")


def test_a_pin_stays_when_the_branch_moves(hub: HubStandIn, did: Said) -> None:
    did("pin", str(STUDY))
    before, old = open_study(STUDY), hub.commit("team/one")
    new = hub.add("team/one", {**CONFIG, "new": b""})
    said = did("pin", str(STUDY))
    assert (
        f"is {old}, pinned on {datetime.now(UTC).date()} in {PINS}; the hub has {new} now\n" in said
    )
    assert open_study(STUDY) == before
    # Without its entry, it moves, and so does what depends on it: nothing else.
    kept = pins()
    del kept["models"]["team/one"]
    PINS.write_text(yaml.safe_dump(kept))
    did("pin", str(STUDY))
    after = open_study(STUDY)
    changed = {str(cell) for cell in after.cells if before.spec(cell) != after.spec(cell)}
    assert changed == {"one/dense/none/seed0", "one/wanda-u50/none/seed0"}
    assert after.model("one").fetched()["revision"] == new
    assert after.model("two") == before.model("two") and after.config.texts == before.config.texts


def test_studies_share_pins_since_they_share_what_is_fetched(hub: HubStandIn, did: Said) -> None:
    did("pin", str(STUDY))
    old = hub.commit("team/one")
    new = hub.add("team/one", {**CONFIG, "new": b""})
    other = Path("config.yaml")
    other.write_text(STUDY.read_text().replace("name: mine", "name: other"))
    said = did("pin", str(other))
    today = datetime.now(UTC).date()
    assert f"at main is {old}, pinned on {today} in {PINS}; the hub has {new} now\n" in said
    assert open_study(other).config.models == open_study(STUDY).config.models


def test_tags_and_odd_names_are_revisions(hub: HubStandIn, did: Said) -> None:
    for revision in ("v1.0", "1.0", "refs/pr/3", "0123", "1e3"):
        commit = hub.add("team/one", {**CONFIG, "of": revision.encode()}, branch=revision)
        write({"models.one": {"revision": revision}})
        did("pin", str(STUDY))
        assert open_study(STUDY).model("one").fetched()["revision"] == commit
        assert list(pins()["models"]["team/one"]) == [revision]


def test_a_model_and_a_dataset_of_one_name_are_two(hub: HubStandIn, did: Said) -> None:
    dataset = hub.add("team/one", {"a.txt": b"others"}, kind="datasets")
    write({"texts.words": {"repository": "team/one"}})
    did("pin", str(STUDY))
    study = open_study(STUDY)
    assert study.text("words").fetched()["revision"] == dataset
    assert study.model("one").fetched()["revision"] == hub.commit("team/one") != dataset


def test_a_pin_that_the_study_no_longer_names_is_removed(hub: HubStandIn, did: Said) -> None:
    did("pin", str(STUDY))
    write({"models.two": {"revision": hub.commit("team/two")}})
    said = did("pin", str(STUDY))
    assert "removed from models: team/two at main, which the study does not name\n" in said
    assert list(pins()["models"]) == ["team/one"]


def test_a_full_commit_needs_no_pin(hub: HubStandIn, did: Said) -> None:
    did("pin", str(STUDY))
    words = hub.commit("team/words", kind="datasets")
    write(
        {
            "models.one": {"revision": hub.commit("team/one")},
            "models.two": {"revision": hub.commit("team/two")},
            "texts.words": {"revision": words},
        }
    )
    assert open_study(STUDY).text("words").fetched()["revision"] == words
    hub.requests.clear()
    said = did("pin", str(STUDY))
    assert said.count("removed from ") == 3 and said.endswith("so there is nothing to pin.\n")
    assert not PINS.exists() and not hub.requests


# --- What is refused


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
    assert not hub.requests, "a plan needs no hub"


def test_a_pin_of_another_revision_does_not_apply(
    hub: HubStandIn, did: Said, refused: Said
) -> None:
    did("pin", str(STUDY))
    tagged = hub.add("team/one", {**CONFIG, "tagged": b""}, branch="v2")
    write({"models.one": {"revision": "v2"}})
    said = refused("check", str(STUDY))
    assert "found:    models.one.revision: v2 (the pin is of main)\n" in said and COMMAND in said
    assert "removed from models: team/one at main" in did("pin", str(STUDY))
    assert open_study(STUDY).model("one").fetched()["revision"] == tagged


def test_many_revisions_without_pins_are_counted(hub: HubStandIn, refused: Said) -> None:
    models = {f"m{number}": json.loads(json.dumps(entry_of("one"))) for number in range(9)}
    config = yaml.safe_load(STUDY.read_text())
    config["models"] = models
    config["study"]["grids"][0]["models"] = list(models)
    STUDY.write_text(yaml.safe_dump(config))
    assert "models.m4.revision: main, and 5 more\n" in refused("check", str(STUDY))


def entry_of(model: str) -> Any:
    return yaml.safe_load(STUDY.read_text())["models"][model]


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
    write(changes)
    assert f"error: {said.format(hub=hub.endpoint)}" in refused("pin", str(STUDY))
    assert not PINS.exists()


def test_a_repository_without_a_config_is_no_model(hub: HubStandIn, refused: Said) -> None:
    hub.add("team/empty", {"README.md": b""})
    write({"models.one": {"repository": "team/empty"}})
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
        assert "has this commit, remove its entry there and run `make pin` again" in said
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
    write(
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
    write()
    assert commit in did("pin", str(STUDY))


def test_a_renamed_repository_is_followed_and_named(hub: HubStandIn, did: Said) -> None:
    commit = hub.commit("team/one")
    hub.rename("team/one", "company/uno")
    said = did("pin", str(STUDY))
    assert (
        "models.one: team/one was renamed on the hub; write the new name, `repository: co" in said
    )
    assert open_study(STUDY).model("one").fetched()["revision"] == commit


def test_a_hub_that_cannot_be_reached_changes_nothing(
    hub: HubStandIn, did: Said, refused: Said, monkeypatch: pytest.MonkeyPatch
) -> None:
    did("pin", str(STUDY))
    written = PINS.read_bytes()
    use_endpoint(monkeypatch, "http://127.0.0.1:9")
    said = refused("pin", str(STUDY))
    assert "team/one cannot be read from http://127.0.0.1:9" in said and "ConnectError" in said
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert "OfflineModeIsEnabled" in refused("pin", str(STUDY))
    assert PINS.read_bytes() == written


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("", ": this is not a valid file of pins\n"),
        ("[]", ": this is not a valid file of pins\n"),
        ("modles: {}", ": modles: this is not a valid file of pins\n"),
        (
            "models: {team/one: {main: {commit: main, resolved: 2026-01-31}}}",
            ": models.team/one.main.commit: this is not a valid file of pins\n  found:    main\n",
        ),
        ("models: {team/one: {main: {}}}", ": models.team/one.main.commit: this is not a valid "),
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


# --- What a check asks the hub


def test_a_check_asks_for_what_is_not_here_yet(
    hub: HubStandIn, did: Said, refused: Said, monkeypatch: pytest.MonkeyPatch
) -> None:
    did("pin", str(STUDY))
    hub.requests.clear()
    did("check", str(STUDY))
    assert len(hub.requests) == 5, "one request for each, and for each model its files"
    hub.requests.clear()
    did("check", "--elsewhere", str(STUDY))
    study = open_study(STUDY)
    fetched = study.paths.model("one")
    settings = study.model("one").deciding()
    # Another commit was fetched, perhaps for another study.
    write_facts(fetched, settings={**settings, "revision": 40 * "0"})
    did("check", str(STUDY))
    assert len(hub.requests) == 5
    hub.requests.clear()
    write_facts(fetched, settings=settings)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    did("check", str(STUDY))
    assert not hub.requests
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    did("check", str(STUDY))
    assert len(hub.requests) == 3
    use_endpoint(monkeypatch, "http://127.0.0.1:9")
    assert "team/two cannot be read from http://127.0.0.1:9" in refused("check", str(STUDY))


def test_pins_are_read_without_the_library_of_the_hub(hub: HubStandIn, did: Said) -> None:
    did("pin", str(STUDY))
    program = (
        "import sys\nfrom pathlib import Path\nfrom freelunch.study.choice import open_study\n"
        f"open_study(Path('{STUDY}'))\nassert 'huggingface_hub' not in sys.modules"
    )
    environment = {"PYTHONPATH": str(ROOT / "workflow" / "scripts")}
    subprocess.run([sys.executable, "-c", program], env=environment, check=True)


def test_a_study_of_the_repository_names_no_commit_that_nobody_made() -> None:
    """Such as forty zeros: what is not known yet is a branch, for `make pin`."""
    for path in (ROOT / "config" / "registry.yaml", *(ROOT / "studies").glob("*.yaml")):
        assert "0" * 40 not in path.read_text(), path


def test_a_study_on_the_hub_is_planned_as_it_is() -> None:
    assert not (ROOT / "studies" / "large.yaml.pins").exists()
    study = Study.load(Path("studies/large.yaml"), ROOT)
    assert study.model("qwen2.5-72b").fetched()["revision"] == "main"


def test_a_model_of_pickles_is_not_pinned(hub: HubStandIn, refused: Said) -> None:
    """Nothing of it could be fetched; a pull request may have converted it."""
    hub.add("team/two", {"config.json": b"{}", "pytorch_model.bin": b"pickle"})
    message = refused("pin", str(STUDY))
    assert "safetensors only, never pickle" in message and "models.two" in message
    assert "`revision: refs/pr/NUMBER`" in message
    assert not PINS.exists()


PICKLES = {"config.json": b"{}", "pytorch_model.bin": b"pickle"}
CONVERTED = {**PICKLES, "model.safetensors": b"weights"}


def test_the_refusal_of_pickles_names_pull_requests_that_convert_them(
    hub: HubStandIn, refused: Said, did: Said
) -> None:
    """Those that only say so are none; the hub's own bot comes first."""
    hub.add("team/two", PICKLES)
    hub.offer("team/two", CONVERTED, "Another bot's safetensors", "somebody-late")
    gone = hub.offer("team/two", CONVERTED, "safetensors", "who-thought-better")
    hub.offer("team/two", {**PICKLES, "onnx/a.safetensors": b""}, "onnx safetensors", "onnx")
    hub.offer("team/two", CONVERTED, "Add safetensors", "somebody")
    bots = hub.offer("team/two", CONVERTED, "Adding `safetensors` variant", "SFconvertbot")
    hub.offer("team/two", PICKLES, "Say that safetensors are coming", "somebody-else")
    hub.offer("team/two", CONVERTED, "Fix a word", "a-reader")
    hub.close(gone, "team/two")
    message = refused("pin", str(STUDY))
    assert "safetensors only, never pickle" in message and "pytorch_model.bin" in message
    first = message.index(f"`revision: {bots}` (by SFconvertbot, {hub.endpoint}/team/two/")
    assert first < message.index(" or `revision: refs/pr/4` (by somebody,")
    assert message.count("refs/pr/") == 2, "at most two"
    assert not PINS.exists()
    write({"models.two": {"revision": bots}})
    did("pin", str(STUDY))
    pinned = yaml.safe_load(PINS.read_text())
    assert any(bots in str(entry) for entry in pinned.values())


def test_a_hub_that_shows_no_pull_requests_hides_no_refusal(hub: HubStandIn, refused: Said) -> None:
    """Owners may switch them off, and mirrors may answer anything."""
    hub.add("team/two", PICKLES)
    for answer in (None, {"error": "none of these"}):
        hub.answer_discussions("team/two", answer)
        message = refused("pin", str(STUDY))
        assert "safetensors only, never pickle" in message
        assert "`revision: refs/pr/NUMBER`" in message


def test_a_model_without_any_weights_is_not_said_to_have_pickles(
    hub: HubStandIn, refused: Said
) -> None:
    hub.add("team/two", {"config.json": b"{}"})
    hub.offer("team/two", CONVERTED, "Add safetensors", "somebody")
    assert "there are no weights" in refused("pin", str(STUDY))
