"""What is filled in, and that it is done once and in one order."""

from collections.abc import Iterator
from typing import Any

import pytest

from configs import checked, config, everything
from freelunch.study.criteria import read_criterion
from freelunch.study.retraining import read_adaptation
from freelunch.study.settings import Settings
from freelunch.study.study import Study

# Each of these decides a number. Whoever changes one changes what every study that leaves it out
# computes.
RECONSTRUCTION: dict[str, Any] = {
    "method": "reconstruction",
    "window": 1,
    "inputs": "dense",
    "targets": "dense",
    "loss": "mean_squared_error",
    "train_norms": True,
    "train_biases": True,
    "optimiser": "adamw",
    "learning_rate": 0.001,
    "schedule": "linear",
    "warmup": 0.1,
    "epochs": 1,
    "batch": 2,
    "shuffle": True,
    "precision": "model",
    "select_on": "calibration",
}


def test_every_default_is_filled_in() -> None:
    filled = checked().as_json()
    # Without a dtype a model keeps its checkpoint's own.
    assert filled["models"]["one"] == config()["models"]["one"]
    assert filled["texts"]["wiki"] == {**config()["texts"]["wiki"], "field": "text"}
    assert filled["tasks"] == {}
    assert filled["criteria"] == {
        "magnitude": {"score": "magnitude", "scope": "matrix", "statistics": "dense", "swaps": 0},
        "wanda": {"score": "wanda", "scope": "row", "statistics": "dense", "swaps": 0},
    }
    assert filled["adaptations"] == {
        "recon_block": RECONSTRUCTION,
        "recon_two": {**RECONSTRUCTION, "window": 2},
    }
    assert filled["study"] == {
        "name": "tests",
        "dense_limit": 1000,
        "calibration": {"text": "c4", "samples": 4, "length": 8},
        "evaluation": {
            "perplexity": {
                "text": "wiki",
                "length": 8,
                "windows": None,
                "cut": "documents",
                "stride": None,
            }
        },
        "selection": {"samples": 16},
        "keep_hidden_states": "all",
        "grids": [{**config()["study"]["grids"][0], "seeds": [0], "tasks": False}],
    }


def instances(value: object) -> Iterator[Settings]:
    """Yield all settings in a value, and in settings."""
    if isinstance(value, Settings):
        yield value
        for name in type(value).model_fields:
            yield from instances(getattr(value, name))
    elif isinstance(value, dict):
        for inner in value.values():
            yield from instances(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from instances(inner)


def test_no_setting_is_left_out_of_what_is_written() -> None:
    """But those that hold without being there: what holds is in the description, or a default."""
    found = Study.check(everything(), "config.yaml").config
    kinds = set()
    for settings in instances(found):
        kinds.add(type(settings).__name__)
        expected = {
            name
            for name, field in type(settings).model_fields.items()
            if field.exclude_if is None or not field.exclude_if(getattr(settings, name))
        }
        assert settings.model_dump(mode="json").keys() == expected
        for name, field in type(settings).model_fields.items():
            if field.exclude_if is not None:
                # Read again, it is what it was.
                assert field.exclude_if(field.default), f"{type(settings).__name__}.{name}"
    some = {"Architecture", "Budget", "DriftSettings", "Tasks", "Spp", "Flap", "Tokens", "Mixture"}
    assert some <= kinds


def test_defaults_of_units_are_the_papers() -> None:
    """FLAP compares all units of a model and compensates; Wanda-sp each block's, and does not."""
    flap, wanda_sp = (read_criterion({"score": score}) for score in ("flap", "wanda_sp"))
    assert (flap.scope, flap.metric, flap.bias_compensation) == ("model", "WIFV", True)
    assert (wanda_sp.scope, wanda_sp.bias_compensation) == ("block", False)


def test_the_order_of_keys_is_not_kept() -> None:
    """Snakemake compares what is printed."""

    def reverse(value: Any) -> Any:
        if not isinstance(value, dict):
            return value
        return {key: reverse(inner) for key, inner in reversed(value.items())}

    given = everything()
    one, two = (Study.check(it, "config.yaml").as_json() for it in (given, reverse(given)))
    for registry in ("models", "texts", "criteria", "adaptations"):
        for name, entry in one[registry].items():
            assert repr(entry) == repr(two[registry][name])
    assert repr(one["study"]) == repr(two["study"])


# --- What holds for every class of settings


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
