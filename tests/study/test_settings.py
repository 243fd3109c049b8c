"""What holds for every class of settings."""

from collections.abc import Iterator
from typing import Any

import pytest
from pydantic import ValidationError

from configs import everything
from freelunch.study.criteria import read_criterion
from freelunch.study.retraining import read_adaptation
from freelunch.study.settings import Settings


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
