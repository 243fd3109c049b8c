"""The share of a text that was seen before, beside a slow reference."""

import random
import tracemalloc

import pytest

from freelunch.data import mixture
from freelunch.data.mixture import RUN, PassageIndex


def of_letters(name: str, count: int) -> str:
    generator = random.Random(name)
    return "".join(generator.choices("abcdefghijklmnop", k=count))


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
    sources = [of_letters(f"{seed} {it}", generator.choice(sizes)) for it in "abc"]
    sources.append("x" * 150)
    pieces = [
        source[generator.randrange(len(source) + 1) :]
        for source in [*sources, "\u00e9\U0001f600" * 99]
    ]
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


def test_a_copied_passage_is_found_from_twice_a_run_on() -> None:
    source = of_letters("source", 900)
    seen = PassageIndex()
    seen.add([source])
    for at in range(64):
        passage = source[at : at + 2 * RUN - 1]
        assert seen.repeated(f"Another beginning {passage} and end")[0] >= RUN


def test_ruled_lines_say_nothing() -> None:
    seen = PassageIndex()
    seen.add(["-" * 500 + " 1", "=+" * 300])
    assert seen.repeated("-" * 500)[0] == 0 and seen.repeated("=+" * 301)[0] == 0


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
