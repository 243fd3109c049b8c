"""How sequences begin: what decides it, and the token ids, beside those of transformers."""

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from lm_eval.models.huggingface import HFLM
from tokenizers import Tokenizer
from tokenizers.processors import TemplateProcessing
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerFast

from freelunch.core.artifact import Artifact
from freelunch.data.mixture import mix_text
from freelunch.data.mixture_drawing import sample_mixture
from freelunch.data.samples import read_spans, sample_text
from freelunch.data.text_windows import cut_windows, text_windows
from freelunch.evaluation.bos import CLEAR, begins, bos_windows, decide_bos
from freelunch.evaluation.tasks import PackedLM
from freelunch.model.checkpoint import StreamedModel
from freelunch.model.token_ids import read_tokens
from freelunch.study.beginnings import decided_text
from freelunch.study.steps import JOINED
from refusals import refused
from tiny_models import FAMILIES, fetch_tiny_model, save_tiny_model, tokenizer
from token_jobs import job_of, text_of

TOKEN, BOS, LENGTH = "<|end|>", 0, 12
NONE, PLAIN, ADDING = "no such token", "does not add it", "adds it"
DOCUMENTS = [" ".join(f"{n}x{word} the cat" for word in range(8)) for n in range(20)]


def model_of(base: Path, kind: str, family: str = "llama", **changes: Any) -> Artifact:
    """Return a tiny model whose tokenizer begins a text with the token, or only has it, or not."""
    source = save_tiny_model(base / "source", family, **changes)
    if kind != NONE:
        own = Tokenizer.from_str(tokenizer().backend_tokenizer.to_str())
        if kind == ADDING:
            own.post_processor = TemplateProcessing(f"{TOKEN} $A", special_tokens=[(TOKEN, BOS)])
        fast = PreTrainedTokenizerFast(tokenizer_object=own, bos_token=TOKEN, eos_token=TOKEN)
        fast.save_pretrained(source)
    return fetch_tiny_model(source, base / "checkpoint")


@pytest.fixture(scope="module", params=[PLAIN, ADDING])
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    return model_of(tmp_path_factory.mktemp("model"), request.param)


@pytest.fixture
def text(tmp_path: Path) -> Artifact:
    return text_of(tmp_path / "text", DOCUMENTS)


def decide(model: Artifact, text: Artifact, base: Path, setting: str = "auto") -> Artifact:
    scratch = base / "scratch"
    shutil.rmtree(scratch, ignore_errors=True)
    scratch.mkdir()
    streamed = StreamedModel(model.folder)
    return decide_bos(streamed, text, setting, LENGTH, base / setting, setting, scratch)


# --- What decides


@pytest.mark.parametrize("habit", [True, False])
@pytest.mark.parametrize(
    ("difference", "error", "decided"),
    [
        (-0.3, 0.1, True),
        (0.3, 0.1, False),
        (CLEAR * 0.1, 0.1, None),
        (-CLEAR * 0.1, 0.1, None),
        (0.0, 0.0, None),
        (0.3, None, None),
        (None, None, None),
    ],
)
def test_a_clear_difference_decides_and_otherwise_the_tokenizers_habit(
    habit: bool, difference: float | None, error: float | None, decided: bool | None
) -> None:
    assert begins(habit, difference, error) is (habit if decided is None else decided)


@pytest.mark.parametrize(
    ("seed", "kind", "used"),
    [(2, PLAIN, True), (20, ADDING, False), (0, PLAIN, False), (0, ADDING, True)],
)
def test_losses_are_those_of_transformers(
    seed: int, kind: str, used: bool, text: Artifact, tmp_path: Path
) -> None:
    """The model of seed 2 is clearly better with the token, that of seed 20 without; of seed 0, the
    difference is not clear."""
    model = model_of(tmp_path, kind, seed=seed)
    made = decide(model, text, tmp_path)
    theirs = AutoModelForCausalLM.from_pretrained(model.folder, dtype=torch.float32)
    losses = []
    for begin in ([], [BOS]):
        windows = bos_windows(text, AutoTokenizer.from_pretrained(model.folder), LENGTH)
        windows[:, : len(begin)] = BOS
        with torch.no_grad():
            each = [float(theirs(row[None], labels=row[None]).loss) for row in windows]
        losses.append(torch.tensor(each, dtype=torch.float64))
    without, behind = losses
    found = made.facts["bos"]
    assert found["loss_without"] == pytest.approx(float(without.mean()), abs=1e-5)
    assert found["loss_with"] == pytest.approx(float(behind.mean()), abs=1e-5)
    error = float((behind - without).std()) / 4
    assert found["standard_error"] == pytest.approx(error, abs=1e-5)
    assert found["added_by_tokenizer"] is (kind == ADDING) and found["token"] == TOKEN
    assert found["used"] is used and made.facts["token_id"] == (BOS if used else None)
    assert (f"begin with `{TOKEN}`" in decided_text(found)) is used
    # The setting decides; what it costs is measured all the same.
    for setting in ("always", "never"):
        other = decide(model, text, tmp_path, setting)
        expected = {**found, "setting": setting, "used": setting == "always"}
        assert other.facts["bos"] == expected and other.facts["settings"] == {"bos": setting}


def test_a_tokenizer_without_the_token(text: Artifact, tmp_path: Path) -> None:
    model = model_of(tmp_path, NONE)
    for setting in ("auto", "never"):
        made = decide(model, text, tmp_path, setting)
        assert made.facts["token_id"] is None and not made.facts["sequences"], "nothing is measured"
    with refused(where=model.folder, found="no bos_token in", todo="remove `bos`"):
        decide(model, text, tmp_path, "always")


# --- Token ids


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("bos", [BOS, None])
def test_samples_have_the_token_ids_of_transformers(
    family: str, bos: int | None, tmp_path: Path
) -> None:
    """Also `never` of a tokenizer that begins a text with the token, and the last sequences, which
    continue those before."""
    model, text = model_of(tmp_path, ADDING, family), text_of(tmp_path / "text", DOCUMENTS)
    theirs = AutoTokenizer.from_pretrained(model.folder)

    def made(name: str, settings: dict[str, int], *earlier: Artifact) -> Artifact:
        return sample_text(job_of(model, text, tmp_path / name, *earlier, bos=bos), settings)

    sample = made("sample", {"samples": 4, "length": LENGTH, "seed": 0})
    held_out = made("held_out", {"samples": 2, "measured": 2}, sample)
    extended = made("extended", {"samples": 6}, sample, held_out)
    assert read_tokens(extended)[:4].equal(read_tokens(sample))
    assert bos is None or (read_tokens(extended)[:, 0] == BOS).all()
    for each in (sample, held_out):
        for row, (document, start) in zip(read_tokens(each), read_spans(each), strict=True):
            # What transformers gives a document, and its own token at the beginning.
            ids = theirs(DOCUMENTS[document])["input_ids"]
            assert ids[0] == BOS
            expected = ids[1:][start : start + LENGTH]
            assert row.tolist() == ([BOS, *expected[1:]] if bos is not None else expected)
            assert bos is not None or BOS not in row


def test_the_same_tokens_are_scored(model: Artifact, text: Artifact) -> None:
    (plain, facts), (begun, others) = (
        text_windows(model, text, LENGTH, 8, bos=bos) for bos in (None, BOS)
    )
    assert (begun[:, 0] == BOS).all() and BOS not in plain
    assert plain[:, 1:].equal(begun[:, 1:]) and facts == others


def test_joined_windows_are_those_of_published_numbers(model: Artifact, text: Artifact) -> None:
    found, _ = text_windows(model, text, LENGTH, None, cut=JOINED, bos=BOS)
    ids = AutoTokenizer.from_pretrained(model.folder)("\n\n".join(DOCUMENTS))["input_ids"]
    assert found.flatten().tolist() == ids[: found.numel()]


def test_sequences_of_a_mixture(model: Artifact, text: Artifact, tmp_path: Path) -> None:
    parts = {name: text_of(tmp_path / name, DOCUMENTS[at::2]) for at, name in enumerate("ab")}
    shares = {name: {"share": 0.5} for name in parts}
    settings = {"source": "mixture", "evaluation_text": "refuse", "held_out": 0.2, "parts": shares}
    mixed = mix_text("mixed", settings, parts, tmp_path / "mixed", "test")
    other = text_of(tmp_path / "other", ["she sells sea shells by the sea shore"] * 2)
    windows = cut_windows(job_of(model, other, tmp_path / "cut"), {"length": 6, "windows": 2})
    drawn = []
    for bos in (None, BOS):
        job = job_of(model, mixed, tmp_path / f"sample-{bos}", bos=bos)
        asked = {"samples": 6, "length": LENGTH, "seed": 0}
        drawn.append(read_tokens(sample_mixture(job, other, windows, asked)))
    assert drawn[0][:, 1:].equal(drawn[1][:, 1:]) and (drawn[1][:, 0] == BOS).all()
    assert BOS not in drawn[0]


def test_prompts_of_tasks_are_those_of_lm_eval(model: Artifact) -> None:
    theirs = HFLM(
        pretrained=AutoModelForCausalLM.from_pretrained(model.folder),
        tokenizer=AutoTokenizer.from_pretrained(model.folder),
    )
    for bos, adds in ((BOS, True), (None, False)):
        lm = PackedLM(StreamedModel(model.folder), bos)
        theirs.add_bos_token = adds
        for prompt in ("the cat", f"{TOKEN}the cat"):
            found, plain = lm.tok_encode(prompt), lm.tokenizer.encode("the cat")[-2:]
            assert found[-len(plain) :] == plain and found.count(BOS) == (adds or TOKEN in prompt)
            if lm.tokenizer.encode("a")[0] == BOS:
                assert found == theirs.tok_encode(prompt)
        context, continuation = lm._encode_pair("the cat", " sat")
        assert continuation == lm.tok_encode(" sat", False) and context == lm.tok_encode("the cat")
