"""`freelunch check`: what a run would refuse later is refused before it, if small files show it."""

import json
from collections import namedtuple
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from artifacts import write_facts
from freelunch.cli import check
from freelunch.cli.check import check_study
from freelunch.core.errors import UserError
from freelunch.costs import checks
from freelunch.data import inspect_model
from freelunch.data.inspect_text import Amounts
from freelunch.data.samples import Drawing
from freelunch.study.paths import Paths
from freelunch.study.study import Study
from own_models import DOCUMENTS, machine, write_lines
from records_for_tests import make_records, write_records
from tiny_models import save_tiny_model, tokenizer

Change = Callable[[dict[str, Any]], object]


@pytest.fixture
def config(tmp_path: Path) -> dict[str, Any]:
    """A study of a model and a text that are both there."""
    save_tiny_model(tmp_path / "model")
    write_lines(tmp_path)
    return {
        "models": {"mine": {"source": "path", "path": "model"}},
        "texts": {"notes": {"source": "path", "path": "notes.txt", "format": "lines"}},
        "criteria": {"wanda": {"score": "wanda"}},
        "adaptations": {"recon_block": {"method": "reconstruction"}},
        "study": {
            "name": "mine",
            "calibration": {"text": "notes", "samples": 8, "length": 32},
            "evaluation": {
                "perplexity": {"text": "notes", "length": 32, "windows": 8},
                "drift": {"samples": 4},
            },
            "grids": [
                {
                    "models": ["mine"],
                    "criteria": ["wanda"],
                    "patterns": ["u50"],
                    "adaptations": ["none", "recon_block"],
                }
            ],
        },
    }


def said(config: dict[str, Any], memory: float = 16) -> str:
    Path("mine.yaml").write_text(yaml.safe_dump(config))
    return check_study(Study.load(Path("mine.yaml")), machine(memory=memory), fetches=True)


def refused(config: dict[str, Any], memory: float = 16) -> str:
    with pytest.raises(UserError) as caught:
        said(config, memory)
    return str(caught.value)


def test_all_is_well(config: dict[str, Any]) -> None:
    assert said(config).startswith("mine.yaml: all is well (settings, files and texts, memory")


@pytest.mark.parametrize("token", [None, "<|end|>", {"__type": "AddedToken", "content": "<|end|>"}])
def test_how_sequences_begin(config: dict[str, Any], token: object) -> None:
    file = Path("model/tokenizer_config.json")
    file.write_text(json.dumps({**json.loads(file.read_text()), "bos_token": token}))
    config["models"]["mine"]["bos"] = "always"
    if token is None:
        assert "models.mine.bos: " in refused(config) and "no bos_token" in refused(config)
        config["models"]["mine"]["bos"] = "never"
        assert "mine: `bos: never`, the tokenizer has no beginning-of-sequence" in said(config)
    else:
        assert "`bos: always`, the tokenizer does not begin a text with `<|end|>`" in said(config)


def test_terms_that_are_not_an_open_licence_are_told(config: dict[str, Any]) -> None:
    config["models"]["mine"]["terms"] = "TERMS.html"
    assert "; mine: not under an open licence, see TERMS.html" in said(config)


def test_repeated_documents_count_once(config: dict[str, Any]) -> None:
    """As in the text that is fetched."""
    Path("notes.txt").write_text("\n".join(DOCUMENTS[:2] * 40) + "\n")
    config["study"]["evaluation"]["perplexity"]["windows"] = 40
    assert "there is too little text" in refused(config)


def mix(config: dict[str, Any], few: list[str]) -> None:
    """Calibrate on a few documents and on `notes`."""
    Path("few.txt").write_text("\n".join(few) + "\n")
    config["texts"]["few"] = {"source": "path", "path": "few.txt", "format": "lines"}
    parts = {"few": 0.25, "notes": 0.75}
    mixed = {"source": "mixture", "parts": parts, "evaluation_text": "leave_out"}
    config["texts"]["mixed"] = mixed
    config["study"]["calibration"]["text"] = "mixed"


def test_a_part_of_a_mixture_that_is_too_short(config: dict[str, Any]) -> None:
    mix(config, [" ".join(reversed(each.split())) for each in DOCUMENTS[:8]])
    assert "all is well" in said(config)
    config["adaptations"]["recon_block"]["samples"] = 400
    message = refused(config)
    assert "texts.mixed.parts.few: found 400 sequences of 32 tokens, which need 3," in message
    assert "parts.notes" not in message


# --- Models


def _pickle(model: Path) -> None:
    (model / "model.safetensors").rename(model / "pytorch_model.bin")


def _cut(model: Path) -> None:
    whole = (model / "model.safetensors").read_bytes()
    (model / "model.safetensors").write_bytes(whole[:-100])


def _pointer(model: Path) -> None:
    pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n"
    (model / "model.safetensors").write_text(pointer)


def _edited(**changes: Any) -> Callable[[Path], None]:
    def edit(model: Path) -> None:
        path = model / "config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | changes))

    return edit


@pytest.mark.parametrize(
    ("damage", "problem"),
    [
        (lambda model: (model / "tokenizer.json").unlink(), "there is no tokenizer"),
        (lambda model: (model / "tokenizer.json").write_text("{}"), "tokenizer cannot be read"),
        (lambda model: (model / "config.json").unlink(), "there is no config.json"),
        (lambda model: (model / "config.json").write_text("{"), "not valid JSON"),
        (_pickle, "never pickle"),
        (lambda model: (model / "model.safetensors").unlink(), "there are no weights"),
        (_cut, "not a complete safetensors file"),
        (_pointer, "git lfs pull"),
        (
            _edited(vocab_size=400),
            "another shape or kind of numbers than the model's",
        ),
        (_edited(num_hidden_layers=9), "lacks tensors of its own architecture"),
        (_edited(num_hidden_layers=1), "the weights have more blocks than the config says"),
        (_edited(hidden_act="evil"), "cannot build a causal language model from this config"),
        (_edited(model_type="evil"), "transformers cannot read this model's config"),
        (_edited(rope_theta=float("inf")), "no model has this number"),
        (lambda model: (model / "generation_config.json").write_text("{"), "is not valid JSON"),
        (_edited(dtype="int8"), "no dtype that can be used"),
        (_edited(max_position_embeddings=16), "at most 16, since the model mine"),
        (_edited(model_type="mamba"), "state-space"),
    ],
)
def test_a_model_that_the_run_would_refuse(
    config: dict[str, Any], damage: Callable[[Path], object], problem: str
) -> None:
    damage(Path("model"))
    assert problem in refused(config)


def test_the_checks_of_fetching_need_no_torch_here(
    config: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(check, "check_as_fetched", inspect_model.check_as_fetched)
    assert "all is well" in said(config)
    _edited(num_key_value_heads=1)(Path("model"))
    message = refused(config)
    assert "k_proj.weight: a tensor has another shape" in message


# --- Texts


def _set(*keys: str, **values: Any) -> Change:
    """Return a change of the settings below some keys of a config."""

    def change(config: dict[str, Any]) -> None:
        block = config
        for key in keys:
            block = block[key]
        block.update(values)

    return change


def _token_ids(config: dict[str, Any], path: str) -> None:
    config["texts"]["ids"] = {"source": "tokens", "path": path}
    config["study"]["calibration"]["text"] = "ids"
    del config["study"]["evaluation"]["drift"]


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (_set("models", "mine", path="model/model.safetensors"), "name the folder"),
        (_set("texts", "notes", path="model"), "this is JSON"),
        (_set("texts", "notes", format="jsonl"), "not valid JSON"),
        (
            _set("study", "evaluation", "perplexity", windows=900),
            "study.evaluation.perplexity: found 900 sequences of 32 tokens, which need 28,800",
        ),
        (
            _set("study", "calibration", samples=900),
            "study.calibration.samples: found 900 sequences of 32 tokens",
        ),
        (
            _set("adaptations", "recon_block", budget={"tokens": 320_000}),
            "adaptations.recon_block: found 10,000 sequences of 32 tokens",
        ),
        (lambda config: _token_ids(config, "model"), "texts.ids.path: this must be one file"),
    ],
)
def test_a_file_or_a_text_that_the_run_would_refuse(
    config: dict[str, Any], change: Change, problem: str
) -> None:
    change(config)
    assert problem in refused(config)


def test_a_task_that_lm_eval_does_not_have(config: dict[str, Any]) -> None:
    entry = {"source": "path", "path": "notes.txt", "format": "jsonl", "documents": 4}
    config["tasks"] = {"foo": entry}
    config["study"]["evaluation"]["tasks"] = {"names": ["foo"]}
    config["study"]["grids"][0]["tasks"] = True
    assert "tasks.foo: lm-eval has no such task" in refused(config)


@pytest.mark.parametrize("seed", range(4))
def test_what_calibration_touches_is_predicted_as_it_is_drawn(seed: int) -> None:
    amounts = Amounts.of(DOCUMENTS[:20], tokenizer().backend_tokenizer)
    drawing = Drawing(DOCUMENTS[:20], tokenizer(), 64, seed, "text")
    drawing.draw(16)
    touched = {document for document, _ in drawing.spans}
    assert amounts.exact and amounts.left_after(16, 64, seed) == 20 - len(touched)


def test_a_text_that_another_study_fetched_under_the_same_name(config: dict[str, Any]) -> None:
    config["texts"]["notes"] = {
        **{"source": "hub", "repository": "team/notes", "revision": 40 * "1"},
        **{"member": "notes.txt", "format": "lines"},
    }
    Path("mine.yaml").write_text(yaml.safe_dump(config))
    study = Study.load(Path("mine.yaml"))
    fetched, settings = Paths.text("notes"), study.text_settings("notes")
    fetched.mkdir(parents=True)
    (fetched / "documents.jsonl").write_text('{"text": "short"}\n')
    write_facts(fetched, settings={**settings, "revision": 40 * "0"}, characters=5)
    said = check_study(study, None, fetches=False)
    assert "all is well" in said and "still to be downloaded: notes" in said
    write_facts(fetched, settings=settings, characters=5)
    with pytest.raises(UserError):
        check_study(study, None, fetches=False)


# --- The machine


def test_a_study_that_does_not_fit_into_memory(config: dict[str, Any]) -> None:
    assert "recon_block of mine does not fit: needs" in refused(config, memory=0.1)
    # Not asked about a machine elsewhere.
    assert "all is well (settings, files and texts;" in check_study(
        Study.load(Path("mine.yaml")), None, fetches=False
    )


def test_a_study_that_does_not_fit_on_the_disk(
    config: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(checks.shutil, "disk_usage", lambda folder: usage(1, 1, 1000))
    problem = refused(config)
    assert "more on disk, but" in problem and "has only 0 MB free" in problem
    # Logs and figures need room even if the disk has all that the jobs make.
    whole = Path("resources/models/.mine.downloads/commit/whole.safetensors")
    whole.parent.mkdir(parents=True)
    with whole.open("wb") as file:
        file.truncate(10**12)
    assert "more on disk, but" in refused(config)
    whole.unlink()
    monkeypatch.setattr(checks.shutil, "disk_usage", lambda folder: usage(1, 1, 10**8))
    # What a fetch that was stopped has on the disk already is not needed once more.
    part = Path("resources/models/.mine.downloads/commit/model.safetensors")
    with part.open("wb") as file:
        file.truncate(10**9)
    assert "all is well" in said(config)


def test_a_finished_study_needs_no_room(config: dict[str, Any]) -> None:
    """But one that was edited since does."""
    Path("mine.yaml").write_text(yaml.safe_dump(config))
    study = Study.load(Path("mine.yaml"))
    write_records(study, make_records(study, {}))
    assert "all is well" in said(config, memory=0.1)
    dense = study.paths.record(study.cells[0])
    whole = dense.read_text()
    dense.write_text(whole.replace(":", ";", 1))
    assert "does not fit this machine" in refused(config, memory=0.1)
    dense.write_text(whole)
    config["study"]["selection"] = {"samples": 3}
    assert "does not fit this machine" in refused(config, memory=0.1)
