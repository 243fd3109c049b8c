"""Mixtures: their documents, what each sample draws from each part, and what is refused."""

import json
import random
from collections import Counter
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from freelunch.core.artifact import Artifact
from freelunch.core.artifact_writer import ArtifactWriter
from freelunch.core.errors import UserError
from freelunch.data.documents import read_documents
from freelunch.data.mixture import mix_text
from freelunch.data.mixture_drawing import MEASURED, SELECTION, TRAINING, MixtureDrawing, grams
from freelunch.data.mixture_samples import sample_mixture
from freelunch.data.text_windows import cut_windows
from freelunch.model.token_ids import read_tokens
from freelunch.study.steps import DOCUMENTS, TEXT
from tiny_models import tiny_checkpoint

LENGTH = 16
SHARES = {"a": 0.5, "b": 0.3, "c": 0.2}
CUT = {"length": LENGTH, "windows": 4}


def documents(name: str, count: int, words: int = 60) -> list[str]:
    """Return documents of random words, no two alike."""
    generator = random.Random(name)
    return [" ".join(generator.choices("abcdefghij", k=words)) for _ in range(count)]


def text_of(folder: Path, given: list[str]) -> Artifact:
    writer = ArtifactWriter(folder, TEXT, "test")
    writer.add_text(DOCUMENTS, "".join(json.dumps({"text": each}) + "\n" for each in given))
    return writer.finish(settings={}, origin={"files": {}})


def mixed(
    base: Path, parts: dict[str, list[str]], shares: dict[str, float] = SHARES, **settings: Any
) -> Artifact:
    """Mix texts of these documents."""
    texts = {name: text_of(base / name, given) for name, given in parts.items()}
    complete = {
        "source": "mixture",
        "evaluation_text": "refuse",
        "held_out": 0.2,
        "parts": {name: {"share": share} for name, share in shares.items()},
        **settings,
    }
    return mix_text("mixed", complete, texts, base / "mixed", "test")


def parts_of(count: int) -> dict[str, list[str]]:
    return {name: documents(name, count) for name in SHARES}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    return tiny_checkpoint(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def evaluation(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    return text_of(tmp_path_factory.mktemp("evaluation") / "text", documents("evaluation", 8))


@pytest.fixture(scope="module")
def windows(
    model: Artifact, evaluation: Artifact, tmp_path_factory: pytest.TempPathFactory
) -> Artifact:
    return cut_windows(model, evaluation, CUT, tmp_path_factory.mktemp("windows") / "cut", "test")


@pytest.fixture
def inputs(model: Artifact, evaluation: Artifact, windows: Artifact) -> dict[str, Artifact]:
    return {"model": model, "evaluation": evaluation, "windows": windows}


def drawing_of(inputs: dict[str, Artifact], text: Artifact, seed: int = 0) -> MixtureDrawing:
    return MixtureDrawing.of(text=text, length=LENGTH, seed=seed, **inputs)


# --- Mixing


def test_a_mixture_holds_each_document_once_in_the_order_of_its_parts(tmp_path: Path) -> None:
    parts = {"a": ["one", "two", "three" * 30], "b": ["two", "four" * 30, "", "five", "five"]}
    text = mixed(tmp_path, parts, {"a": 0.5, "b": 0.5})
    assert read_documents(text.folder) == ["one", "two", "three" * 30, "four" * 30, "five"]
    facts = {part["name"]: part for part in text.facts["parts"]}
    assert [facts[name]["documents"] for name in "ab"] == [3, 2]
    assert [facts[name]["duplicates"] for name in "ab"] == [0, 2]
    assert text.facts["characters"] == sum(map(len, read_documents(text.folder)))
    assert text.facts["documents"] == 5 and text.facts["duplicates"] == 2
    assert set(text.facts["origin"]["files"]) == {"a/documents.jsonl", "b/documents.jsonl"}


def test_parts_that_overlap(tmp_path: Path) -> None:
    shared = documents("shared", 2)
    parts = {"a": shared, "b": [*shared, *documents("own", 2)]}
    with pytest.raises(UserError, match="the parts of the mixture overlap") as error:
        mixed(tmp_path, parts, {"a": 0.5, "b": 0.5})
    message = str(error.value)
    assert (
        "texts.mixed.parts.b" in message
        and "50.0% of its characters, in 2 of its 4 documents" in message
    )
    assert not (tmp_path / "mixed" / "manifest.json").exists()


@pytest.mark.parametrize(
    "changed",
    [
        lambda text: text + "\n",
        lambda text: text.upper().replace(" ", "  "),
        lambda text: "Another beginning. " + text,
        lambda text: text[:600] + " and another end " + text[:-600],
        lambda text: text[300:700],
    ],
)
def test_parts_that_overlap_in_changed_documents(
    changed: Callable[[str], str], tmp_path: Path
) -> None:
    shared = documents("shared", 20, 500)
    parts = {"a": shared, "b": [*documents("own", 20, 500), *map(changed, shared[:10])]}
    with pytest.raises(UserError, match="the parts of the mixture overlap") as error:
        mixed(tmp_path, parts, {"a": 0.5, "b": 0.5})
    assert "in 10 of its 30 documents" in str(error.value)


def test_a_document_of_an_earlier_part_is_dropped_whatever_its_spaces_and_case(
    tmp_path: Path,
) -> None:
    own = [*documents("own", 10), "One", "one"]
    parts = {"a": [*own, own[0]], "b": [*documents("b", 10), f" {own[1].upper()}\n"]}
    text = mixed(tmp_path, parts, {"a": 0.5, "b": 0.5})
    assert read_documents(text.folder) == [*own, *documents("b", 10)]
    assert [part["duplicates"] for part in text.facts["parts"]] == [1, 1]


# --- Drawing


def test_every_sample_has_the_shares(inputs: dict[str, Artifact], tmp_path: Path) -> None:
    text = mixed(tmp_path, parts_of(40))
    drawing = drawing_of(inputs, text)
    spans = {part.name: part.spans[TRAINING] for part in drawing.parts}
    whole = drawing.draw(TRAINING, 60).tolist()
    row_of = {
        tuple(drawing._tokens[index][at : at + LENGTH]): name
        for name, each in spans.items()
        for index, at in each
    }
    for count in (1, 7, 32, 60):
        assert drawing.draw(TRAINING, count).tolist() == whole[:count]
        found = Counter(row_of[tuple(row)] for row in whole[:count])
        for name, share in SHARES.items():
            assert abs(found[name] - share * count) <= 1, (name, count)


def test_no_token_is_drawn_twice(inputs: dict[str, Artifact], tmp_path: Path) -> None:
    drawing = drawing_of(inputs, mixed(tmp_path, parts_of(40)))
    covered = Counter(
        (index, at + offset)
        for part in drawing.parts
        for use in (TRAINING, SELECTION, MEASURED)
        for index, at in part.spans[use]
        for offset in range(LENGTH)
    )
    assert covered and set(covered.values()) == {1}


def test_a_seed_decides_what_is_drawn(inputs: dict[str, Artifact], tmp_path: Path) -> None:
    text = mixed(tmp_path, parts_of(40))
    first, again, other = (drawing_of(inputs, text, seed).draw(TRAINING, 20) for seed in (0, 0, 1))
    assert first.tolist() == again.tolist() != other.tolist()


def test_samples_share_no_document_and_no_13_tokens(
    inputs: dict[str, Artifact], tmp_path: Path
) -> None:
    """Documents repeat each other's sentences."""
    generator = random.Random(0)
    sentences = documents("sentences", 40, words=14)
    parts = {name: [" ".join(generator.sample(sentences, 4)) for _ in range(40)] for name in "ab"}
    drawing = drawing_of(inputs, mixed(tmp_path, parts, {"a": 0.5, "b": 0.5}, held_out=0.4))
    uses = (TRAINING, SELECTION, MEASURED)
    spans = {use: [span for part in drawing.parts for span in part.spans[use]] for use in uses}
    indices = [{index for index, _ in spans[use]} for use in uses]
    assert not indices[0] & indices[1] and not indices[0] & indices[2]
    assert not indices[1] & indices[2]
    found = [
        {
            gram
            for index, at in spans[use]
            for gram in grams(drawing._tokens[index][at : at + LENGTH])
        }
        for use in uses
    ]
    assert all(found)
    assert not found[0] & found[1] and not found[0] & found[2] and not found[1] & found[2]
    assert sum(part.facts["repeating"] for part in drawing.parts) > 0, "nothing was ever refused"


def test_evaluation_text_is_refused_with_its_share(
    inputs: dict[str, Artifact], windows: Artifact, evaluation: Artifact, tmp_path: Path
) -> None:
    used = [read_documents(evaluation.folder)[index] for index in windows.facts["documents"]]
    parts = parts_of(12)
    # A document of the evaluation, and another that holds a piece of its window.
    parts["b"] = [*parts["b"][:-2], used[0], parts["b"][-1] + " " + used[1]]
    drawing = drawing_of(inputs, mixed(tmp_path / "1", parts, evaluation_text="leave_out"))
    left_out = {part.name: part.facts["evaluation_documents"] for part in drawing.parts}
    assert left_out == {"a": 0, "b": 2, "c": 0}
    drawn = {
        drawing._documents[index]
        for part in drawing.parts
        for use in (TRAINING, SELECTION, MEASURED)
        for index, _ in part.spans[use]
    }
    assert not drawn & set(parts["b"][-2:])
    with pytest.raises(UserError, match="holds evaluation text") as error:
        drawing_of(inputs, mixed(tmp_path / "2", parts))
    message = str(error.value)
    assert "texts.mixed.parts.b" in message and "% of its tokens, in 2 documents" in message
    share = float(message.partition("found:")[2].partition("%")[0])
    # Two of twelve, one of them twice as long.
    assert share == pytest.approx(100 * 3 / 13, abs=2)


def test_documents_that_the_evaluation_does_not_use_stay(
    inputs: dict[str, Artifact], windows: Artifact, evaluation: Artifact, tmp_path: Path
) -> None:
    """The evaluation text may be a part: only what its windows lie in is left out."""
    parts = {"a": documents("a", 12), "b": read_documents(evaluation.folder)}
    text = mixed(tmp_path, parts, {"a": 0.5, "b": 0.5}, evaluation_text="leave_out")
    of_b = drawing_of(inputs, text).parts[1].facts
    assert of_b["evaluation_documents"] == len(set(windows.facts["documents"])) == 4
    assert of_b["documents"] == 4


# --- Samples


def sampled(
    inputs: dict[str, Artifact],
    text: Artifact,
    folder: Path,
    samples: int,
    calibration: Artifact | None = None,
    most: int = 0,
    **settings: int,
) -> Artifact:
    complete = {"samples": samples, "length": LENGTH, "seed": 0, **settings}
    return sample_mixture(
        text=text,
        settings=complete,
        folder=folder,
        fingerprint="test",
        calibration=calibration,
        most=most,
        **inputs,
    )


def test_the_samples_of_a_study(inputs: dict[str, Artifact], tmp_path: Path) -> None:
    text = mixed(tmp_path, parts_of(40))
    sample = sampled(inputs, text, tmp_path / "sample", 8, most=60)
    more = sampled(inputs, text, tmp_path / "more", 60, sample)
    held_out = sampled(inputs, text, tmp_path / "held_out", 4, sample, measured=3)
    assert read_tokens(more)[:8].tolist() == read_tokens(sample).tolist()
    assert more.facts["distinct_tokens"] == 60 * LENGTH
    assert more.facts["calibration"] == held_out.facts["calibration"] == sample.digest
    assert read_tokens(held_out).shape == (7, LENGTH)
    other = sampled(inputs, text, tmp_path / "other", 5, sample, measured=0)
    assert read_tokens(other)[:4].tolist() == read_tokens(held_out)[:4].tolist()
    of_a = sample.facts["parts"]["a"]
    assert of_a["share"] == 0.5 and of_a["documents"] == 40 and of_a["tokens"] > 40 * LENGTH


def test_a_part_that_is_too_short_for_the_largest_sample(
    inputs: dict[str, Artifact], tmp_path: Path
) -> None:
    text = mixed(tmp_path, {**parts_of(40), "c": documents("c", 5)})
    sampled(inputs, text, tmp_path / "sample", 8, most=30)
    with pytest.raises(UserError, match="a part of the mixture is too short") as error:
        sampled(inputs, text, tmp_path / "sample", 8, most=300)
    message = str(error.value)
    assert "texts.mixed.parts.c" in message
    assert f"60 sequences, {60 * LENGTH:,} tokens: 0.2 of the 300 sequences" in message
    with pytest.raises(UserError, match="raise `held_out`"):
        sampled(inputs, text, tmp_path / "held_out", 900, measured=0)


def test_a_part_with_too_few_documents(inputs: dict[str, Artifact], tmp_path: Path) -> None:
    text = mixed(tmp_path, {**parts_of(9), "a": [*documents("a", 2), "short"]})
    with pytest.raises(UserError, match="too few documents") as error:
        drawing_of(inputs, text)
    assert "found:    2 documents of more than 16 tokens" in str(error.value)


def test_held_out_text_is_that_of_its_two_uses(inputs: dict[str, Artifact], tmp_path: Path) -> None:
    """Cells are never measured on what chose among their candidates."""
    text = mixed(tmp_path, parts_of(40))
    held_out = sampled(inputs, text, tmp_path / "held_out", 4, measured=3)
    drawing, rows = drawing_of(inputs, text), read_tokens(held_out).tolist()
    assert rows[:4] == drawing.draw(SELECTION, 4).tolist()
    assert rows[4:] == drawing.draw(MEASURED, 3).tolist()


def test_a_seed_divides_the_documents_and_places_and_orders_their_sequences(
    inputs: dict[str, Artifact], tmp_path: Path
) -> None:
    """A fifth of 40 documents is held out, half of it for each use."""
    text = mixed(tmp_path, parts_of(40))
    one, other = (drawing_of(inputs, text, seed).parts[0].spans for seed in (0, 1))
    counts = {use: len({index for index, _ in one[use]}) for use in one}
    assert counts == {SELECTION: 4, MEASURED: 4, TRAINING: 32}
    assert {index for index, _ in one[MEASURED]} != {index for index, _ in other[MEASURED]}
    # Sequences of one document do not follow each other.
    order = [index for index, _ in one[TRAINING]]
    assert sum(a != b for a, b in pairwise(order)) >= len({*order})
    starts = [{index: at % LENGTH for index, at in spans[TRAINING]} for spans in (one, other)]
    assert any(starts[0].values())
    assert any(
        starts[0][index] != starts[1][index] for index in starts[0].keys() & starts[1].keys()
    )


@pytest.mark.parametrize(("own", "refused"), [(12, False), (7, True)])
def test_a_tenth_of_a_part_may_be_in_any_part_before_it(
    tmp_path: Path, own: int, refused: bool
) -> None:
    shared = documents("shared", 1)
    parts = {"a": shared, "b": documents("b", 3), "c": [*shared, *documents("c", own)]}
    if refused:
        with pytest.raises(UserError, match="overlap"):
            mixed(tmp_path, parts)
    else:
        facts = mixed(tmp_path, parts).facts["parts"]
        assert [part["duplicates"] for part in facts] == [0, 0, 1]


def test_every_document_that_is_longer_than_a_sequence_is_drawn_from(
    inputs: dict[str, Artifact], tmp_path: Path
) -> None:
    text = mixed(tmp_path, {**parts_of(9), "a": [*documents("a", 9, words=18), "short"]})
    of_a = drawing_of(inputs, text).parts[0].facts
    assert (of_a["documents"], of_a["short_documents"]) == (9, 1)


def test_a_calibration_sample_of_another_mixture_is_refused(
    inputs: dict[str, Artifact], tmp_path: Path
) -> None:
    texts = [mixed(tmp_path / str(count), parts_of(count)) for count in (9, 12)]
    other = sampled(inputs, texts[0], tmp_path / "sample", 4)
    with pytest.raises(UserError, match="made from a different artifact: text"):
        sampled(inputs, texts[1], tmp_path / "more", 8, other)
