"""`freelunch new`: a study of one's own model and text that needs no edit."""

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from freelunch.audit.claims import load_claims
from freelunch.cli import new as new_module
from freelunch.cli.check import check_study
from freelunch.cli.choices import adaptations_of as chosen_for
from freelunch.cli.choices import smaller_cells
from freelunch.cli.new import about_model
from freelunch.costs import capacity
from freelunch.data.inspect_model import CONVERTED, InspectedModel
from freelunch.study.families import FAMILIES as TABLE
from freelunch.study.sources import LocalText
from freelunch.study.study import Study
from new_studies import HERE, edit_config, model, new
from own_models import TEXTS, machine, write_lines
from refusals import refused as refusal
from tiny_gguf import write_gguf
from tiny_models import FAMILIES, VARIANTS, save_tiny_model, tiny_model

Said = Callable[..., str]


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
    """As BLOOM's config on the hub does; GPT-J's hidden size follows from no name that is known."""
    bloom = {"model_type": "bloom", "n_layer": 24, "n_embed": 1024, "n_head": 16}
    gptj = {"model_type": "gptj", "n_layer": 28, "n_embd": 4096, "n_head": 16}
    for config, about in ((bloom, "24 blocks, hidden size 1024"), (gptj, "unknown blocks")):
        inspected = InspectedModel({**config, "vocab_size": 100}, "bfloat16", None, gguf=False)
        assert about in about_model(inspected)
        assert ("recon_5" in chosen_for(inspected)[0]) == (config is bloom)


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


# --- What is chosen


def test_the_file_says_what_was_chosen_and_why(models: Path, tmp_path: Path) -> None:
    study = new(model(models), write_lines(tmp_path))
    lines = Path(study.source).read_text().splitlines()
    assert len(lines) < 70 and max(map(len, lines)) <= 120
    for said in (
        "llama, 3 blocks, hidden size 16",
        "64 documents are longer than 64 tokens",
        "windows of different documents are independent",
        "calibration has seen parts of this text",
        "To settle a claim, add `seeds: [0, 1, 2]` to the grids",
        "tuned for SmolLM2-135M",
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
    monkeypatch.setattr(capacity, "lacking_disk", lambda plan: None)
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
        assert adaptations_of(study) >= set(settings.get("methods", []))


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
