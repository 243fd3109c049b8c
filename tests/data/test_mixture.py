"""Mixtures: their documents, what each sample draws from each part, and what is refused."""

import random
import tracemalloc
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import combinations, count, pairwise
from pathlib import Path
from typing import Any

import pytest

from freelunch.core.artifact import Artifact
from freelunch.data import mixture
from freelunch.data.documents import read_documents
from freelunch.data.mixture import RUN, PassageIndex, mix_text
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


@pytest.mark.parametrize(
    "changed",
    [
        str,
        lambda text: text.upper().replace(" ", "  "),
        lambda text: text[:600] + " and another end " + text[:-600],
        lambda text: text[300:700],
    ],
)
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


# --- What was seen before


def of_letters(name: str, count: int) -> str:
    return "".join(random.Random(name).choices("abcdefghijklmnop", k=count))


def reference(seen: list[str], document: str) -> int:
    """Compare the texts themselves, run by run."""
    runs = {each[at : at + RUN] for each in seen for at in range(0, len(each) - RUN + 1, RUN)}
    runs = {run for run in runs if len(set(run)) >= 8}
    inside = {
        place
        for at in range(len(document) - RUN + 1)
        if document[at : at + RUN] in runs
        for place in range(at, at + RUN)
    }
    return len(document) if document in seen else len(inside)


@pytest.mark.parametrize("piece", [RUN, 4 * RUN, 2**18])
@pytest.mark.parametrize("seed", range(8))
def test_what_is_repeated_is_what_the_reference_finds(
    seed: int, piece: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mixture, "_PIECE", piece)
    generator = random.Random(seed)
    sizes = [0, 3, 63, 64, 65, 127, 700]
    sources = [of_letters(f"{seed} {name}", generator.choice(sizes)) for name in "abc"]
    sources.append("x" * 150)
    beginnings = [*sources, "\u00e9\U0001f600" * 99]
    pieces = [source[generator.randrange(len(source) + 1) :] for source in beginnings]
    generator.shuffle(pieces)
    seen = PassageIndex()
    seen.add(sources[:2])
    seen.add(sources[2:])
    for document in ("".join(pieces), *pieces, *sources):
        assert seen.repeated(document) == (reference(sources, document), len(document))


def test_spaces_and_case_do_not_count() -> None:
    seen = PassageIndex()
    assert seen.repeated("any thing") == (0, 8) and seen.repeated(" ") == (0, 0)
    seen.add([" A Stra\u00dfe\n\tand\u00a0B ", "one"])
    assert seen.repeated("astrasseandb") == (12, 12) == seen.repeated("A STRASSE AND B")
    assert "ONE" in seen and "two" not in seen and seen.repeated("onetwo") == (0, 6)


def test_a_document_takes_a_few_bytes_of_memory_for_each_character() -> None:
    document = of_letters("long", 2**20) * 4
    seen = PassageIndex()
    seen.add(["something else"])
    tracemalloc.start()
    try:
        seen.add([document])
        assert tracemalloc.get_traced_memory()[1] < 10 * len(document)
        assert tracemalloc.get_traced_memory()[0] < len(document) // 4
        tracemalloc.reset_peak()
        assert seen.repeated(document[1:])[0] > len(document) - 2 * RUN
        assert tracemalloc.get_traced_memory()[1] < 10 * len(document)
    finally:
        tracemalloc.stop()


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
