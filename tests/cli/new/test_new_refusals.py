"""What `freelunch new` refuses: one clear error, before anything is written."""

import bz2
import csv
import gzip
import io
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from freelunch.cli.check import check_study
from freelunch.cli.main import main
from freelunch.core.errors import UserError
from freelunch.study.sources import LocalText
from freelunch.study.study import Study
from new_studies import HERE, edit_config, model, new, refused
from own_models import DOCUMENTS, write_lines
from tiny_gguf import write_gguf
from tiny_models import tiny_model


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


@pytest.mark.parametrize("name", ["notes.csv", "My notes.TSV", "notes.csv.gz", "notes.csv.bz2"])
def test_a_table_is_refused_with_the_command_that_converts_it(models: Path, name: str) -> None:
    """Its separators and other columns would otherwise be read as text."""
    rows = io.StringIO()
    delimiter = "\t" if "TSV" in name else ","
    writer = csv.writer(rows, delimiter=delimiter)
    writer.writerow(["id", "story"])
    writer.writerows(enumerate(f'"{text}",\nand so on' for text in DOCUMENTS))
    content = rows.getvalue().encode()
    pack = {".gz": gzip.compress, ".bz2": bz2.compress}.get(Path(name).suffix, bytes)
    Path(name).write_bytes(pack(content))
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
        check_study(Study.load(path), HERE, fetches=True)


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
