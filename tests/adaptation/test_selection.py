"""Held-out text, and the choice among candidates."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from freelunch.adaptation.selection import Candidate, choose_candidate
from freelunch.core.artifact import Artifact, ArtifactWriter
from freelunch.core.errors import UserError
from freelunch.data.calibration import (
    Drawing,
    extend_calibration,
    sample_calibration,
    sample_held_out,
)
from freelunch.data.texts import KIND as TEXT
from freelunch.data.texts import read_documents
from freelunch.model.checkpoint import block_shard
from freelunch.model.token_ids import TOKENS
from freelunch.study.adaptations import Training
from freelunch.study.search import candidates_of
from tiny_models import (
    BLOCKS,
    SEED,
    Prepared,
    prepare,
    reconstruct,
    reconstruction,
    tiny_checkpoint,
    tokenizer,
)

LENGTH = 6


def text_of(folder: Path, documents: list[str]) -> Artifact:
    writer = ArtifactWriter(folder, TEXT, "test")
    lines = "".join(json.dumps({"text": document}) + "\n" for document in documents)
    writer.add_text("documents.jsonl", lines)
    return writer.finish(settings={}, origin={})


def documents(count: int) -> list[str]:
    """Return documents no two of which share a word."""
    return [" ".join(f"{number}x{word}" for word in range(8)) for number in range(count)]


@pytest.mark.parametrize("seed", range(4))
def test_held_out_text_shares_no_document_with_the_sample(tmp_path: Path, seed: int) -> None:
    model = tiny_checkpoint(tmp_path)
    text = text_of(tmp_path / "text", documents(30))
    sample = sample_calibration(model, text, 12, LENGTH, seed, tmp_path / "sample", "test")
    held_out = sample_held_out(model, text, sample, 10, tmp_path / "held_out", "test")
    encoded = [tokenizer()(document)["input_ids"] for document in read_documents(text.folder)]

    def sources(artifact: Artifact) -> set[int]:
        rows = load_file(artifact.path(TOKENS))["input_ids"].tolist()
        return {
            number
            for row in rows
            for number, tokens in enumerate(encoded)
            if any(tokens[at : at + LENGTH] == row for at in range(len(tokens)))
        }

    assert load_file(held_out.path(TOKENS))["input_ids"].shape == (10, LENGTH)
    assert sources(sample) and sources(held_out)
    assert not sources(sample) & sources(held_out)


def test_a_sample_that_leaves_nothing(tmp_path: Path) -> None:
    model = tiny_checkpoint(tmp_path)
    text = text_of(tmp_path / "text", [*documents(2), "short"])
    sample = sample_calibration(model, text, 20, LENGTH, 0, tmp_path / "sample", "test")
    with pytest.raises(UserError, match="no document is left to draw from") as error:
        sample_held_out(model, text, sample, 4, tmp_path / "held_out", "test")
    assert "2 documents that another sample has touched" in str(error.value)
    assert "select_on: evaluation" in str(error.value)


def test_a_sample_of_another_text(tmp_path: Path) -> None:
    model = tiny_checkpoint(tmp_path)
    texts = [text_of(tmp_path / f"text{number}", documents(20 + 13 * number)) for number in (0, 1)]
    sample = sample_calibration(model, texts[0], 5, LENGTH, 0, tmp_path / "sample", "test")
    with pytest.raises(UserError, match="not drawn from this text"):
        sample_held_out(model, texts[1], sample, 4, tmp_path / "held_out", "test")


def test_drawing_goes_on_where_it_stopped() -> None:
    given = documents(9)
    whole = Drawing(given, tokenizer(), LENGTH, 3, "text").draw(8)
    parts = Drawing(given, tokenizer(), LENGTH, 3, "text")
    assert torch.equal(torch.cat([parts.draw(5), parts.draw(3)]), whole)


@pytest.mark.parametrize("seed", range(4))
def test_an_extended_sample_goes_on_like_the_calibration_sample(tmp_path: Path, seed: int) -> None:
    """It begins with it, draws its documents again, and none that is held out."""
    model = tiny_checkpoint(tmp_path)
    text = text_of(tmp_path / "text", documents(30))
    sample = sample_calibration(model, text, 12, LENGTH, seed, tmp_path / "sample", "test")
    held_out = sample_held_out(model, text, sample, 10, tmp_path / "held_out", "test")

    def extended(samples: int) -> Artifact:
        folder = tmp_path / f"extended-{samples}"
        return extend_calibration(model, text, sample, held_out, samples, folder, "test")

    rows = {
        name: load_file(artifact.path(TOKENS))["input_ids"].tolist()
        for name, artifact in {
            "sample": sample,
            "held out": held_out,
            "fewer": extended(5),
            "more": extended(60),
        }.items()
    }
    assert rows["fewer"] == rows["sample"][:5]
    assert rows["more"][:12] == rows["sample"]
    assert len(rows["more"]) == 60
    encoded = [tokenizer()(document)["input_ids"] for document in read_documents(text.folder)]

    def spans(of: list[list[int]]) -> list[tuple[int, int]]:
        return [
            (number, at)
            for row in of
            for number, tokens in enumerate(encoded)
            for at in range(len(tokens))
            if tokens[at : at + LENGTH] == row
        ]

    drawn = {name: {document for document, _ in spans(of)} for name, of in rows.items()}
    assert not drawn["more"] & drawn["held out"]
    assert drawn["sample"] < drawn["more"]
    for name, artifact in (("sample", sample), ("fewer", extended(5)), ("more", extended(60))):
        covered = {
            (document, at + offset)
            for document, at in spans(rows[name])
            for offset in range(LENGTH)
        }
        assert artifact.facts["distinct_tokens"] == len(covered)
    assert extended(60).facts["calibration"] == sample.digest


# --- The choice

RATES = [0.001, 0.003, 0.01]
SEARCH = reconstruction(learning_rate=RATES, epochs=[1])


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Prepared:
    return prepare(tmp_path_factory.mktemp("llama"))


@pytest.fixture(scope="module")
def adapted(llama: Prepared, tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[Artifact]]:
    """Each candidate, by two jobs."""
    base = tmp_path_factory.mktemp("adapted")
    windows = [range(index, index + 1) for index in range(BLOCKS)]
    return {
        name: [
            reconstruct(llama, base / f"{name}-{part}", share, **settings.as_json())
            for part, share in enumerate((windows[:1], windows[1:]))
        ]
        for name, settings in candidates_of("recon", SEARCH).items()
    }


def candidates(
    adapted: dict[str, list[Artifact]],
    losses: list[float | None],
    search: Training = SEARCH,
) -> list[Candidate]:
    return [
        Candidate(
            name,
            candidates_of("recon", search)[name],
            parts,
            {"loss": loss, "perplexity": loss, "perplexity_standard_error": 1.0},
        )
        for (name, parts), loss in zip(adapted.items(), losses, strict=True)
    ]


@pytest.mark.parametrize(
    ("losses", "best"),
    [([3.0, 2.0, 2.5], 1), ([None, 9.0, None], 1), ([2.0, 2.0, 2.0], 0)],
    ids=["the lowest", "the only finite one", "the first of equals"],
)
def test_the_best_is_linked(
    adapted: dict[str, list[Artifact]], tmp_path: Path, losses: list[float | None], best: int
) -> None:
    given = candidates(adapted, losses)
    made = choose_candidate(given, SEARCH, SEED, tmp_path / "chosen", "test")
    assert sorted(made.files) == [block_shard(index) for index in range(BLOCKS)]
    for part in given[best].parts:
        for shard, entry in part.files.items():
            assert made.path(shard).stat().st_ino == part.path(shard).stat().st_ino
            assert made.files[shard]["windows"] == entry["windows"]
    choice = made.facts["choice"]
    assert choice["chosen"] == given[best].name and choice["selected_on"] == "calibration"
    rates = [found["learning_rate"] for found in choice["candidates"].values()]
    assert rates == RATES
    assert made.facts["settings"] == {"adaptation": SEARCH.as_json(), "seed": SEED}


def test_none_that_learns(adapted: dict[str, list[Artifact]], tmp_path: Path) -> None:
    given = candidates(adapted, [None, None, None])
    with pytest.raises(UserError, match="no candidate to choose") as error:
        choose_candidate(given, SEARCH, SEED, tmp_path / "chosen", "test")
    assert given[2].name in str(error.value)


def test_one_that_diverged_is_not_chosen(
    llama: Prepared, adapted: dict[str, list[Artifact]], tmp_path: Path
) -> None:
    """Its windows are as they were pruned, and may well be the best."""
    search = reconstruction(learning_rate=[0.001, 1e30], epochs=[1])
    (lower, moderate), (diverging, wild) = candidates_of("recon", search).items()
    parts = [reconstruct(llama, tmp_path / "wild", stop_at_divergence=False, **wild.as_json())]
    metrics = {"perplexity": 2.0, "perplexity_standard_error": 1.0}
    given = [
        Candidate(lower, moderate, adapted[lower], {"loss": 3.0, **metrics}),
        Candidate(diverging, wild, parts, {"loss": 2.0, **metrics}),
    ]
    choice = choose_candidate(given, search, SEED, tmp_path / "chosen", "test").facts["choice"]
    assert choice["chosen"] == lower
    diverged = {name: found["windows_diverged"] for name, found in choice["candidates"].items()}
    assert diverged == {lower: 0, diverging: BLOCKS}
    only = reconstruction(learning_rate=[1e30], epochs=[1])
    with pytest.raises(UserError, match=rf"1e\+30.epochs1: {BLOCKS} windows diverged"):
        choose_candidate(given[1:], only, SEED, tmp_path / "none", "test")


def test_a_candidate_of_another_search(adapted: dict[str, list[Artifact]], tmp_path: Path) -> None:
    other = reconstruction(learning_rate=RATES, epochs=[1], warmup=0.5)
    given = candidates(adapted, [1.0, 2.0, 3.0], other)
    with pytest.raises(UserError, match="adapted with other settings"):
        choose_candidate(given, other, SEED, tmp_path / "c", "test")
