"""Names and paths that `freelunch new` gets, and what it refuses: one error, before it writes."""

import bz2
import csv
import gzip
import io
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import example, given
from hypothesis import strategies as st
from pydantic import TypeAdapter

from freelunch.cli import new as new_module
from freelunch.cli.check import check_study
from freelunch.cli.new import numbered, study_text, valid_name
from freelunch.study.settings import Name
from freelunch.study.sources import LocalText
from freelunch.study.study import Study
from hub_standin import HubStandIn, use_endpoint
from new_studies import HERE, edit_config, model, new
from own_models import DOCUMENTS, write_lines
from refusals import refused
from tiny_gguf import write_gguf
from tiny_models import tiny_model

# --- Names and paths


@given(st.text())
@example("CON.x")
@example(f"aux.{'a' * 60}")
@example(f"{'a' * 45}-2024")
def test_every_name_is_made_valid(text: str) -> None:
    name = valid_name(text)
    for each in (name, next(numbered(name))):
        TypeAdapter(Name).validate_python(each)


@given(st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1))
@example("0x10")
@example("Notes: mine # 2")
@example("\x85\x7f")
@example("no")
def test_every_path_is_read_as_it_is_written(path: str) -> None:
    config = {"texts": {valid_name(path): {"source": "path", "path": path}}}
    assert yaml.safe_load(study_text(config, [f"text {path}: plain"])) == config


@pytest.mark.parametrize("name", ["2024", "2024-05-01", "1.5", "true", "no", "null", "1e3"])
def test_a_name_may_be_one_that_yaml_reads_as_other_than_text(
    models: Path, tmp_path: Path, name: str
) -> None:
    shutil.copytree(model(models), tmp_path / name)
    text = write_lines(tmp_path).rename(f"{name}.txt")
    study = new(name, text, name=name)
    assert Study.load(Path(study.source)) == study
    assert study.name == study.calibration.text == name
    assert list(study.config.models) == [name]


def test_a_path_may_be_relative_or_begin_with_a_tilde(
    models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = tmp_path / "home"
    home.mkdir()
    shutil.copytree(model(models), home / "My Model (v1.0)")
    text = write_lines(home)
    shutil.copy(text, "~notes.txt")
    monkeypatch.setenv("HOME", str(home))
    study = new("~/My Model (v1.0)", "home/notes.txt")
    assert Path(study.source) == Path("studies/my-model-v1.0-notes.yaml")
    assert study.as_json()["models"]["my-model-v1.0"]["path"] == "home/My Model (v1.0)"
    study = new("~/My Model (v1.0)", "~notes.txt", name="tilde")
    assert study.text(study.calibration.text).path == "~notes.txt"
    (tmp_path / "deep").mkdir()
    monkeypatch.chdir(tmp_path / "deep")
    assert new("../home/My Model (v1.0)", "~/notes.txt").text("notes").path == str(text)


def test_two_models_never_share_a_name(models: Path, tmp_path: Path) -> None:
    """All studies share resources/models/NAME; a study would fetch what another one replaced."""
    for name in ("a", "b"):
        shutil.copytree(model(models), tmp_path / name / "smollm2-135m")
    text = write_lines(tmp_path)
    studies = [new(f"{name}/smollm2-135m", text, name=name) for name in ("a", "b")]
    named = [next(iter(study.config.models)) for study in studies]
    # The registry has a model of this name.
    assert named == ["smollm2-135m-2", "smollm2-135m-3"]


def test_a_study_that_is_there_is_kept(models: Path, tmp_path: Path) -> None:
    """Two of one name would write into results/NAME, whatever their files are called."""
    given = model(models), write_lines(tmp_path)
    path = Path(new(*given, name="mine").source)
    path.write_text("# mine\n")
    with refused(where=path, found="mine", todo="NAME=mine-2"):
        new(*given, name="mine")
    assert path.read_text() == "# mine\n"
    Path("studies/laptop-2.yaml").touch()
    Path("studies/other.yaml").write_text("study: {name: laptop}\n")
    with refused(where="studies/other.yaml", todo="NAME=laptop-3"):
        new(*given, name="laptop")
    shutil.rmtree("studies")
    Path("studies").touch()
    with refused(where="studies", todo="rename it"):
        new(*given)


@pytest.mark.parametrize(
    ("text", "where"), [("a: [", "studies/mine.yaml"), ("a: 1", "studies/mine.yaml: a")]
)
def test_a_file_that_cannot_be_read_back_is_not_written(
    models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, where: str
) -> None:
    """It would stand in the way of the next try, which never overwrites a study."""
    monkeypatch.setattr(new_module, "study_text", lambda *arguments: text)
    with refused(where=where.split(":")[0]):
        new(model(models), write_lines(tmp_path), name="mine")
    assert not Path("studies/mine.yaml").exists()


@pytest.mark.parametrize(
    ("given", "found"), [(("m", ""), "no TEXT"), (("", "t"), "no MODEL"), (("", ""), "no TEXT")]
)
def test_what_is_missing_is_said(given: tuple[str, str], found: str) -> None:
    """`make new` passes on empty text for what is not given."""
    with refused(found=found, todo="make new MODEL="):
        new(*given)


# --- Texts


@pytest.mark.parametrize(
    ("text", "found"),
    [
        (None, "does not exist"),
        (b"", "text"),
        (b"\n \n", "blank lines only"),
        (b"a few words", "tokens, in documents of at most"),
        # Fewer tokens than the smallest sample, and than the fewest windows.
        (b"hello world\n" * 3, "tokens, in documents of at most"),
        (b"\x00\x01\x02" * 99, "a NUL byte"),
        (("the cat sat on the mat\n" * 99).encode("utf-16"), "a NUL byte"),
        (b"caf\xe9 " * 99, "0xe9"),
        (b'{"a": 1}\n', "fields a"),
        (b"PAR1 and no more", "Parquet"),
        (b"<doc>\nnever closed\n", None),
    ],
)
def test_a_text_that_is_none(models: Path, text: bytes | None, found: str | None) -> None:
    if text is not None:
        Path("text").write_bytes(text)
    with refused(where="TEXT", found=found):
        new(model(models), "text")
    assert not Path("studies").exists()


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("text.json", b'[{"text": "a"}]'),
        ("text.jsonl", b'"text": "cut off at the front"}\n' * 20),
        ("text.jsonl", b"[" * 100_000),
        ("text.jsonl", b"1\n2\n" * 20),
    ],
)
def test_damaged_lines_are_not_taken_for_plain_text(
    models: Path, name: str, content: bytes
) -> None:
    Path(name).write_bytes(content)
    with refused(where="TEXT", found=name, expected="one object a line"):
        new(model(models), name)


@pytest.mark.parametrize("name", ["notes.csv", "My notes.TSV", "notes.csv.gz", "notes.csv.bz2"])
def test_a_table_is_refused_with_the_command_that_converts_it(models: Path, name: str) -> None:
    """Its separators and other columns would otherwise be read as text."""
    rows = io.StringIO()
    writer = csv.writer(rows, delimiter="\t" if "TSV" in name else ",")
    writer.writerow(["id", "story"])
    writer.writerows(enumerate(f'"{text}",\nand so on' for text in DOCUMENTS))
    pack = {".gz": gzip.compress, ".bz2": bz2.compress}.get(Path(name).suffix, bytes)
    Path(name).write_bytes(pack(rows.getvalue().encode()))
    with refused(where=f"TEXT: {name}", found="columns id, story") as error:
        new(model(models), name)
    command = str(error.value.todo).partition("convert it: python")[2]
    subprocess.run(sys.executable + command, shell=True, check=True)
    (converted,) = Path().glob("*.parquet")
    study = new(model(models), converted)
    text = study.text(study.calibration.text)
    assert isinstance(text, LocalText) and (text.format, text.field) == ("parquet", "story")
    # The same of a study that names the table.
    path = Path(study.source)
    written = path.read_text().replace(converted.name, name)
    path.write_text(written.replace("format: parquet, field: story", "format: lines"))
    with refused(where="texts.", found="columns id, story"):
        check_study(Study.load(path), HERE, fetches=True)


def test_a_folder_is_no_text(models: Path) -> None:
    Path("a folder").mkdir()
    Path("a folder/the notes.txt").touch()
    with refused(where="TEXT", found="the folder a folder, with the notes.txt"):
        new(model(models), "a folder")


# --- Models


def test_models_that_are_none_or_several(models: Path, tmp_path: Path) -> None:
    text = write_lines(tmp_path)
    Path("empty").mkdir()
    Path("bad.gguf").write_bytes(b"GGUF\x03" + bytes(99))
    write_gguf(Path("cut.gguf"), tiny_model("qwen2"))
    Path("cut.gguf").write_bytes(Path("cut.gguf").read_bytes()[:-1000])
    model(models)
    model(models, "qwen2")
    for path, found in (
        ("gpt2", "does not exist"),
        ("empty", "an empty folder"),
        (text, "is a file"),
        (models, "llama/, qwen2/"),
        (model(models) / "model.safetensors", "is a file"),
        ("bad.gguf", "bad.gguf"),
        ("cut.gguf", "cut.gguf"),
    ):
        with refused(where=f"MODEL={path}", found=found):
            new(path, text)
    (models / "one.gguf").write_bytes(b"GGUF")
    with refused(found="one.gguf, llama, qwen2"):
        new(models, text)
    folder = shutil.copytree(model(models), tmp_path / "twice")
    (folder / "model.gguf").write_bytes(b"GGUF")
    with refused(found="model.gguf, model.safetensors"):
        new(folder, text)


@pytest.mark.parametrize(
    ("changes", "found"),
    [
        ({"model_type": "mixtral", "num_local_experts": 8}, "num_local_experts = 8"),
        ({"model_type": "gpt2"}, "model_type = gpt2"),
        ({"model_type": None}, "no `model_type`"),
        ({"quantization_config": {"quant_method": "gptq"}}, "gptq"),
        ({"hidden_size": -1}, "hidden_size = -1"),
        ({"vocab_size": 3}, "a token with the number"),
    ],
)
def test_a_model_that_cannot_work_is_said_here(
    models: Path, tmp_path: Path, changes: dict[str, Any], found: str
) -> None:
    folder = edit_config(shutil.copytree(model(models), tmp_path / "changed"), **changes)
    with refused(found=found):
        new(folder, write_lines(tmp_path))


# --- The hub


def test_a_model_on_the_hub_is_planned_without_its_weights(
    hub: HubStandIn, models: Path, tmp_path: Path
) -> None:
    files = {path.name: path.read_bytes() for path in model(models).iterdir()}
    commit = hub.add("owner/Tiny-Llama", files)
    study = new("owner/Tiny-Llama", write_lines(tmp_path))
    entry = study.as_json()["models"]["tiny-llama"]
    assert (entry["repository"], entry["revision"]) == ("owner/Tiny-Llama", commit)
    assert entry["architecture"]["num_hidden_layers"] == 3
    assert "still to be downloaded: tiny-llama" in check_study(study, HERE, fetches=True)
    assert not [asked for asked in hub.requests if "safetensors" in asked]


def test_a_hub_without_such_a_model(
    hub: HubStandIn, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = write_lines(tmp_path)
    with refused(where="MODEL=owner/nothing", todo="if a folder is meant"):
        new("owner/nothing", text)
    hub.add("owner/gated", {"config.json": b"{}"}, gated=True)
    with refused(where="MODEL=owner/gated", todo=f"{hub.endpoint}/owner/gated"):
        new("owner/gated", text)
    hub.add("owner/pickle", {"config.json": b"{}", "pytorch_model.bin": b""})
    with refused(where="MODEL=owner/pickle", found="pytorch_model.bin"):
        new("owner/pickle", text)
    use_endpoint(monkeypatch, "http://127.0.0.1:9")
    with refused(where="MODEL=owner/model", found="ConnectError"):
        new("owner/model", text)
