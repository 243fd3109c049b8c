"""What holds for every class of settings."""

from collections.abc import Iterator
from typing import Any

import pytest
from pydantic import ValidationError

from configs import changed, everything, mappings, refusal
from freelunch.study.adaptation_entries import read_adaptation
from freelunch.study.criteria import read_criterion
from freelunch.study.settings import TAGGED, Settings


def classes(kind: type[Settings] = Settings) -> Iterator[type[Settings]]:
    for subclass in kind.__subclasses__():
        yield subclass
        yield from classes(subclass)


CLASSES = sorted(set(classes()), key=lambda kind: kind.__name__)


@pytest.mark.parametrize("kind", CLASSES, ids=lambda kind: kind.__name__)
def test_every_class_and_every_setting_is_described(kind: type[Settings]) -> None:
    assert kind.__doc__, "the class has no docstring"
    for name, field in kind.model_fields.items():
        assert field.description, f"{name} has no description"
        assert field.description[0] != " " and field.description == field.description.strip()


@pytest.mark.parametrize("kind", CLASSES, ids=lambda kind: kind.__name__)
def test_every_class_is_strict(kind: type[Settings]) -> None:
    expected = {"extra": "forbid", "frozen": True, "strict": True, "allow_inf_nan": False}
    assert {key: kind.model_config.get(key) for key in expected} == expected


def test_every_class_of_an_entry_is_chosen_by_its_own_value() -> None:
    """Its deciding key has one value: the one by which it is chosen."""
    keys = {"models": "source", "texts": "source", "tasks": "source"}
    keys |= {"criteria": "score", "adaptations": "method"}
    for tag, kind in TAGGED.items():
        registry, _, value = tag.strip("()").partition(".")
        assert kind.model_fields[keys[registry]].annotation.__args__ == (value,), tag


EVERYWHERE = mappings(everything())


@pytest.mark.parametrize("key", EVERYWHERE)
def test_a_misspelt_key_is_refused_wherever_it_is(key: str) -> None:
    """With the key that was meant."""
    meant = max(EVERYWHERE[key] or ["samples"], key=len)
    misspelt = f"{key}.{meant}s".lstrip(".")
    message = refusal(changed({misspelt: 1}, everything()))
    assert "1 problem in the config" in message
    assert f"  {misspelt}: unknown key; expected {meant} (nearest)" in message


def test_the_keys_that_there_are_instead_of_an_unknown_one() -> None:
    message = refusal(changed({"study.calibration.lenght": 1}, everything()))
    expected = "expected length (nearest) out of: length, samples, text"
    assert f"  study.calibration.lenght: unknown key; {expected}" in message
    message = refusal(changed({"adaptations.biases.rank": 1}, everything()))
    assert "  adaptations.biases.rank: unknown key; expected one of: batch, " in message
    message = refusal(changed({"bse": "base.yaml"}))
    expected = "base (nearest) out of: adaptations, base, criteria, models, study, tasks, texts"
    assert f"  bse: unknown key; expected {expected}" in message


@pytest.mark.parametrize(
    "settings",
    [
        {"epochs": 1.0},
        {"epochs": True},
        {"batch": "2"},
        {"shuffle": 1},
        {"learning_rate": "0.1"},
        {"learning_rate": True},
        {"learning_rate": [0.1, "0.2"]},
        {"learning_rate": float("nan")},
        {"warmup": float("inf")},
        {"samples": None},
        {"linears": "q_proj"},
        {"linears": ["q_proj", "q_proj"]},
        {"budget": {"tokens": 8, "times": 2}},
    ],
    ids=str,
)
def test_no_value_is_taken_for_another_one(settings: dict[str, Any]) -> None:
    with pytest.raises(ValidationError, match="1 validation error"):
        read_adaptation({"method": "full", **settings})


def test_a_whole_number_is_a_number() -> None:
    """YAML's 1 is no other learning rate than 1.0."""
    one, other = (read_adaptation({"method": "full", "learning_rate": it}) for it in (1, 1.0))
    assert one == other
    assert repr(one.as_json()) == repr(other.as_json())


def test_settings_are_read_from_what_they_are_written_as() -> None:
    for criterion in everything()["criteria"].values():
        found = read_criterion(criterion)
        assert read_criterion(found.as_json()) == found
    for adaptation in everything()["adaptations"].values():
        found = read_adaptation(adaptation)
        assert read_adaptation(found.as_json()) == found
        assert [*found.as_json()] == sorted(found.as_json())
