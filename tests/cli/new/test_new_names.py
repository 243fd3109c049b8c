"""Names, paths and models on the hub that `freelunch new` is given."""

import gzip
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from hypothesis import example, given
from hypothesis import strategies as st
from pydantic import TypeAdapter

from freelunch.cli.check import check_study
from freelunch.cli.choices import Choices
from freelunch.cli.given import EXPECTED
from freelunch.cli.new import numbered, valid_name
from freelunch.cli.study_file import StudyFile
from freelunch.study.settings import Name
from freelunch.study.study import Study
from hub_standin import HubStandIn, hub_here, use_endpoint
from new_studies import HERE, model, new, refused
from own_models import write_lines

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
    choices = Choices(8, 32, "why", 0, 8, 32, "documents", "why", why_cells="why")
    name = valid_name(path)
    texts = {name: {"source": "path", "path": path}}
    file = StudyFile(name, [], {name: {"source": "hub"}}, texts, name, name, choices)
    assert yaml.safe_load(file.text({})) == file.config()


@pytest.mark.parametrize("name", ["2024", "2024-05-01", "1.5", "true", "no", "yes", "null", "1e3"])
def test_a_name_may_be_one_that_yaml_reads_as_other_than_text(
    models: Path, tmp_path: Path, name: str
) -> None:
    shutil.copytree(model(models), tmp_path / name)
    text = write_lines(tmp_path).rename(f"{name}.txt")
    study = new(name, text, name=name)
    assert Study.load(Path(study.source)) == study
    assert study.name == study.calibration.text == name
    assert list(study.config.models) == [name]


def test_a_file_in_the_place_of_the_folder_of_studies(models: Path, tmp_path: Path) -> None:
    Path("studies").touch()
    assert refused(model(models), write_lines(tmp_path)).startswith("studies: a new study is ")


def test_a_file_that_cannot_be_read_back_is_not_written(
    models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It would stand in the way of the next try, which never overwrites a study."""
    given = model(models), write_lines(tmp_path)
    for text, said in (("a: [", "not a valid YAML file"), ("a: 1", "a: unknown key")):
        with monkeypatch.context() as patch:
            patch.setattr(StudyFile, "text", lambda file, why, text=text: text)
            assert said in refused(*given, name="mine")
    assert not Path("studies/mine.yaml").exists()
    new(*given, name="mine")


def test_a_path_may_be_relative_or_begin_with_a_tilde(
    models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = tmp_path / "home"
    home.mkdir()
    shutil.copytree(model(models), home / "My Model (v1.0)")
    text = write_lines(home)
    monkeypatch.setenv("HOME", str(home))
    study = new("~/My Model (v1.0)", "home/notes.txt")
    assert Path(study.source) == Path("studies/my-model-v1.0-notes.yaml")
    assert study.as_json()["models"]["my-model-v1.0"]["path"] == "home/My Model (v1.0)"
    (tmp_path / "deep").mkdir()
    monkeypatch.chdir(tmp_path / "deep")
    assert new("../home/My Model (v1.0)", "~/notes.txt").text("notes").path == str(text)


def test_two_models_never_share_a_name(models: Path, tmp_path: Path) -> None:
    """All studies share resources/models/NAME; a study would fetch what another one replaced."""
    for name in ("a", "b"):
        shutil.copytree(model(models), tmp_path / name / "smollm2-135m")
    text = write_lines(tmp_path)
    studies = [new(f"{name}/smollm2-135m", text, name=name) for name in ("a", "b", "a")[:2]]
    named = [next(iter(study.config.models)) for study in studies]
    # The registry has a model of this name.
    assert named == ["smollm2-135m-2", "smollm2-135m-3"]
    said = Path(studies[0].source).read_text().replace("\n# ", " ")
    assert "The model is called smollm2-135m-2 here, since config/registry.yaml or" in said


def test_a_text_may_be_gzipped(models: Path, tmp_path: Path) -> None:
    path = tmp_path / "notes.txt.gz"
    path.write_bytes(gzip.compress(write_lines(tmp_path).read_bytes()))
    assert new(model(models), path).calibration.text == "notes"


# --- The hub


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[HubStandIn]:
    with hub_here(monkeypatch, tmp_path) as standin:
        yield standin


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


def test_a_hub_without_such_a_model_is_an_error(hub: HubStandIn, tmp_path: Path) -> None:
    said = refused("owner/nothing", write_lines(tmp_path))
    assert "there is no such model on the hub, and no such folder here" in said
    hub.add("owner/gated", {"config.json": b"{}"}, gated=True)
    said = refused("owner/gated", "notes.txt")
    assert "owner/gated: the repository is gated" in said
    assert f"{hub.endpoint}/owner/gated, and set the environment variable HF_TOKEN" in said
    hub.add("owner/pickle", {"config.json": b"{}", "pytorch_model.bin": b""})
    assert "never pickle" in refused("owner/pickle", "notes.txt")


def test_a_hub_without_a_network_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    use_endpoint(monkeypatch, "http://127.0.0.1:9")
    said = refused("owner/model", write_lines(tmp_path))
    assert "no such folder here, and the hub cannot be asked" in said
    assert said.endswith(f"make new MODEL={EXPECTED['MODEL']} TEXT={tmp_path / 'notes.txt'}")
