"""The `hub` source: the real huggingface_hub against a hub on this machine."""

import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import constants, snapshot_download
from pydantic import ValidationError

from freelunch.core.errors import UserError
from freelunch.data.documents import read_documents
from freelunch.data.sources import fetching
from freelunch.data.texts import fetch_text
from freelunch.study.sources import read_text
from hub_standin import HubStandIn, hub_here, use_endpoint
from obtaining import obtain_model, obtain_text, refused
from repository import ROOT

USED = {
    "config.json": b'{"model_type": "llama"}',
    "generation_config.json": b"{}",
    "tokenizer.json": b'{"version": "1.0"}',
    "tokenizer.model": b"\x00pieces",
    "chat_template.jinja": b"{{ messages }}",
    "model-00001-of-00002.safetensors": b"first" * 1000,
    "model-00002-of-00002.safetensors": b"second" * 1000,
    "model.safetensors.index.json": json.dumps(
        {
            "weight_map": {
                "a": "model-00001-of-00002.safetensors",
                "b": "model-00002-of-00002.safetensors",
            }
        }
    ).encode(),
}
UNUSED = {
    "pytorch_model.bin": b"pickle",
    "model.pt": b"pickle",
    "modeling_tiny.py": b"raise SystemExit",
    "README.md": b"# A model",
    "consolidated.safetensors": b"the same weights again",
    "original/tokenizer.model": b"the same tokenizer again",
    "original/consolidated.00.safetensors": b"and again",
}
# What is obtained, its registry, and the keys that only such an entry has.
SOURCES = ((obtain_model, "models", {}), (obtain_text, "texts", {"member": "a.txt"}))
TEXT = "première\n\ndeuxième\n".encode()


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[HubStandIn]:
    with hub_here(monkeypatch, tmp_path) as standin:
        yield standin


@pytest.fixture
def scratch(tmp_path: Path) -> Path:
    folder = tmp_path / "scratch"
    folder.mkdir()
    return folder


def entry(revision: str, repository: str = "team/tiny", **more: Any) -> dict[str, Any]:
    return {"source": "hub", "repository": repository, "revision": revision, **more}


def test_downloads_a_model_and_nothing_it_does_not_need(hub: HubStandIn, scratch: Path) -> None:
    commit = hub.add("team/tiny", USED | UNUSED)
    obtained = obtain_model(entry(commit, licence="MIT"), scratch)
    assert {name: (obtained.path / name).read_bytes() for name in USED} == USED
    assert not any((obtained.path / name).exists() for name in UNUSED)
    assert not any("original" in request or ".bin" in request for request in hub.requests)
    assert obtained.origin == {
        "source": "hub",
        "repository": "team/tiny",
        "revision": commit,
        "files": {name: hashlib.sha256(content).hexdigest() for name, content in USED.items()},
    }
    assert not [*scratch.iterdir()]


def test_downloads_the_commit_that_the_config_names(hub: HubStandIn, scratch: Path) -> None:
    old = hub.add("team/tiny", USED)
    hub.add("team/tiny", {**USED, "config.json": b'{"model_type": "other"}'})
    obtained = obtain_model(entry(old), scratch)
    assert (obtained.path / "config.json").read_bytes() == USED["config.json"]


def test_fetches_a_text_of_a_dataset(hub: HubStandIn, tmp_path: Path) -> None:
    member = "data/train set.txt"
    commit = hub.add("team/words", {member: TEXT, "other.txt": b"other"}, kind="datasets")
    wanted = entry(commit, "team/words", member=member, format="lines")
    artifact = fetch_text("tiny", read_text(wanted), tmp_path / "texts" / "tiny", "fingerprint")
    assert read_documents(artifact.folder) == ["première", "deuxième"]
    assert artifact.facts["origin"] == {
        "source": "hub",
        "repository": "team/words",
        "revision": commit,
        "member": member,
        "files": {member: hashlib.sha256(TEXT).hexdigest()},
    }
    assert {path.name for path in (tmp_path / "texts").glob("[!.]*")} == {"tiny"}
    assert not any("other.txt" in request for request in hub.requests)


def test_respects_the_endpoint_home_and_token_of_the_environment(
    hub: HubStandIn, scratch: Path, tmp_path: Path
) -> None:
    commit = hub.add("team/tiny", USED, gated=True)
    program = (
        "import json, pathlib, sys\n"
        "from freelunch.data.sources import obtain_model\n"
        "from freelunch.study.sources import read_model\n"
        "entry = read_model(json.loads(sys.argv[1]))\n"
        "obtained = obtain_model('tiny', entry, pathlib.Path(sys.argv[2]))\n"
        "print(json.dumps(obtained.origin['files']))"
    )
    environment = {
        **os.environ,
        "PYTHONPATH": str(ROOT / "workflow" / "scripts"),
        "HF_ENDPOINT": hub.endpoint,
        "HF_HOME": str(tmp_path / "home"),
        "HF_TOKEN": hub.token,
    }
    result = subprocess.run(
        [sys.executable, "-c", program, json.dumps(entry(commit)), str(scratch)],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    assert set(json.loads(result.stdout)) == set(USED)


def test_refuses_a_repository_of_pickles(hub: HubStandIn, scratch: Path) -> None:
    files = {name: USED[name] for name in ("config.json", "tokenizer.json")}
    commit = hub.add("team/tiny", {**files, "pytorch_model.bin": b"pickle"})
    message = refused(obtain_model, entry(commit), scratch)
    assert "models.tiny.repository" in message and "safetensors only" in message
    assert "pytorch_model.bin" in message
    assert not any(".bin" in request for request in hub.requests), "the pickle was downloaded"
    # Nor do weights in another layout count, which no step would read.
    others = {"consolidated.safetensors": b"other", "onnx/model.safetensors": b"other"}
    commit = hub.add("team/tiny", {**files, "pytorch_model.bin": b"pickle", **others})
    assert "safetensors only" in refused(obtain_model, entry(commit), scratch)


def test_refuses_experts_before_their_weights_travel(hub: HubStandIn, scratch: Path) -> None:
    config = b'{"model_type": "mixtral", "num_local_experts": 8}'
    commit = hub.add("team/tiny", {**USED, "config.json": config})
    message = refused(obtain_model, entry(commit), scratch)
    assert message.startswith("models.tiny: this model is a mixture of experts")
    assert "num_local_experts = 8" in message
    assert not any(".safetensors" in request for request in hub.requests)


def test_names_an_unknown_revision(hub: HubStandIn, scratch: Path) -> None:
    hub.add("team/tiny", USED)
    hub.add("team/words", {"a.txt": TEXT}, kind="datasets")
    message = refused(obtain_model, entry("f" * 40), scratch)
    assert "models.tiny.revision: the revision is not there" in message and "f" * 40 in message
    message = refused(obtain_text, entry("f" * 40, "team/words", member="a.txt"), scratch)
    assert "texts.tiny.revision: the revision is not there" in message


def test_names_an_unknown_repository(hub: HubStandIn, scratch: Path) -> None:
    commit = hub.add("team/tiny", USED)
    message = refused(obtain_model, entry(commit, "team/tyni"), scratch)
    assert "models.tiny.repository: the repository is not there" in message
    assert "team/tyni" in message and hub.endpoint in message and "HF_TOKEN" in message
    # A model is no dataset.
    message = refused(obtain_text, entry(commit, member="config.json"), scratch)
    assert "texts.tiny.repository: the repository is not there" in message


def test_names_an_unknown_file(hub: HubStandIn, scratch: Path) -> None:
    commit = hub.add("team/words", {"a.txt": TEXT}, kind="datasets")
    message = refused(obtain_text, entry(commit, "team/words", member="b.txt"), scratch)
    assert "texts.tiny.member: the file is not there" in message and "b.txt" in message


def test_a_member_cannot_leave_its_folder(hub: HubStandIn, scratch: Path) -> None:
    commit = hub.add("team/words", {"../a.txt": TEXT}, kind="datasets")
    with pytest.raises(ValidationError, match="expected a path inside"):
        obtain_text(entry(commit, "team/words", member="../a.txt"), scratch)
    assert not hub.requests


@pytest.mark.parametrize("token", [None, "hf_another"])
def test_says_that_a_repository_is_gated(
    token: str | None, hub: HubStandIn, scratch: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    commit = hub.add("team/tiny", USED, gated=True)
    if token:
        monkeypatch.setenv("HF_TOKEN", token)
    message = refused(obtain_model, entry(commit), scratch)
    assert "models.tiny.repository: the repository is gated" in message and "HF_TOKEN" in message
    assert "hf_another" not in message


def test_refuses_a_truncated_download(hub: HubStandIn, scratch: Path) -> None:
    commit = hub.add("team/tiny", USED)
    name = "model-00002-of-00002.safetensors"
    hub.spoiled[name] = USED[name][:100]
    message = refused(obtain_model, entry(commit), scratch)
    assert "models.tiny.repository" in message and "but has size 100" in message


def test_a_download_that_breaks_off_goes_on_where_it_stopped(
    hub: HubStandIn, scratch: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("time.sleep", lambda seconds: None)  # the library waits before it goes on
    monkeypatch.setattr(constants, "DOWNLOAD_CHUNK_SIZE", 1000)  # of 10 MB: it keeps whole chunks
    commit = hub.add("team/tiny", USED)
    name = "model-00002-of-00002.safetensors"
    hub.breaking[name] = 1234
    obtained = obtain_model(entry(commit), scratch)
    assert (obtained.path / name).read_bytes() == USED[name]
    assert not hub.breaking, "nothing broke off"
    digest = hashlib.sha256(USED[name]).hexdigest()
    assert f"GET /lfs/{digest} from 1000" in hub.requests


def test_a_download_that_was_interrupted_goes_on_in_the_next_run(
    hub: HubStandIn, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the file that broke off: the library itself keeps whole files only."""

    def interrupt(seconds: float) -> None:
        raise KeyboardInterrupt

    def fetch(revision: str) -> dict[str, bytes]:
        with fetching(folder) as scratch:
            path = obtain_model(entry(revision), scratch).path
            return {it: (path / it).read_bytes() for it in USED}

    old = hub.add("team/tiny", {**USED, "generation_config.json": b'{"old": 1}'})
    commit, folder = hub.add("team/tiny", USED), tmp_path / "models" / "tiny"
    first, name = (f"model-0000{number}-of-00002.safetensors" for number in (1, 2))
    for revision in (old, commit):
        # It waits before it goes on, and then a user does not wait.
        hub.breaking[name] = 1234
        with monkeypatch.context() as patch:
            patch.setattr("time.sleep", interrupt)
            with pytest.raises(KeyboardInterrupt):
                fetch(revision)
        (kept,) = folder.with_name(".tiny.downloads").iterdir()
        assert kept.name == revision, "there is more than the last one"
        assert (kept / first).read_bytes() == USED[first]
    hub.requests.clear()
    assert fetch(commit) == USED
    asked = [it for it in hub.requests if it.startswith("GET /lfs")]
    assert asked == [f"GET /lfs/{hashlib.sha256(USED[name]).hexdigest()}"]
    assert not [*folder.parent.iterdir()]


def test_follows_a_repository_to_its_new_name(hub: HubStandIn, scratch: Path) -> None:
    """The commit makes sure that it is the same content."""
    commit = hub.add("team/tiny", USED)
    hub.rename("team/tiny", "company/small")
    obtained = obtain_model(entry(commit), scratch)
    assert {name: (obtained.path / name).read_bytes() for name in USED} == USED
    assert obtained.origin["repository"] == "team/tiny"


@pytest.mark.parametrize(
    "name",
    [
        *("model-00002-of-00002.safetensors", "model.safetensors.index.json"),
        *("config.json", "tokenizer.json"),
    ],
)
def test_refuses_a_file_that_changed_under_the_same_commit(
    name: str, hub: HubStandIn, scratch: Path
) -> None:
    """In Git LFS, as weights are, and outside of it."""
    commit = hub.add("team/tiny", USED)
    hub.spoiled[name] = b"X" + USED[name][1:]
    message = refused(obtain_model, entry(commit), scratch)
    assert message.startswith(f"models.tiny.repository: {name} was damaged on its way")
    blob = b"blob %d\0" % len(USED[name]) + USED[name]
    sha256, git = hashlib.sha256(USED[name]), hashlib.sha1(blob)
    digest = sha256 if name.endswith(".safetensors") else git
    assert f" {digest.hexdigest()}, as the hub lists it" in message
    # What it says to do helps.
    hub.spoiled.clear()
    assert (obtain_model(entry(commit), scratch).path / name).read_bytes() == USED[name]


@pytest.mark.parametrize("member", ["a.txt", "data/a.txt"])
def test_refuses_a_text_that_changed_under_the_same_commit(
    member: str, hub: HubStandIn, scratch: Path
) -> None:
    commit = hub.add("team/words", {member: TEXT, "other.txt": TEXT}, kind="datasets")
    hub.spoiled[member] = b"X" + TEXT[1:]
    message = refused(obtain_text, entry(commit, "team/words", member=member), scratch)
    assert message.startswith(f"texts.tiny.member: {member} was damaged on its way")
    # What it says to do helps.
    hub.spoiled.clear()
    obtained = obtain_text(entry(commit, "team/words", member=member), scratch)
    assert obtained.path.read_bytes() == TEXT


def test_what_was_refused_for_a_setting_does_not_travel_again(
    hub: HubStandIn, tmp_path: Path
) -> None:
    commit = hub.add("team/words", {"a.txt": TEXT}, kind="datasets")
    text = entry(commit, "team/words", member="a.txt")
    folder = tmp_path / "texts" / "tiny"
    with pytest.raises(UserError):
        fetch_text("tiny", read_text({**text, "format": "jsonl"}), folder, "fingerprint")
    hub.requests.clear()
    fetched = fetch_text("tiny", read_text({**text, "format": "lines"}), folder, "fingerprint")
    assert read_documents(fetched.folder) == ["première", "deuxième"]
    assert not [it for it in hub.requests if it.startswith("GET") and "a.txt" in it]
    assert not [*folder.parent.glob("*.downloads")]


def test_says_that_the_hub_cannot_be_reached(
    hub: HubStandIn, scratch: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("time.sleep", lambda seconds: None)  # the library waits between tries
    use_endpoint(monkeypatch, "http://127.0.0.1:9")
    for obtain, registry, more in SOURCES:
        message = refused(obtain, entry("f" * 40, **more), scratch)
        assert f"{registry}.tiny.repository" in message and "http://127.0.0.1:9" in message
        assert "ConnectError" in message and "HF_ENDPOINT" in message


def test_offline_it_uses_the_cache_and_only_that(
    hub: HubStandIn, scratch: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    commit = hub.add("team/tiny", USED | UNUSED)
    snapshot_download("team/tiny", revision=commit)
    hub.requests.clear()
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    obtained = obtain_model(entry(commit), scratch)
    assert obtained.origin["files"] == {
        name: hashlib.sha256(content).hexdigest() for name, content in USED.items()
    }
    for obtain, registry, more in SOURCES:
        message = refused(obtain, entry("f" * 40, **more), scratch)
        assert f"{registry}.tiny.repository" in message and "HF_HUB_OFFLINE" in message
    assert not hub.requests
