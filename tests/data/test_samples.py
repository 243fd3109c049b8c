"""Samples of a text: the calibration sample, what is held out of it, and what goes beyond it."""

import random
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from freelunch.core.artifact import Artifact
from freelunch.core.artifact_writer import ArtifactWriter
from freelunch.data.documents import TOKEN_IDS
from freelunch.data.inspect_text import Amounts
from freelunch.data.models import fetch_model
from freelunch.data.samples import GRAM, Span, distinct_tokens, read_spans, sample_text
from freelunch.data.texts import fetch_text
from freelunch.model.token_ids import read_tokens
from freelunch.study.cell import derive_seed
from freelunch.study.steps import READY_TOKENS
from freelunch.study.study import Study
from refusals import refused
from repository import ROOT
from tiny_models import tiny_checkpoint, tokenizer
from token_jobs import job_of, text_of

LENGTH = 6
Rows = list[list[int]]


@dataclass
class Samples:
    """The samples of a text, each in a folder of its own below `base`."""

    base: Path
    model: Artifact
    text: Artifact

    def calibration(self, samples: int, length: int = LENGTH, seed: int = 0) -> Artifact:
        job = job_of(self.model, self.text, self.base / "sample")
        return sample_text(job, {"samples": samples, "length": length, "seed": seed})

    def held_out(self, sample: Artifact, samples: int, measured: int = 0) -> Artifact:
        job = job_of(self.model, self.text, self.base / "held_out", sample)
        return sample_text(job, {"samples": samples, "measured": measured})

    def extended(self, sample: Artifact, held_out: Artifact | None, samples: int) -> Artifact:
        folder = self.base / f"extended-{samples}"
        job = job_of(self.model, self.text, folder, sample, held_out)
        return sample_text(job, {"samples": samples})


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    return tiny_checkpoint(tmp_path_factory.mktemp("model"))


def samples_of(base: Path, model: Artifact, texts: list[str]) -> Samples:
    return Samples(base, model, text_of(base / "text", texts))


def documents(count: int) -> list[str]:
    """Return documents no two of which share a word."""
    return [" ".join(f"{number}x{word}" for word in range(8)) for number in range(count)]


def rows_of(sample: Artifact) -> Rows:
    rows: Rows = read_tokens(sample).tolist()
    return rows


def encoded(texts: Iterable[str]) -> Rows:
    return [tokenizer()(document)["input_ids"] for document in texts]


def draw_all(
    texts: list[str], length: int, seed: int, counts: tuple[int, int, int]
) -> tuple[Rows, Rows, Rows]:
    """Draw the three samples in one go: slow, and nothing but one stream of random numbers."""
    generator, tokens_of = random.Random(derive_seed(seed, "calibration")), encoded(texts)
    sets: list[Rows] = []
    left_out: set[int] = set()
    for count in counts:
        rows: Rows = []
        drawn: set[int] = set()
        while len(rows) < count:
            index = generator.randrange(len(tokens_of))
            tokens = tokens_of[index]
            if len(tokens) > length and index not in left_out:
                start = generator.randrange(len(tokens) - length + 1)
                rows.append(tokens[start : start + length])
                drawn.add(index)
        sets.append(rows)
        left_out = drawn
    calibration, held_out, more = sets
    return calibration, held_out, more


def covered(spans: Iterable[Span], length: int) -> set[Span]:
    """Return the document and the place of each token that sequences of a length cover."""
    return {(document, at + offset) for document, at in spans for offset in range(length)}


def grams_of(rows: Rows) -> set[tuple[int, ...]]:
    """Return the different runs of 13 tokens of a sample."""
    return {tuple(row[at : at + GRAM]) for row in rows for at in range(len(row) - GRAM + 1)}


@pytest.mark.parametrize("seed", range(4))
def test_three_artifacts_hold_one_stream_of_draws(
    tmp_path: Path, model: Artifact, seed: int
) -> None:
    """Each sample goes on where the one before stopped, without drawing it again."""
    words = random.Random(seed)
    vocabulary = ["cat", "shells", "window", "7x", "zq"]
    texts = [" ".join(words.choices(vocabulary, k=words.randrange(1, 40))) for _ in range(50)]
    samples = samples_of(tmp_path, model, texts)
    sample = samples.calibration(8, seed=seed)
    held_out = samples.held_out(sample, 5)
    fewer, extended = (samples.extended(sample, held_out, count) for count in (5, 30))
    calibration, reserved, more = draw_all(texts, LENGTH, seed, (8, 5, 22))
    assert rows_of(sample) == calibration and rows_of(fewer) == calibration[:5]
    assert rows_of(held_out) == reserved
    assert rows_of(extended) == calibration + more
    assert extended.facts["calibration"] == sample.digest
    assert extended.facts["held_out"] == held_out.digest
    for each, spans in ((sample, read_spans(sample)), (fewer, read_spans(sample)[:5])):
        assert each.facts["distinct_tokens"] == len(covered(spans, LENGTH))
    # Planning predicts how many documents a sample leaves.
    amounts = Amounts([len(tokens) for tokens in encoded(texts)], exact=True)
    touched = {document for document, _ in read_spans(sample)}
    assert amounts.left_after(8, LENGTH, seed) == amounts.longer_than(LENGTH) - len(touched)


def test_token_ids_are_those_of_earlier_versions(tmp_path: Path, model: Artifact) -> None:
    """Digests of what was drawn when each sample was made by drawing those before it again."""
    words = random.Random(0)
    vocabulary = ["cat", "sat", "shells", "window", "dense", "7x", "8y", "z"]
    texts = [
        " ".join(words.choice(vocabulary) for _ in range(words.randrange(1, 60))) for _ in range(40)
    ]
    samples = samples_of(tmp_path, model, texts)
    sample = samples.calibration(6, 9)
    held_out = samples.held_out(sample, 5)
    extended = samples.extended(sample, held_out, 40)
    assert [each.facts["tokens_sha256"][:16] for each in (sample, held_out, extended)] == [
        "ef226ec60cee45ab",
        "422ffd16cd5f9460",
        "1c5283221e0eeccb",
    ]
    assert [each.facts["distinct_tokens"] for each in (sample, extended)] == [54, 324]
    # Their order decides the digest of the manifest, and so what runs again.
    first, last = ["settings"], ["model", "text"]
    assert list(sample.facts) == [*first, "distinct_tokens", *last, "tokens_sha256"]
    assert list(held_out.facts) == [*first, *last, "calibration", "tokens_sha256"]
    made_from = [*last, "calibration", "held_out"]
    assert list(extended.facts) == [*first, "distinct_tokens", *made_from, "tokens_sha256"]


def test_samples_share_no_document_and_no_13_tokens(tmp_path: Path, model: Artifact) -> None:
    """Documents repeat each other's sentences; what is measured is apart from all else."""
    words, vocabulary = random.Random(0), ["cat", "sat", "shells", "window", "7x", "8y", "z"]
    sentences = [" ".join(words.choices(vocabulary, k=12)) for _ in range(25)]
    texts = [" ".join(words.sample(sentences, 3)) for _ in range(60)]
    samples = samples_of(tmp_path, model, texts)
    sample = samples.calibration(4, 20)
    held_out = samples.held_out(sample, 4, 3)
    extended = samples.extended(sample, held_out, 30)
    rows, spans = rows_of(held_out), read_spans(held_out)
    assert len(rows) == 7 and held_out.facts["settings"]["measured"] == 3
    parts = [(rows_of(sample), read_spans(sample)), (rows[:4], spans[:4]), (rows[4:], spans[4:])]
    for (one, its_spans), (other, other_spans) in combinations(parts, 2):
        assert not grams_of(one) & grams_of(other)
        assert not {document for document, _ in its_spans} & {each for each, _ in other_spans}
    assert not grams_of(rows_of(extended)) & grams_of(rows)
    plain = draw_all(texts, 20, 0, (4, 7, 26))
    assert parts[0][0] == plain[0] and rows != plain[1], "nothing was ever refused"


def test_texts_that_do_not_suffice(tmp_path: Path, model: Artifact) -> None:
    repeating = samples_of(tmp_path / "repeating", model, ["the cat sat " * 20] * 9)
    with refused(where=repeating.text.folder, found="13 tokens in a row"):
        repeating.held_out(repeating.calibration(2, 20), 4)
    few = samples_of(tmp_path / "few", model, [*documents(2), "short"])
    with refused(where=few.text.folder, found="2 documents", todo="select_on: evaluation"):
        few.held_out(few.calibration(20), 4)
    short = samples_of(tmp_path / "short", model, ["a", "a b c"])
    longest = max(map(len, encoded(["a", "a b c"])))
    with refused(where=short.text.folder, found=f"{longest} tokens", expected="length = 100"):
        short.calibration(2, 100)


def test_a_sample_of_another_text(tmp_path: Path, model: Artifact) -> None:
    one, other = (samples_of(tmp_path / str(count), model, documents(count)) for count in (20, 33))
    sample, others = one.calibration(5), other.calibration(5)
    with refused(where=sample.folder, found=one.text.digest):
        other.held_out(sample, 4)
    held_out = other.held_out(others, 4)
    with refused(where=held_out.folder, found=others.digest):
        one.extended(sample, held_out, 9)


@pytest.mark.long  # It downloads the model, 90 MB, for its tokenizer.
def test_the_samples_of_the_kept_study_are_apart(tmp_path: Path) -> None:
    """Five documents stand twice in the file of C4. Drawn from it as it stood, a sample of seed 0
    had 6,943 different tokens, noted as 7,672, and shared runs of 13 tokens with held-out text.
    """
    study = Study.load(Path("studies/full.yaml"), ROOT)
    model = fetch_model("", study.config.models["smollm2-135m"], tmp_path / "model", "test")
    text = fetch_text("", study.config.texts["c4"], tmp_path / "text", "test")
    assert (text.facts["documents"], text.facts["duplicates"]) == (113, 5)
    for seed, distinct in ((0, 7_696), (1, 8_192), (2, 7_113)):
        samples = Samples(tmp_path / str(seed), model, text)
        sample = samples.calibration(study.calibration.samples, study.calibration.length, seed)
        held_out = samples.held_out(sample, 0, study.drift.samples)
        assert read_tokens(sample).shape == (32, 256)
        assert read_tokens(held_out).shape == (study.drift.samples, 256)
        assert sample.facts["distinct_tokens"] == distinct
        assert not grams_of(rows_of(sample)) & grams_of(rows_of(held_out))


def test_ready_token_ids_are_taken_as_they_are(tmp_path: Path, model: Artifact) -> None:
    ids = torch.arange(12).reshape(3, 4)
    ids[2] = ids[0]
    writer = ArtifactWriter(tmp_path / "ready", READY_TOKENS, "test")
    writer.add(TOKEN_IDS, lambda path: save_file({"input_ids": ids}, path))
    samples = Samples(tmp_path, model, writer.finish(settings={}, origin={}))
    sample = samples.calibration(3, 4)
    assert rows_of(sample) == ids.tolist()
    assert sample.facts["distinct_tokens"] == 8, "two of the three sequences are equal"
    fewer = samples.extended(sample, None, 1)
    assert rows_of(fewer) == ids[:1].tolist() and fewer.facts["distinct_tokens"] == 4
    with refused(where=samples.text.folder, found="(3, 4)", expected="(3, 5)"):
        samples.calibration(3, 5)
    with refused(found="tokens", expected="text"):
        samples.held_out(sample, 2)


@pytest.mark.parametrize(
    ("spans", "tokens"),
    [([], 0), ([(0, 3)], 4), ([(0, 3), (0, 3)], 4), ([(0, 3), (0, 5)], 6), ([(0, 3), (1, 3)], 8)],
)
def test_overlaps_count_once(spans: list[Span], tokens: int) -> None:
    assert distinct_tokens(reversed(spans), 4) == tokens
