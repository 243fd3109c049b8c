"""The `hub` source: the real huggingface_hub against a hub on this machine."""

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import constants, snapshot_download

from freelunch.core.errors import UserError
from freelunch.data.documents import read_documents
from freelunch.data.sources import fetching
from freelunch.data.texts import fetch_text
from freelunch.study.sources import read_text
from hub_standin import HubStandIn, hub_here, use_endpoint
from refusals import refused
from token_jobs import obtain_model, obtain_text

FIRST, SECOND = (f"model-0000{number}-of-00002.safetensors" for number in (1, 2))
USED = {
    "config.json": b'{"model_type": "llama"}',
    "generation_config.json": b"{}",
    "tokenizer.json": b'{"version": "1.0"}',
    "tokenizer.model": b"\x00pieces",
    "chat_template.jinja": b"{{ messages }}",
    FIRST: b"first" * 1000,
    SECOND: b"second" * 1000,
    "model.safetensors.index.json": json.dumps({"weight_map": {"a": FIRST, "b": SECOND}}).encode(),
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


def content(files: dict[str, Path]) -> dict[str, bytes]:
    return {name: path.read_bytes() for name, path in files.items()}


def test_downloads_a_model_and_nothing_it_does_not_need(hub: HubStandIn, scratch: Path) -> None:
    commit = hub.add("team/tiny", USED | UNUSED)
    hub.add("team/tiny", {**USED, "config.json": b'{"model_type": "other"}'})
    obtained = obtain_model(entry(commit, licence="MIT"), scratch)
    assert content(obtained.files) == USED
    assert not any((obtained.path.parent / name).exists() for name in UNUSED)
    assert not any("original" in request or ".bin" in request for request in hub.requests)
    assert obtained.origin == {
        "source": "hub",
        "repository": "team/tiny",
        "revision": commit,
        "files": {name: hashlib.sha256(USED[name]).hexdigest() for name in USED},
    }
    assert not [*scratch.iterdir()]


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


@pytest.mark.parametrize(
    "others", [{}, {"consolidated.safetensors": b"other", "onnx/model.safetensors": b"other"}]
)
def test_refuses_a_repository_of_pickles(
    others: dict[str, bytes], hub: HubStandIn, scratch: Path
) -> None:
    """Weights in another layout do not count, which no step would read."""
    files = {name: USED[name] for name in ("config.json", "tokenizer.json")}
    commit = hub.add("team/tiny", {**files, "pytorch_model.bin": b"pickle", **others})
    with refused(where="models.tiny.repository", found="pytorch_model.bin", expected="safetensors"):
        obtain_model(entry(commit), scratch)
    assert not any(".bin" in request for request in hub.requests), "the pickle was downloaded"


@pytest.mark.parametrize(
    ("config", "found"),
    [
        ({"model_type": "mixtral", "num_local_experts": 8}, "num_local_experts = 8"),
        ({"model_type": "llama", "quantization_config": {"quant_method": "fp8"}}, "fp8"),
    ],
)
def test_refuses_what_cannot_be_pruned_before_its_weights_travel(
    config: dict[str, Any], found: str, hub: HubStandIn, scratch: Path
) -> None:
    commit = hub.add("team/tiny", {**USED, "config.json": json.dumps(config).encode()})
    with refused(where="models.tiny", found=found):
        obtain_model(entry(commit), scratch)
    assert not any(".safetensors" in request for request in hub.requests)


@pytest.mark.parametrize(
    ("changes", "key", "found"),
    [
        ({"revision": "f" * 40}, "revision", "f" * 40),
        ({"repository": "team/tyni"}, "repository", "team/tyni"),
        # A dataset is no model, nor the reverse.
        ({"repository": "team/other"}, "repository", "team/other"),
        ({"member": "b.txt"}, "member", "b.txt"),
    ],
)
def test_names_what_is_not_there(
    changes: dict[str, str], key: str, found: str, hub: HubStandIn, scratch: Path
) -> None:
    model = entry(hub.add("team/tiny", USED))
    text = entry(
        hub.add("team/words", {"a.txt": TEXT}, kind="datasets"), "team/words", member="a.txt"
    )
    hub.add("team/other", {"a.txt": TEXT}, kind="models" if key == "member" else "datasets")
    if key != "member":
        with refused(where=f"models.tiny.{key}", found=found):
            obtain_model({**model, **changes}, scratch)
    if changes.get("repository") != "team/other":
        with refused(where=f"texts.tiny.{key}", found=found):
            obtain_text({**text, **changes}, scratch)


def test_a_gated_repository_needs_the_right_token(
    hub: HubStandIn, scratch: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    commit = hub.add("team/tiny", USED, gated=True)
    for token in ("", "hf_another"):
        monkeypatch.setenv("HF_TOKEN", token)
        with refused(where="models.tiny.repository", todo="HF_TOKEN") as error:
            obtain_model(entry(commit), scratch)
        assert "hf_another" not in str(error.value)
    monkeypatch.setenv("HF_TOKEN", hub.token)
    assert content(obtain_model(entry(commit), scratch).files) == USED


def test_a_download_that_was_interrupted_goes_on_in_the_next_run(
    hub: HubStandIn, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the file that broke off: the library itself keeps whole files only."""

    def interrupt(seconds: float) -> None:
        raise KeyboardInterrupt

    def fetch(revision: str) -> dict[str, bytes]:
        with fetching(folder) as scratch:
            return content(obtain_model(entry(revision), scratch).files)

    old = hub.add("team/tiny", {**USED, "generation_config.json": b'{"old": 1}'})
    commit, folder = hub.add("team/tiny", USED), tmp_path / "models" / "tiny"
    for revision in (old, commit):
        # It waits before it goes on, and then a user does not wait.
        hub.breaking[SECOND] = 1234
        with monkeypatch.context() as patch:
            patch.setattr("time.sleep", interrupt)
            with pytest.raises(KeyboardInterrupt):
                fetch(revision)
        (left,) = folder.with_name(".tiny.downloads").iterdir()
        assert left.name == revision, "there is more than the last one"
        assert (left / FIRST).read_bytes() == USED[FIRST]
    hub.requests.clear()
    assert fetch(commit) == USED
    asked = [request for request in hub.requests if request.startswith("GET /lfs")]
    assert asked == [f"GET /lfs/{hashlib.sha256(USED[SECOND]).hexdigest()}"]
    assert not [*folder.parent.iterdir()]


@pytest.mark.parametrize(
    "name",
    [SECOND, "model.safetensors.index.json", "config.json", "tokenizer.json", "a.txt", "b/a.txt"],
)
def test_refuses_a_file_that_changed_under_the_same_commit(
    name: str, hub: HubStandIn, scratch: Path
) -> None:
    """In Git LFS, as weights are, and outside of it; of a model, and of a text."""
    if is_text := name.endswith("a.txt"):
        own = {name: TEXT, "other.txt": TEXT}
        wanted = entry(hub.add("team/words", own, kind="datasets"), "team/words", member=name)
    else:
        own, wanted = USED, entry(hub.add("team/tiny", USED))
    hub.spoiled[name] = b"X" + own[name][1:]
    blob = b"blob %d\0" % len(own[name]) + own[name]
    sha256, git = hashlib.sha256(own[name]), hashlib.sha1(blob)
    digest = (sha256 if name.endswith(".safetensors") else git).hexdigest()
    obtain = obtain_text if is_text else obtain_model
    with refused(where="member" if is_text else "models.tiny.repository", expected=digest):
        obtain(wanted, scratch)
    # What it says to do helps.
    hub.spoiled.clear()
    assert obtain(wanted, scratch).path.read_bytes()


def test_what_was_refused_for_a_setting_does_not_travel_again(
    hub: HubStandIn, tmp_path: Path
) -> None:
    commit = hub.add("team/words", {"a.txt": TEXT}, kind="datasets")
    text = entry(commit, "team/words", member="a.txt")
    folder = tmp_path / "texts" / "tiny"
    with pytest.raises(UserError, match="not valid JSON"):
        fetch_text("tiny", read_text({**text, "format": "jsonl"}), folder, "fingerprint")
    hub.requests.clear()
    fetched = fetch_text("tiny", read_text({**text, "format": "lines"}), folder, "fingerprint")
    assert read_documents(fetched.folder) == ["première", "deuxième"]
    assert not [asked for asked in hub.requests if asked.startswith("GET") and "a.txt" in asked]
    assert not [*folder.parent.glob("*.downloads")]


def test_says_that_the_hub_cannot_be_reached(
    hub: HubStandIn, scratch: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("time.sleep", lambda seconds: None)  # the library waits between tries
    use_endpoint(monkeypatch, "http://127.0.0.1:9")
    with refused(where="texts.tiny.repository", found="ConnectError", todo="HF_ENDPOINT"):
        obtain_text(entry("f" * 40, member="a.txt"), scratch)


def test_offline_it_uses_the_cache_and_only_that(
    hub: HubStandIn, scratch: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    commit = hub.add("team/tiny", USED | UNUSED)
    snapshot_download("team/tiny", revision=commit)
    hub.requests.clear()
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert content(obtain_model(entry(commit), scratch).files) == USED
    with refused(where="models.tiny.repository", todo="HF_HUB_OFFLINE"):
        obtain_model(entry("f" * 40), scratch)
    assert not hub.requests
