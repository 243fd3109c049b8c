"""Whatever a config says, it is a study or refused by one UserError: no other exception."""

import copy
import datetime
import json
from functools import reduce
from operator import getitem
from typing import Any

from hypothesis import example, given, settings
from hypothesis import strategies as st

from configs import config, everything, places
from freelunch.core.errors import UserError
from freelunch.study.study import Study

VALID = everything()
# What YAML can say, the names of the config among it.
NAMES = st.sampled_from(["one", "c4", "wanda", "recon_block", "full", "none", "dense", "wheel"])
SCALARS = (
    st.none()
    | st.booleans()
    | st.integers(-2, 3)
    | st.integers()
    | st.floats()
    | st.dates()
    | st.datetimes()
    | st.binary(max_size=3)
    | st.sampled_from(["", "1e-3", "u50", "s20", "2of4", "all", "matrix", "auto", "x" * 300])
    | st.text(max_size=5)
    | NAMES
)
KEYS = SCALARS.filter(lambda key: key == key)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=3),
    max_leaves=6,
)


PLACES = list(places(VALID))


@st.composite
def mutated(draw: st.DrawFn) -> dict[str, Any]:
    """Draw a valid config of which a few values are deleted, replaced or added."""
    new = copy.deepcopy(VALID)
    for _ in range(draw(st.integers(1, 3))):
        *parents, last = draw(st.sampled_from(PLACES))
        inner: Any = new
        for part in parents:
            if not _has(inner, part):
                break
            inner = inner[part]
        action = draw(st.sampled_from(["delete", "replace", "move", "add"]))
        if action == "add":
            key, value = draw(KEYS), draw(VALUES)
            if isinstance(inner, dict):
                inner[key] = value
            elif isinstance(inner, list):
                inner.append(value)
        elif _has(inner, last):
            if action == "delete":
                del inner[last]
            elif action == "replace":
                inner[last] = draw(VALUES)
            else:
                inner[last] = copy.deepcopy(reduce(getitem, draw(st.sampled_from(PLACES)), VALID))
    return new


def _has(value: Any, part: Any) -> bool:
    if isinstance(value, list):
        return isinstance(part, int) and part < len(value)
    return isinstance(value, dict) and part in value


@settings(max_examples=400)
@given(mutated())
def test_a_config_is_a_study_or_refused(given_config: dict[str, Any]) -> None:
    before = repr(given_config)
    study, message = check(given_config)
    assert repr(given_config) == before, "checking changes what was given"
    if study is None:
        head, *lines = message.split("\n  ")
        count = "1 problem" if len(lines) == 1 else f"{len(lines)} problems"
        assert head == f"config.yaml: {count} in the config", message
    else:
        written = study.as_json()
        assert repr(Study.check(written, "config.yaml").as_json()) == repr(written)
        json.dumps([study.spec(cell) for cell in study.cells], allow_nan=False)


def check(given_config: object) -> tuple[Study | None, str]:
    try:
        return Study.check(given_config, "config.yaml"), ""
    except UserError as error:
        return None, str(error)


@given(VALUES)
@example({"(": None})
def test_anything_is_a_study_or_refused(value: object) -> None:
    for given_config in (value, {**config(), "study": value}):
        assert check(given_config)[0] is None, "this is no study"


def test_what_is_drawn_covers_what_yaml_says() -> None:
    """The strategies above would hide a crash on a date or a key that is no text."""
    for key in (datetime.date(2026, 1, 1), 1, None, True, 0.5, b"x"):
        for place in ("models", "study", "adaptations"):
            new = copy.deepcopy(VALID)
            new[place][key] = {key: {key: []}}
            assert check(new)[0] is None, f"{key!r} is no key"
