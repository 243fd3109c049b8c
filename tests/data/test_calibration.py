"""Samples of a text: the calibration sample, what is held out of it, and what goes beyond it."""

import json
import random
from collections.abc import Iterable
from itertools import combinations
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from freelunch.core.artifact import Artifact
from freelunch.core.artifact_writer import ArtifactWriter
from freelunch.core.errors import UserError
from freelunch.data.calibration import extend_calibration, sample_calibration, sample_held_out
from freelunch.data.documents import TOKEN_IDS, read_documents
from freelunch.data.drawing import Drawing, distinct_tokens, read_spans
from freelunch.data.text_amounts import Amounts
from freelunch.data.texts import fetch_text
from freelunch.model.token_ids import TOKENS
from freelunch.study.cell import derive_seed
from freelunch.study.sources import read_text
from freelunch.study.steps import DOCUMENTS, READY_TOKENS, TEXT
from tiny_models import tiny_checkpoint, tokenizer

LENGTH = 6
Rows = list[list[int]]


def text_of(folder: Path, documents: list[str]) -> Artifact:
    writer = ArtifactWriter(folder, TEXT, "test")
    lines = "".join(json.dumps({"text": document}) + "\n" for document in documents)
    writer.add_text(DOCUMENTS, lines)
    return writer.finish(settings={}, origin={})


def documents(count: int) -> list[str]:
    """Return documents no two of which share a word."""
    return [" ".join(f"{number}x{word}" for word in range(8)) for number in range(count)]


def rows_of(artifact: Artifact) -> Rows:
    rows: Rows = load_file(artifact.path(TOKENS))["input_ids"].tolist()
    return rows


def draw_all(
    texts: list[str], length: int, seed: int, counts: tuple[int, int, int]
) -> tuple[Rows, Rows, Rows]:
    """Draw the three samples in one go: slow, and nothing but one stream of random numbers."""
    encoded = [tokenizer()(document)["input_ids"] for document in texts]
    generator = random.Random(derive_seed(seed, "calibration"))
    sets: list[Rows] = []
    left_out: set[int] = set()
    for count in counts:
        rows: Rows = []
        drawn: set[int] = set()
        while len(rows) < count:
            index = generator.randrange(len(encoded))
            tokens = encoded[index]
            if len(tokens) > length and index not in left_out:
                start = generator.randrange(len(tokens) - length + 1)
                rows.append(tokens[start : start + length])
                drawn.add(index)
        sets.append(rows)
        left_out = drawn
    calibration, held_out, more = sets
    return calibration, held_out, more


@pytest.mark.parametrize("seed", range(6))
def test_three_artifacts_hold_one_stream_of_draws(tmp_path: Path, seed: int) -> None:
    """Each sample goes on where the one before stopped, without drawing it again."""
    words = random.Random(seed)
    texts = [
        " ".join(words.choices(["cat", "shells", "window", "7x", "zq"], k=words.randrange(1, 40)))
        for _ in range(50)
    ]
    model, text = tiny_checkpoint(tmp_path), text_of(tmp_path / "text", texts)
    sample = sample_calibration(model, text, 8, LENGTH, seed, tmp_path / "sample", "test")
    held_out = sample_held_out(model, text, sample, 5, 0, tmp_path / "held_out", "test")
    extended = extend_calibration(model, text, sample, held_out, 30, tmp_path / "more", "test")
    calibration, reserved, more = draw_all(texts, LENGTH, seed, (8, 5, 22))
    assert rows_of(sample) == calibration
    assert rows_of(held_out) == reserved
    assert rows_of(extended) == calibration + more


def test_token_ids_are_those_of_earlier_versions(tmp_path: Path) -> None:
    """Digests of what was drawn when each sample was made by drawing those before it again."""
    words = random.Random(0)
    vocabulary = ["cat", "sat", "shells", "window", "dense", "7x", "8y", "z"]
    model = tiny_checkpoint(tmp_path)
    texts = [
        " ".join(words.choice(vocabulary) for _ in range(words.randrange(1, 60))) for _ in range(40)
    ]
    text = text_of(tmp_path / "text", texts)
    sample = sample_calibration(model, text, 6, 9, 0, tmp_path / "sample", "test")
    held_out = sample_held_out(model, text, sample, 5, 0, tmp_path / "held_out", "test")
    extended = extend_calibration(model, text, sample, held_out, 40, tmp_path / "more", "test")
    assert [each.facts["tokens_sha256"][:16] for each in (sample, held_out, extended)] == [
        "ef226ec60cee45ab",
        "422ffd16cd5f9460",
        "1c5283221e0eeccb",
    ]
    assert [each.facts["distinct_tokens"] for each in (sample, extended)] == [54, 324]


@pytest.mark.parametrize("seed", range(4))
def test_held_out_text_shares_no_document_with_the_sample(tmp_path: Path, seed: int) -> None:
    model = tiny_checkpoint(tmp_path)
    text = text_of(tmp_path / "text", documents(30))
    sample = sample_calibration(model, text, 12, LENGTH, seed, tmp_path / "sample", "test")
    held_out = sample_held_out(model, text, sample, 10, 0, tmp_path / "held_out", "test")
    encoded = [tokenizer()(document)["input_ids"] for document in read_documents(text.folder)]

    def sources(artifact: Artifact) -> set[int]:
        return {
            number
            for row in rows_of(artifact)
            for number, tokens in enumerate(encoded)
            if any(tokens[at : at + LENGTH] == row for at in range(len(tokens)))
        }

    assert len(rows_of(held_out)) == 10
    assert sources(sample) == {document for document, _ in read_spans(sample)}
    assert sources(held_out) == {document for document, _ in read_spans(held_out)}
    assert not sources(sample) & sources(held_out)


def test_a_text_in_which_documents_stand_twice(tmp_path: Path) -> None:
    """Each counts once, and no other copy of it is held out. Beside it, what a drawing finds that
    takes the text as it stands.
    """
    once = documents(12)
    lines = [*once, *once[:5]]
    source, length, counts = tmp_path / "lines.txt", 20, (9, 6)
    source.write_text("\n".join(lines))
    entry = read_text({"source": "path", "path": str(source), "format": "lines"})
    text = fetch_text("lines", entry, tmp_path / "fetched", "test")
    model = tiny_checkpoint(tmp_path)
    sample = sample_calibration(model, text, counts[0], length, 1, tmp_path / "sample", "test")
    held_out = sample_held_out(model, text, sample, counts[1], 0, tmp_path / "held_out", "test")
    assert (text.facts["documents"], text.facts["duplicates"]) == (12, 5)
    assert sample.facts["distinct_tokens"] == len(covered(read_spans(sample), length)) == 139
    assert shared_grams(rows_of(sample), rows_of(held_out)) == (0, 44)

    raw = text_of(tmp_path / "raw", lines)
    twice = sample_calibration(model, raw, counts[0], length, 1, tmp_path / "twice", "test")
    by_content = covered([(document % 12, start) for document, start in read_spans(twice)], length)
    assert (twice.facts["distinct_tokens"], len(by_content)) == (160, 142)
    calibration, reserved, _ = draw_all(lines, length, 1, (*counts, 0))
    assert shared_grams(calibration, reserved) == (7, 40)


def covered(spans: Iterable[tuple[int, int]], length: int) -> set[tuple[int, int]]:
    """Return the document and the place of each token that sequences of a length cover."""
    return {(document, at + offset) for document, at in spans for offset in range(length)}


def shared_grams(one: Rows, other: Rows) -> tuple[int, int]:
    """Return how many different runs of 13 tokens of one sample are also in another, and how many
    the other has in all.
    """
    drawn, measured = (
        {tuple(row[at : at + 13]) for row in rows for at in range(len(row) - 12)}
        for rows in (one, other)
    )
    return len(drawn & measured), len(measured)


def test_samples_share_no_document_and_no_13_tokens(tmp_path: Path) -> None:
    """Documents repeat each other's sentences; what is measured is apart from all else."""
    words, vocabulary = random.Random(0), ["cat", "sat", "shells", "window", "7x", "8y", "z"]
    sentences = [" ".join(words.choices(vocabulary, k=12)) for _ in range(25)]
    texts = [" ".join(words.sample(sentences, 3)) for _ in range(60)]
    model, text = tiny_checkpoint(tmp_path), text_of(tmp_path / "text", texts)
    sample = sample_calibration(model, text, 4, 20, 0, tmp_path / "sample", "test")
    held_out = sample_held_out(model, text, sample, 4, 3, tmp_path / "held_out", "test")
    extended = extend_calibration(model, text, sample, held_out, 30, tmp_path / "more", "test")
    rows = rows_of(held_out)
    assert len(rows) == 7 and held_out.facts["settings"]["measured"] == 3

    spans = read_spans(held_out)
    parts = [rows_of(sample), rows[:4], rows[4:]]
    documents = [
        {document for document, _ in each} for each in (read_spans(sample), spans[:4], spans[4:])
    ]
    for one, other in combinations(range(3), 2):
        assert shared_grams(parts[one], parts[other])[0] == 0
        assert not documents[one] & documents[other]
    assert shared_grams(rows_of(extended), rows)[0] == 0
    plain = draw_all(texts, 20, 0, (4, 7, 26))
    assert parts[0] == plain[0] and rows != plain[1], "nothing was ever refused"


def test_text_that_only_repeats_itself(tmp_path: Path) -> None:
    model, text = tiny_checkpoint(tmp_path), text_of(tmp_path / "text", ["the cat sat " * 20] * 9)
    sample = sample_calibration(model, text, 2, 20, 0, tmp_path / "sample", "test")
    with pytest.raises(UserError, match="no sequence is left that is apart") as error:
        sample_held_out(model, text, sample, 4, 0, tmp_path / "held_out", "test")
    assert "13 tokens in a row" in str(error.value)


def test_a_sample_that_leaves_nothing(tmp_path: Path) -> None:
    model = tiny_checkpoint(tmp_path)
    text = text_of(tmp_path / "text", [*documents(2), "short"])
    sample = sample_calibration(model, text, 20, LENGTH, 0, tmp_path / "sample", "test")
    with pytest.raises(UserError, match="no document is left to draw from") as error:
        sample_held_out(model, text, sample, 4, 0, tmp_path / "held_out", "test")
    assert "2 documents that another sample has touched" in str(error.value)
    assert "select_on: evaluation" in str(error.value)


def test_a_text_of_short_documents(tmp_path: Path) -> None:
    model, text = tiny_checkpoint(tmp_path), text_of(tmp_path / "text", ["a", "a b c"])
    longest = max(len(tokenizer()(each)["input_ids"]) for each in ("a", "a b c"))
    with pytest.raises(UserError, match="no document is longer") as error:
        sample_calibration(model, text, 2, 100, 0, tmp_path / "sample", "test")
    assert f"the longest document has {longest} tokens" in str(error.value)


def test_a_sample_of_another_text(tmp_path: Path) -> None:
    model = tiny_checkpoint(tmp_path)
    texts = [text_of(tmp_path / f"text{number}", documents(20 + 13 * number)) for number in (0, 1)]
    sample, other = (
        sample_calibration(model, text, 5, LENGTH, 0, tmp_path / f"sample{number}", "test")
        for number, text in enumerate(texts)
    )
    with pytest.raises(UserError, match="made from a different artifact: text"):
        sample_held_out(model, texts[1], sample, 4, 0, tmp_path / "held_out", "test")
    held_out = sample_held_out(model, texts[1], other, 4, 0, tmp_path / "held_out", "test")
    with pytest.raises(UserError, match="made from a different artifact: calibration"):
        extend_calibration(model, texts[0], sample, held_out, 9, tmp_path / "more", "test")


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
    held_out = sample_held_out(model, text, sample, 10, 0, tmp_path / "held_out", "test")

    def extended(samples: int) -> Artifact:
        folder = tmp_path / f"extended-{samples}"
        return extend_calibration(model, text, sample, held_out, samples, folder, "test")

    artifacts = {"sample": sample, "held out": held_out, "fewer": extended(5), "more": extended(60)}
    rows = {name: rows_of(artifact) for name, artifact in artifacts.items()}
    assert rows["fewer"] == rows["sample"][:5]
    assert rows["more"][:12] == rows["sample"]
    assert len(rows["more"]) == 60
    encoded = [tokenizer()(document)["input_ids"] for document in read_documents(text.folder)]

    def spans(of: Rows) -> list[tuple[int, int]]:
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
    for name in ("sample", "fewer", "more"):
        tokens = covered(spans(rows[name]), LENGTH)
        assert artifacts[name].facts["distinct_tokens"] == len(tokens)
    assert artifacts["more"].facts["calibration"] == sample.digest
    assert artifacts["more"].facts["held_out"] == held_out.digest


def test_ready_token_ids_are_taken_as_they_are(tmp_path: Path) -> None:
    ids = torch.arange(12).reshape(3, 4)
    ids[2] = ids[0]
    writer = ArtifactWriter(tmp_path / "ready", READY_TOKENS, "test")
    writer.add(TOKEN_IDS, lambda path: save_file({"input_ids": ids}, path))
    ready, model = writer.finish(settings={}, origin={}), tiny_checkpoint(tmp_path)
    sample = sample_calibration(model, ready, 3, 4, 0, tmp_path / "sample", "test")
    assert rows_of(sample) == ids.tolist()
    assert sample.facts["distinct_tokens"] == 8, "two of the three sequences are equal"
    fewer = extend_calibration(model, ready, sample, None, 1, tmp_path / "fewer", "test")
    assert rows_of(fewer) == ids[:1].tolist() and fewer.facts["distinct_tokens"] == 4
    with pytest.raises(UserError, match="another shape") as error:
        sample_calibration(model, ready, 3, 5, 0, tmp_path / "other", "test")
    assert "found:    (3, 4)" in str(error.value) and "expected: (3, 5)" in str(error.value)
    with pytest.raises(UserError, match="wrong kind of folder"):
        sample_held_out(model, ready, sample, 2, 0, tmp_path / "held_out", "test")


@pytest.mark.parametrize(
    ("spans", "tokens"),
    [([], 0), ([(0, 3)], 4), ([(0, 3), (0, 3)], 4), ([(0, 3), (0, 5)], 6), ([(0, 3), (1, 3)], 8)],
)
def test_overlaps_count_once(spans: list[tuple[int, int]], tokens: int) -> None:
    assert distinct_tokens(reversed(spans), 4) == tokens


@pytest.mark.parametrize("seed", range(4))
def test_planning_knows_how_many_documents_a_sample_leaves(tmp_path: Path, seed: int) -> None:
    words = random.Random(seed)
    texts = [" ".join(words.choices("abcde", k=words.randrange(1, 40))) for _ in range(20)]
    model, text = tiny_checkpoint(tmp_path), text_of(tmp_path / "text", texts)
    sample = sample_calibration(model, text, 8, LENGTH, seed, tmp_path / "sample", "test")
    amounts = Amounts([len(tokenizer()(each)["input_ids"]) for each in texts], exact=True)
    touched = {document for document, _ in read_spans(sample)}
    assert len(touched) < 8
    assert amounts.left_after(8, LENGTH, seed) == amounts.longer_than(LENGTH) - len(touched)
