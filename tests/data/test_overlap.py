"""The share of a text that was seen before, beside a slow reference."""

import random

import pytest

from freelunch.data.overlap import RUN, Seen, letters


def of_letters(name: str, count: int) -> str:
    generator = random.Random(name)
    return "".join(generator.choices("abcdefghij", k=count))


def reference(seen: list[str], document: str) -> int:
    """Compare the texts themselves, run by run."""
    runs = {each[at : at + RUN] for each in seen for at in range(0, len(each) - RUN + 1, RUN)}
    inside = {
        place
        for at in range(len(document) - RUN + 1)
        if document[at : at + RUN] in runs
        for place in range(at, at + RUN)
    }
    return len(document) if document in seen else len(inside)


@pytest.mark.parametrize("seed", range(8))
def test_repeated_letters_are_those_of_the_reference(seed: int) -> None:
    generator = random.Random(seed)
    sources = [
        of_letters(f"{seed} {it}", generator.choice([0, 3, 63, 64, 65, 700])) for it in "abc"
    ]
    pieces = [
        source[generator.randrange(len(source) + 1) :]
        for source in [*sources, "x" * 200, "é😀" * 99]
    ]
    generator.shuffle(pieces)
    seen = Seen()
    seen.add(sources[:2])
    seen.add([*sources[2:], "x" * 150])
    for document in ("".join(pieces), *pieces, *sources):
        assert seen.repeated(document) == reference([*sources, "x" * 150], document)


def test_spaces_and_case_do_not_count() -> None:
    assert letters(" A Straße\n\tand\u00a0B ") == "astrasseandb"
    seen = Seen()
    assert seen.repeated("anything") == 0 and seen.repeated("") == 0
    seen.add(["one", "two"])
    assert [seen.repeated(it) for it in ("one", "onetwo", "three")] == [3, 0, 0]
    assert "one" in seen and "three" not in seen
