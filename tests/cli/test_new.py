"""`freelunch new`: a study of one's own model and text that needs no edit, or one clear error."""

import csv
import gzip
import io
import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import example, given
from hypothesis import strategies as st
from pydantic import TypeAdapter

from freelunch.cli import cell_choices, check
from freelunch.cli import new as new_module
from freelunch.cli.check import check_study
from freelunch.cli.choices import Choices
from freelunch.cli.given import EXPECTED
from freelunch.cli.main import main
from freelunch.cli.new import numbered, valid_name, write_study
from freelunch.cli.study_file import StudyFile
from freelunch.core.errors import UserError
from freelunch.costs import room
from freelunch.costs.machine import Machine
from freelunch.data.seen_model import CONVERTED
from freelunch.reporting.audit.claims import load_claims
from freelunch.study.families import FAMILIES as TABLE
from freelunch.study.settings import Name
from freelunch.study.sources import LocalText
from freelunch.study.study import Study
from hub_standin import HubStandIn, hub_here, use_endpoint
from own_models import DOCUMENTS, TEXTS, check_here, machine, write_lines
from tiny_gguf import write_gguf
from tiny_models import FAMILIES, VARIANTS, save_tiny_model, tiny_model

HERE = machine()


@pytest.fixture(autouse=True)
def _checks_here(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (new_module, check):
        monkeypatch.setattr(module, "check_as_fetched", check_here)


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder for each family, made when it is asked for."""
    return tmp_path_factory.mktemp("models")


@pytest.fixture(autouse=True)
def _in_a_folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    # As below `make new`.
    monkeypatch.setenv("MAKELEVEL", "1")


def model(models: Path, family: str = "llama", **changes: Any) -> Path:
    folder = models / "-".join([family, *map(str, changes.values())])
    return folder if folder.exists() else save_tiny_model(folder, family, **changes)


def new(
    model: object,
    text: object,
    name: str | None = None,
    evaluation: Path | None = None,
    on: Machine | None = HERE,
) -> Study:
    return write_study(
        str(model), str(text), name, str(evaluation) if evaluation else None, on
    ).study


def refused(model: object, text: object, **more: Any) -> str:
    with pytest.raises(UserError) as caught:
        new(model, text, **more)
    return str(caught.value)


def edit_config(folder: Path, **changes: Any) -> Path:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    return folder


# --- Each family, each kind of text


@pytest.mark.parametrize("family", FAMILIES)
def test_a_family_needs_no_edit(models: Path, tmp_path: Path, family: str) -> None:
    for (form, field), write in TEXTS.items():
        study = new(model(models, family), write(tmp_path), name=form)
        text = study.text(study.calibration.text)
        assert isinstance(text, LocalText)
        assert (text.format, text.field) == (form, field)
        assert "all is well" in check_study(study, HERE)
        assert study.drift is not None
        # The tiny models have 64 positions, but for BLOOM, which has any number of them.
        assert study.calibration.length == (256 if family == "bloom" else 64)
        halves = any("recon_attention_mlp" in grid.adaptations for grid in study.block.grids)
        assert halves == (family not in ("gpt_neox", "falcon"))


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_variant_has_the_windows_that_its_blocks_have(models: Path, variant: str) -> None:
    family, changes = VARIANTS[variant]
    study = new(model(models, family, **changes), write_lines(Path()))
    assert "all is well" in check_study(study, HERE)
    text = Path(study.source).read_text()
    assert ("half a block is not a window here" in text) == ("recon_attention_mlp" not in text)


def test_every_tested_family_is_tried() -> None:
    assert set(FAMILIES) == set(TABLE)


def test_a_gguf_file_is_planned_before_it_is_fetched(tmp_path: Path) -> None:
    write_gguf(tmp_path / "Tiny-Q8_0.gguf", tiny_model("qwen2"))
    study = new("Tiny-Q8_0.gguf", write_lines(tmp_path))
    (entry,) = study.as_json()["models"].values()
    assert entry["path"] == "Tiny-Q8_0.gguf" and entry["architecture"]["num_hidden_layers"] == 3
    assert "memory and disk" in check_study(study, HERE)


def test_the_families_of_gguf_files_are_those_that_transformers_converts() -> None:
    from transformers.modeling_gguf_pytorch_utils import GGUF_SUPPORTED_ARCHITECTURES

    tested = {*TABLE, "gemma3"} & {*GGUF_SUPPORTED_ARCHITECTURES}
    assert set(CONVERTED) == tested


# --- What is chosen


def test_the_file_says_what_was_chosen_and_why(models: Path, tmp_path: Path) -> None:
    study = new(model(models), write_lines(tmp_path))
    text = Path(study.source).read_text()
    assert len(text.splitlines()) < 60 and max(map(len, text.splitlines())) <= 120
    for said in (
        "llama, 3 blocks, hidden size 16",
        "64 documents are longer than 64 tokens",
        "windows of different documents are independent",
        "calibration has seen parts of this text",
        "to settle a claim, add `seeds: [0, 1, 2]` to the grids",
        "tuned for SmolLM2-135M",
        "recon_block: {method: reconstruction, learning_rate: [0.0003, 0.001, 0.003], ",
    ):
        # Comments are wrapped.
        assert said in " ".join(text.replace("#", "").split()), said


def test_the_search_for_learning_rates_is_a_valid_study(models: Path, tmp_path: Path) -> None:
    """With and without documents to hold out. All adaptations are searched: an untuned one beside a
    tuned one would be no comparison.
    """
    (tmp_path / "one.txt").write_text("\n".join(DOCUMENTS[0].split(" ") * 50))
    for text in (write_lines(tmp_path), tmp_path / "one.txt"):
        path = Path(new(model(models), text).source)
        settings, start, rates = path.read_text().partition("#adaptations:")
        path.write_text(settings + re.sub("^#", "", start + rates, flags=re.MULTILINE))
        study = Study.load(path)
        names = {name for grid in study.block.grids for name in grid.adaptations} - {"none"}
        assert len(names) > 3
        assert {len(study.candidate_names(name)) for name in names} == {3}
        assert "all is well" in check_study(study, HERE)


def test_one_document_leaves_nothing_to_hold_out(models: Path, tmp_path: Path) -> None:
    (tmp_path / "book.txt").write_text("\n".join(DOCUMENTS[0].split(" ") * 50))
    study = new(model(models), "book.txt")
    text = study.text("book")
    assert isinstance(text, LocalText) and text.format == "plain"
    assert study.drift is None


def test_a_text_that_hardly_decides_a_claim_says_so(models: Path, tmp_path: Path) -> None:
    folder = model(models)
    for words in (200, 4_000):
        (tmp_path / f"of{words}.txt").write_text("\n".join(["word"] * words))
        study = new(folder, f"of{words}.txt")
        text = " ".join(Path(study.source).read_text().replace("#", "").split())
        few = (study.perplexity.windows or 0) < 24
        assert few == (words == 200) == ("so few windows hardly decide a claim" in text)


def test_another_text_is_evaluated_on(models: Path, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    other = write_lines(tmp_path / "other")
    study = new(model(models), write_lines(tmp_path), evaluation=other)
    assert (study.calibration.text, study.perplexity.text) == ("notes", "notes-2")
    assert "has seen parts" not in Path(study.source).read_text()


def test_a_slow_machine_gets_a_smaller_study(models: Path, tmp_path: Path) -> None:
    text = write_lines(tmp_path)
    sizes = [
        len(new(model(models), text, name=f"at-{flops:g}", on=machine(flops)).cells)
        for flops in (1e11, 1e5, 1)
    ]
    assert sizes[0] > sizes[1] >= sizes[2] == 3


def test_windows_that_do_not_fit_into_memory_are_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A model of the shapes of Llama 3.1 8B, whose blocks fit, but not all of them at once."""
    folder = save_tiny_model(tmp_path / "large")
    large = {"hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 32}
    heads = {"num_attention_heads": 32, "num_key_value_heads": 8, "head_dim": 128}
    edit_config(folder, **large, **heads, vocab_size=128256, dtype="bfloat16")
    # Whatever is free on the disk of this machine; and there are no weights of this size.
    monkeypatch.setattr(room, "lacking_disk", lambda plan: None)
    monkeypatch.setattr(new_module, "check_as_fetched", lambda *arguments: None)
    fast = replace(machine(1e15, 24), read_per_s=1e12, write_per_s=1e12)
    study = new(folder, write_lines(tmp_path), on=fast)
    adaptations = {name for grid in study.block.grids for name in grid.adaptations}
    assert "recon_block" in adaptations and "recon_all" not in adaptations
    assert "no recon_all: it does not fit" in Path(study.source).read_text()
    said = refused(folder, "notes.txt", name="b", on=machine(1, 1))
    assert "not even a small study" in said and "recon_block of large does not fit: needs" in said
    assert len(new(folder, "notes.txt", name="c", on=None).cells) == 15


def test_a_study_has_the_cells_that_the_claims_need(tmp_path: Path) -> None:
    """Without one of them, the page of a finished study says of each claim: not testable here."""
    folder = save_tiny_model(tmp_path / "mine", num_hidden_layers=6, hidden_size=64)
    study = new(folder, write_lines(tmp_path), on=None)
    criteria = {name for grid in study.block.grids for name in grid.criteria}
    adaptations = {name for grid in study.block.grids for name in grid.adaptations}
    found = [study.adaptation(name) for name in adaptations - {"none"}]
    windows = {str(each.window) for each in found if not each.is_retraining}
    # C4 is about models of 70 billion parameters.
    claims = [claim for claim in load_claims() if claim["id"] != "C4"]
    asked = [part.get("settings", {}) for claim in claims for part in claim["parts"]]
    assert any("criteria" in each for each in asked) and any("windows" in each for each in asked)
    for settings in asked:
        assert criteria >= set(settings.get("criteria", []))
        assert windows >= set(map(str, settings.get("windows", [])))
        assert adaptations >= set(settings.get("methods", []))


def test_what_only_claims_need_is_left_out_first() -> None:
    largest = Choices(
        8, 32, "", 0, 8, 32, "documents", "", adaptations=("recon_5", "masklora", "full")
    )
    _, (second, _), (third, why), (fourth, _), *_ = cell_choices._smaller(largest, "all")
    assert second == replace(largest, criteria=("magnitude", "wanda", "sparsegpt"))
    assert third == replace(second, adaptations=("recon_5", "full"))
    assert fourth == replace(second, adaptations=("full",))
    assert "all; without ria, masklora, which some of the paper's claims need" in why


def test_what_is_not_trained_in_its_own_dtype_gets_another(models: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(model(models), tmp_path / "half")
    for dtype in ("float16", "float8_e4m3fn"):
        study = new(edit_config(folder, dtype=dtype), write_lines(tmp_path), name=dtype)
        assert study.model("half").dtype == "float32"
        assert "all is well" in check_study(study, HERE)


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
    assert "still to be downloaded: tiny-llama" in check_study(study, HERE)
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


# --- Bad input


def test_a_study_that_is_there_is_kept(models: Path, tmp_path: Path) -> None:
    path = Path(new(model(models), write_lines(tmp_path), name="mine").source)
    path.write_text("# mine\n")
    said = refused(model(models), "notes.txt", name="mine")
    assert "it is kept as it is" in said and "NAME=mine-2" in said
    assert path.read_text() == "# mine\n"


@pytest.mark.parametrize("file", ["config.yaml", "studies/other.yaml"])
def test_two_studies_never_share_a_name(models: Path, tmp_path: Path, file: str) -> None:
    """Both would write into results/NAME, whatever their files are called."""
    Path("studies").mkdir()
    Path("studies/laptop-2.yaml").touch()
    Path(file).write_text("study: {name: laptop}\n")
    said = refused(model(models), write_lines(tmp_path), name="laptop")
    assert said.startswith(f"{file}: there is already a study of this name")
    assert said.endswith("NAME=laptop-3")


@pytest.mark.parametrize("evaluation", ["none.txt", "short.txt"])
def test_the_command_to_type_keeps_what_was_given(
    models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, evaluation: str
) -> None:
    """With only what was wrong left open, in the words of who typed it."""
    Path("short.txt").write_text("few")
    given = (model(models), write_lines(tmp_path))
    more = {"name": "mine", "evaluation": Path(evaluation), "on": None}
    said = refused(*given, **more)
    head, tail = f"MODEL={given[0]} TEXT={given[1]}", "NAME=mine EVALUATION=<file> ELSEWHERE=1"
    assert evaluation in said and said.endswith(f"  then:     make new {head} {tail}")
    monkeypatch.delenv("MAKELEVEL")
    head, tail = f"{given[0]} {given[1]}", "--name mine --evaluation <file> --elsewhere"
    assert refused(*given, **more).endswith(f"  then:     freelunch new {head} {tail}")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (None, "there is no such file"),
        (b"", "the text is empty"),
        (b"\n \n", "the text has no documents"),
        (b"a few words", "the text is too short"),
        # Fewer tokens than the smallest sample, and than the fewest windows.
        (b"hello world\n" * 3, "the text is too short"),
        (b"\x00\x01\x02" * 99, "binary, not text"),
        (("the cat sat on the mat\n" * 99).encode("utf-16"), "iconv -f UTF-16 -t UTF-8"),
        (b"caf\xe9 " * 99, "not valid UTF-8"),
        (b'[{"text": "a"}]', "one JSON object a line"),
        (b'{"a": 1}\n', "no field holds text in each row"),
        (b"PAR1 and no more", "not a valid Parquet file"),
        (b"<doc>\nnever closed\n", "the last <doc> has no </doc>"),
    ],
)
def test_a_text_that_is_none(models: Path, text: bytes | None, said: str) -> None:
    path = Path("text.json" if text and text.startswith(b"[") else "text")
    if text is not None:
        path.write_bytes(text)
    found = refused(model(models), path)
    assert said in found
    fits = "TEXT=text.jsonl" if path.suffix else "TEXT=<file>"
    assert found.endswith(f"\n  then:     make new MODEL={model(models)} {fits}")
    assert not Path("studies").exists()


@pytest.mark.parametrize("text", [b'"text": "cut off at the front"}\n', b"[" * 100_000, b"1\n2\n"])
def test_damaged_lines_are_not_taken_for_plain_text(models: Path, text: bytes) -> None:
    Path("text.jsonl").write_bytes(text * 20)
    found = refused(model(models), Path("text.jsonl"))
    assert "named as JSON Lines, but its first line is not a JSON object" in found


def test_what_is_missing_is_said_with_the_whole_command(models: Path) -> None:
    """`make new` passes on empty text for what is not given."""
    given = model(models)
    said = refused(given, "")
    assert said.startswith("TEXT is missing") and f"make new MODEL={given} TEXT=<file>" in said
    said = refused("", "my notes.txt")
    assert said.startswith("MODEL is missing") and said.endswith("TEXT='my notes.txt'")
    assert refused("", "").startswith("MODEL and TEXT are missing")


@pytest.mark.parametrize("name", ["notes.csv", "My notes.TSV", "notes.csv.gz"])
def test_a_table_is_refused_with_the_command_that_converts_it(models: Path, name: str) -> None:
    """Its separators and other columns would otherwise be read as text."""
    rows = io.StringIO()
    delimiter = "\t" if "TSV" in name else ","
    writer = csv.writer(rows, delimiter=delimiter)
    writer.writerow(["id", "story"])
    writer.writerows(enumerate(f'"{text}",\nand so on' for text in DOCUMENTS))
    content = rows.getvalue().encode()
    Path(name).write_bytes(gzip.compress(content) if name.endswith(".gz") else content)
    said = refused(model(models), name)
    assert "this is a table" in said and "columns id, story" in said
    (command,) = (line for line in said.splitlines() if "to do:" in line)
    subprocess.run(command.partition("convert it: ")[2], shell=True, check=True)
    (made,) = Path().glob("*.jsonl")
    study = new(model(models), made)
    text = study.text(study.calibration.text)
    assert isinstance(text, LocalText) and (text.format, text.field) == ("jsonl", "story")
    # The same of a study that names the table.
    path = Path(study.source)
    path.write_text(
        path.read_text()
        .replace(made.name, name)
        .replace("format: jsonl", "format: lines")
        .replace("    field: story\n", "")
    )
    with pytest.raises(UserError, match=r"texts\..*path: .*: this is a table"):
        check_study(Study.load(path), HERE)


def test_a_study_for_another_machine_is_planned_for_none(
    models: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    given = ["new", str(model(models)), str(write_lines(tmp_path)), "--elsewhere"]
    monkeypatch.setattr("sys.argv", ["freelunch", *given])
    assert main() == 0
    out, err = capsys.readouterr()
    assert "GFLOP/s" not in out + err and "whatever its speed, memory and disk" in out
    assert out.splitlines()[-1].startswith("  make plan STUDY=studies/llama-notes.yaml TFLOPS=")


def test_a_folder_is_no_text(models: Path, tmp_path: Path) -> None:
    write_lines(tmp_path)
    Path("a folder").mkdir()
    Path("a folder/the notes.txt").touch()
    said = refused(model(models), "a folder")
    assert "name one of its files" in said
    assert said.endswith(f"make new MODEL={model(models)} TEXT='a folder/the notes.txt'")


def test_models_that_are_none_or_several(models: Path, tmp_path: Path) -> None:
    text = write_lines(tmp_path)
    said = refused("gpt2", text)
    assert "does not exist" in said and "Hugging Face hub, which is owner/name" in said
    Path("empty").mkdir()
    said = refused("empty", text)
    assert "this folder is empty" in said
    assert "give the path of a model" in refused(text, text)
    model(models)
    model(models, "qwen2")
    said = refused(models, text)
    assert "holds several models, but is not one itself" in said and f"such as {models}" in said
    (models / "one.gguf").write_bytes(b"GGUF")
    assert "a GGUF file, and other models in folders" in refused(models, text)
    shutil.copytree(model(models), "cache/snapshots/0123")
    said = refused("cache", text)
    assert "give the path of a model, such as cache/snapshots/0123" in said
    assert said.endswith(f"make new MODEL=cache/snapshots/0123 TEXT={text}")
    folder = shutil.copytree(model(models), tmp_path / "twice")
    (folder / "model.gguf").write_bytes(b"GGUF")
    assert "the weights twice" in refused(folder, text)
    assert "name its folder" in refused(model(models) / "model.safetensors", text)
    Path("bad.gguf").write_bytes(b"GGUF\x03" + bytes(99))
    write_gguf(Path("cut.gguf"), tiny_model("qwen2"))
    Path("cut.gguf").write_bytes(Path("cut.gguf").read_bytes()[:-1000])
    for name in ("bad.gguf", "cut.gguf"):
        said = refused(name, text)
        assert "not a valid GGUF file: it is damaged or cut off" in said
        assert f"found:    {name}\n" in said and "fetch the file again" in said


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"model_type": "mixtral", "num_local_experts": 8}, "a mixture of experts"),
        ({"model_type": "gpt2"}, "matrices outside of linear layers"),
        ({"model_type": None}, "names no family"),
        ({"quantization_config": {"quant_method": "gptq"}}, "the weights are quantised"),
        ({"hidden_size": -1}, "no model has this shape"),
        ({"vocab_size": 3}, "the tokenizer does not fit"),
    ],
)
def test_a_model_that_cannot_work_is_said_here(
    models: Path, tmp_path: Path, changes: dict[str, Any], said: str
) -> None:
    folder = edit_config(shutil.copytree(model(models), tmp_path / "changed"), **changes)
    assert said in refused(folder, write_lines(tmp_path))


def test_the_command_ends_with_the_plan_and_the_next_command(
    models: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    given = ["new", str(model(models)), str(write_lines(tmp_path)), "--name", "Mine!"]
    monkeypatch.setattr("sys.argv", ["freelunch", *given])
    assert main() == 0
    out = capsys.readouterr().out
    assert "The study `mine` (studies/mine.yaml): 13 cells" in out
    assert "make study STUDY=studies/mine.yaml" in out.splitlines()[-2]
    assert "named mine: a name has only lower-case letters" in out
    assert main() == 1
