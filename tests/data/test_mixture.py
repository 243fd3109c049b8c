"""Mixtures: their documents, what each sample draws from each part, and what is refused."""

import random
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import combinations, count, pairwise
from pathlib import Path
from typing import Any

import pytest

from freelunch.core.artifact import Artifact
from freelunch.data.documents import read_documents
from freelunch.data.mixture import mix_text
from freelunch.data.mixture_drawing import (
    MEASURED,
    SELECTION,
    TRAINING,
    MixtureDrawing,
    sample_mixture,
)
from freelunch.data.samples import grams
from freelunch.data.text_windows import cut_windows
from freelunch.model.token_ids import read_tokens
from refusals import refused
from tiny_models import tiny_checkpoint
from token_jobs import job_of, text_of

LENGTH = 16
SHARES = {"a": 0.5, "b": 0.3, "c": 0.2}
HALVES = {"a": 0.5, "b": 0.5}
USES = (TRAINING, SELECTION, MEASURED)


def documents(name: str, count: int, words: int = 60) -> list[str]:
    """Return documents of random words, no two alike."""
    generator = random.Random(name)
    return [" ".join(generator.choices("abcdefghij", k=words)) for _ in range(count)]


def parts_of(count: int) -> dict[str, list[str]]:
    return {name: documents(name, count) for name in SHARES}


@dataclass
class Mixtures:
    """Mixtures in folders of their own, drawn from beside one evaluation text and its windows."""

    base: Path
    model: Artifact
    evaluation: Artifact
    windows: Artifact
    _numbers: count = field(default_factory=count)

    def mix(
        self, parts: dict[str, list[str]], shares: dict[str, float] = SHARES, **settings: Any
    ) -> Artifact:
        base = self.base / str(next(self._numbers))
        texts = {name: text_of(base / name, part) for name, part in parts.items()}
        complete = {
            "source": "mixture",
            "evaluation_text": "refuse",
            "held_out": 0.2,
            "parts": {name: {"share": share} for name, share in shares.items()},
            **settings,
        }
        return mix_text("mixed", complete, texts, base / "mixed", "test")

    def draw(self, text: Artifact, seed: int = 0) -> MixtureDrawing:
        job = job_of(self.model, text, self.base)
        return MixtureDrawing(job, self.evaluation, self.windows, LENGTH, seed)

    def sample(
        self,
        text: Artifact,
        samples: int,
        calibration: Artifact | None = None,
        most: int = 0,
        **more: int,
    ) -> Artifact:
        folder = self.base / "-".join(["sample", str(samples), *more])
        settings = {"samples": samples, "length": LENGTH, "seed": 0, **more}
        job = job_of(self.model, text, folder, calibration)
        return sample_mixture(job, self.evaluation, self.windows, settings, most)


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> tuple[Artifact, Artifact, Artifact]:
    """A model, the evaluation text, and its windows."""
    base = tmp_path_factory.mktemp("shared")
    model, text = tiny_checkpoint(base), text_of(base / "text", documents("evaluation", 8))
    job = job_of(model, text, base / "windows")
    return model, text, cut_windows(job, {"length": LENGTH, "windows": 4})


@pytest.fixture
def mixtures(shared: tuple[Artifact, Artifact, Artifact], tmp_path: Path) -> Mixtures:
    return Mixtures(tmp_path, *shared)


# --- Mixing


def test_a_mixture_holds_each_document_once_in_the_order_of_its_parts(mixtures: Mixtures) -> None:
    """Documents of different parts are compared without regard to spaces and case."""
    own = ["one", "two", "Two", "three" * 30, "four" * 30]
    parts = {"a": [*own, "two"], "b": [" TWO\n", "five" * 30, "six" * 30, "", "six" * 30]}
    text = mixtures.mix(parts, HALVES)
    assert read_documents(text.folder) == [*own, "five" * 30, "six" * 30]
    facts = {part["name"]: part for part in text.facts["parts"]}
    assert [facts[name]["documents"] for name in "ab"] == [5, 2]
    assert [facts[name]["duplicates"] for name in "ab"] == [1, 2]
    assert text.facts["characters"] == sum(map(len, read_documents(text.folder)))
    assert text.facts["documents"] == 7 and text.facts["duplicates"] == 3
    assert set(text.facts["origin"]["files"]) == {"a/documents.jsonl", "b/documents.jsonl"}


@pytest.mark.parametrize("changed", [str, lambda text: text.upper().replace(" ", "  ")])
def test_parts_that_overlap(changed: Callable[[str], str], mixtures: Mixtures) -> None:
    shared = documents("shared", 20, 500)
    parts = {"a": shared, "b": [*documents("own", 20, 500), *map(changed, shared[:10])]}
    with refused(where="texts.mixed.parts.b", found="in 10 of its 30 documents", expected="10%"):
        mixtures.mix(parts, HALVES)
    assert not list(mixtures.base.rglob("mixed/manifest.json"))


def test_a_tenth_of_a_part_may_be_in_any_part_before_it(mixtures: Mixtures) -> None:
    shared = documents("shared", 1)
    parts = {"a": shared, "b": documents("b", 3), "c": [*shared, *documents("c", 12)]}
    facts = mixtures.mix(parts).facts["parts"]
    assert [part["duplicates"] for part in facts] == [0, 0, 1]
    with refused(where="texts.mixed.parts.c", found="12.5%"):
        mixtures.mix({**parts, "c": parts["c"][:8]})


# --- Drawing


def test_every_sample_has_the_shares(mixtures: Mixtures) -> None:
    drawing = mixtures.draw(mixtures.mix(parts_of(40)))
    rows = drawing.draw(TRAINING, 60).tolist()
    part_of = {
        tuple(drawing.tokens[index][at : at + LENGTH]): part.name
        for part in drawing.parts
        for index, at in part.spans[TRAINING]
    }
    for number in (1, 7, 32, 60):
        assert drawing.draw(TRAINING, number).tolist() == rows[:number]
        drawn = Counter(part_of[tuple(row)] for row in rows[:number])
        for name, share in SHARES.items():
            assert abs(drawn[name] - share * number) <= 1, (name, number)
    spans = [span for part in drawing.parts for use in USES for span in part.spans[use]]
    covered = Counter((index, at + offset) for index, at in spans for offset in range(LENGTH))
    assert covered and set(covered.values()) == {1}, "a token is drawn twice"


def test_samples_share_no_document_and_no_13_tokens(mixtures: Mixtures) -> None:
    """Documents repeat each other's sentences."""
    generator = random.Random(0)
    sentences = documents("sentences", 40, words=14)
    parts = {name: [" ".join(generator.sample(sentences, 4)) for _ in range(40)] for name in "ab"}
    drawing = mixtures.draw(mixtures.mix(parts, HALVES, held_out=0.4))
    spans = {use: [span for part in drawing.parts for span in part.spans[use]] for use in USES}
    indices = {use: {index for index, _ in spans[use]} for use in USES}
    rows = {use: [drawing.tokens[index][at:][:LENGTH] for index, at in spans[use]] for use in USES}
    runs = {use: {gram for row in rows[use] for gram in grams(row)} for use in USES}
    assert all(runs.values())
    for one, other in combinations(USES, 2):
        assert not indices[one] & indices[other] and not runs[one] & runs[other]
    assert sum(part.facts["repeating"] for part in drawing.parts) > 0, "nothing was ever refused"


def test_evaluation_text_is_left_out_or_refused(mixtures: Mixtures) -> None:
    texts = read_documents(mixtures.evaluation.folder)
    used = mixtures.windows.facts["documents"]
    parts = parts_of(12)
    # A document of the evaluation, and another that holds a piece of its window.
    parts["b"] = [*parts["b"][:-2], texts[used[0]], parts["b"][-1] + " " + texts[used[1]]]
    drawing = mixtures.draw(mixtures.mix(parts, evaluation_text="leave_out"))
    left_out = {part.name: part.facts["evaluation_documents"] for part in drawing.parts}
    assert left_out == {"a": 0, "b": 2, "c": 0}
    spans = [span for part in drawing.parts for use in USES for span in part.spans[use]]
    assert not {drawing.documents[index] for index, _ in spans} & set(parts["b"][-2:])
    with refused(where="texts.mixed.parts.b", found="% of its tokens, in 2 documents") as error:
        mixtures.draw(mixtures.mix(parts))
    # Two of twelve, one of them twice as long.
    share = float(str(error.value.found).partition("%")[0])
    assert share == pytest.approx(100 * 3 / 13, abs=2)
    # The evaluation text may be a part: only what its windows lie in is left out.
    parts = {"a": documents("a", 12), "b": texts}
    facts = mixtures.draw(mixtures.mix(parts, HALVES, evaluation_text="leave_out")).parts[1].facts
    assert facts["evaluation_documents"] == len(set(used)) == 4
    assert facts["documents"] == 4


def test_a_seed_divides_the_documents_and_places_and_orders_their_sequences(
    mixtures: Mixtures,
) -> None:
    """A fifth of 40 documents is held out, half of it for each use."""
    text = mixtures.mix(parts_of(40))
    drawings = [mixtures.draw(text, seed) for seed in (0, 0, 1)]
    rows = [drawing.draw(TRAINING, 20).tolist() for drawing in drawings]
    assert rows[0] == rows[1] != rows[2]
    one, _, other = (drawing.parts[0].spans for drawing in drawings)
    counts = {use: len({index for index, _ in one[use]}) for use in one}
    assert counts == {SELECTION: 4, MEASURED: 4, TRAINING: 32}
    assert {index for index, _ in one[MEASURED]} != {index for index, _ in other[MEASURED]}
    # Sequences of one document do not follow each other.
    order = [index for index, _ in one[TRAINING]]
    assert sum(a != b for a, b in pairwise(order)) >= len({*order})
    starts = [{index: at % LENGTH for index, at in spans[TRAINING]} for spans in (one, other)]
    assert any(starts[0].values())
    common = starts[0].keys() & starts[1].keys()
    assert any(starts[0][index] != starts[1][index] for index in common)


def test_documents_of_a_part_that_are_drawn_from(mixtures: Mixtures) -> None:
    """All that are longer than a sequence, which at least three have to be."""
    text = mixtures.mix({**parts_of(9), "a": [*documents("a", 9, words=18), "short"]})
    facts = mixtures.draw(text).parts[0].facts
    assert (facts["documents"], facts["short_documents"]) == (9, 1)
    text = mixtures.mix({**parts_of(9), "a": [*documents("a", 2), "short"]})
    with refused(where="texts.mixed.parts.a", found="2 documents of more than 16", expected="3"):
        mixtures.draw(text)


# --- Samples


def test_the_samples_of_a_study(mixtures: Mixtures) -> None:
    """Cells are never measured on what chose among their candidates."""
    text = mixtures.mix(parts_of(40))
    sample = mixtures.sample(text, 8, most=60)
    more = mixtures.sample(text, 60, sample)
    held_out = mixtures.sample(text, 4, sample, measured=3)
    assert read_tokens(more)[:8].tolist() == read_tokens(sample).tolist()
    assert more.facts["distinct_tokens"] == 60 * LENGTH
    assert more.facts["calibration"] == held_out.facts["calibration"] == sample.digest
    drawing, rows = mixtures.draw(text), read_tokens(held_out).tolist()
    assert rows[:4] == drawing.draw(SELECTION, 4).tolist()
    assert rows[4:] == drawing.draw(MEASURED, 3).tolist()
    part = sample.facts["parts"]["a"]
    assert part["share"] == 0.5 and part["documents"] == 40 and part["tokens"] > 40 * LENGTH
    # Their order decides the digest of the manifest, and so what runs again.
    made_from = ["settings", "parts", "model", "text", "windows"]
    assert list(sample.facts) == [*made_from, "distinct_tokens", "tokens_sha256"]
    assert list(held_out.facts) == [*made_from, "calibration", "tokens_sha256"]


def test_samples_that_are_refused(mixtures: Mixtures) -> None:
    text = mixtures.mix({**parts_of(40), "c": documents("c", 5)})
    mixtures.sample(text, 8, most=30)
    needed = f"60 sequences, {60 * LENGTH:,} tokens: 0.2 of the 300 sequences"
    with refused(where="texts.mixed.parts.c", expected=needed, todo="smaller share"):
        mixtures.sample(text, 8, most=300)
    with refused(where="texts.mixed.parts", todo="raise `held_out`"):
        mixtures.sample(text, 900, measured=0)
    sample = mixtures.sample(text, 8, most=30)
    with refused(where=sample.folder, found=text.digest):
        mixtures.sample(mixtures.mix(parts_of(9)), 8, sample)
