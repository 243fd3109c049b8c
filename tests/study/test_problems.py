"""Values that a class of settings refuses: the key, what was found and what was expected."""

from typing import Any

import pytest
import yaml

from configs import changed, config, everything, mappings, problems


def test_all_problems_are_told_at_once() -> None:
    wrong: dict[str, Any] = {
        "models.one.dtyp": "float32",
        "texts.c4.format": "line",
        "criteria.wanda.score": "wnada",
        "adaptations.recon_block.epochs": 0,
        "study.calibration.samples": "many",
        "study.grids.0.seeds": [],
    }
    assert [line.partition(": ")[0] for line in problems(changed(wrong))] == sorted(wrong)


@pytest.mark.parametrize(
    ("key", "value", "expected"),
    [
        ("adaptations.recon_block.learning_rate", 0, "at least 0.000000000001"),
        ("adaptations.recon_block.learning_rate", 1e-320, "at least 0.000000000001"),
        ("adaptations.recon_block.learning_rate", float("nan"), "a finite number"),
        ("adaptations.recon_block.learning_rate", float("inf"), "a finite number"),
        ("adaptations.recon_block.learning_rate", 11, "at most 10"),
        ("adaptations.recon_block.learning_rate", [], "at least 1 item"),
        ("adaptations.recon_block.learning_rate", [0.1, 0.1], "each value only once"),
        ("adaptations.recon_block.learning_rate", {}, "a number"),
        ("adaptations.recon_block.warmup", 1, "less than 1"),
        ("adaptations.recon_block.epochs", [1, 0], "found 0"),
        ("study.grids.0.seeds", [0, -1], "found -1"),
        ("adaptations.recon_block.batch", 0, "at least 1 (Sequences in an optimiser step.)"),
        ("study.calibration.samples", "many " * 99, "m...; expected a whole number"),
        ("adaptations.recon_block.warmup", -0.1, "at least 0"),
        ("adaptations.recon_block.epochs", 1.0, "a whole number"),
        ("adaptations.recon_block.epochs", True, "a whole number"),
        ("adaptations.recon_block.shuffle", 1, "true or false"),
        ("adaptations.recon_block.batch", "2", "a whole number"),
        ("adaptations.recon_block.learning_rate", [0.1, "0.2"], "a number"),
        ("adaptations.recon_block.samples", None, "a value, or no such key"),
        ("adaptations.recon_block.window", 0, "at least 1"),
        ("adaptations.recon_block.window", "al", "all (nearest) out of: all, attention_mlp, auto"),
        ("adaptations.recon_block.window", 1.5, "a whole number (Part of"),
        ("adaptations.recon_block.budget", 3, "a mapping"),
        ("adaptations.recon_block.budget", {}, "`tokens`, or `times` and `of`"),
        ("adaptations.recon_block.budget", {"tokens": 8, "times": 2}, "`tokens`, or `times`"),
        ("adaptations.recon_block.method", "retraining", "one of: biases, "),
        ("adaptations.recon_block.method", None, "one of: biases, "),
        ("study.calibration.samples", 10**16, "at most 1e+15"),
        ("criteria.wanda.swaps", 10**400, "at most 10000"),
        ("study.calibration", None, "a mapping"),
        ("study.evaluation.perplexity.windows", "all", "a whole number (Number"),
        ("study.evaluation.drift", None, "a value, or no such key"),
        ("study.dense_limit", 1, "more than 1"),
        ("study.name", "../escape", "lower-case letters and digits, with single . _ or - between"),
        ("study.name", "laptop\n", "lower-case letters and digits"),
        ("study.name", "x" * 51, "at most 50 characters"),
        ("study.keep_hidden_states", "every_0", "all, none, or every_k with a whole number k"),
        ("study.keep_hidden_states", True, "expected all, none, or every_k"),
        ("study.grids", [], "at least 1 item"),
        ("study.grids.0.models", "one", "a list"),
        ("study.grids.0.models", ["one", "one"], "each value only once"),
        ("models.one.source", "ftp", "one of: hub, path, wheel"),
        ("models.one.source", 3, "one of: hub, path, wheel"),
        ("models.one.sha256", "0" * 63, "64 hexadecimal digits"),
        ("models.one", "wheel", "a mapping"),
        ("models.one.dtype", "float23", "float32 (nearest) out of: bfloat16, float16, float32"),
        ("models.hub.revision", "-main", "a branch, a tag or a full commit (A full commit; or a"),
        ("models", None, "a mapping"),
        ("criteria", [], "a mapping"),
    ],
    ids=lambda value: str(value)[:30],
)
def test_values_that_are_refused(key: str, value: object, expected: str) -> None:
    """One problem, at the key itself; nothing that follows from it is reported beside it."""
    (line,) = problems(changed({key: value}, everything()))
    assert line.startswith(key) and "found " in line and expected in line


@pytest.mark.parametrize(
    ("key", "values"),
    [
        ("study.name", ["tests ", "a/b", "", ".", "-tests", "tests\0", "tésts", "a..b"]),
        ("models.hub.repository", ["../x", "a/..", "a/b/c", "-a/b", "a/b\n", "a b/c", "name"]),
        ("texts.hub.member", ["/etc", "a/../../b", "a\\b", "a\0b", "a\nb", "", "x" * 501]),
    ],
)
def test_names_that_are_parts_of_paths(key: str, values: list[str]) -> None:
    for value in values:
        (line,) = problems(changed({key: value}, everything()))
        assert line.startswith(f"{key}: found ")


@pytest.mark.parametrize("name", ["models.a/b", "criteria.a-b", "criteria.a__b", "adaptations.A"])
def test_a_name_of_an_entry_is_part_of_a_cells_identity(name: str) -> None:
    registry, _, last = name.partition(".")
    entry = next(iter(config()[registry].values()))
    (line,) = problems(changed({name: entry}))
    assert line.startswith(f'{name}: found "{last}"; expected lower-case letters')


EVERYWHERE = mappings(everything())


@pytest.mark.parametrize("key", EVERYWHERE)
def test_a_misspelt_key_is_refused_wherever_it_is(key: str) -> None:
    """With the key that was meant."""
    meant = max(EVERYWHERE[key] or ["samples"], key=len)
    misspelt = f"{key}.{meant}s".lstrip(".")
    (line,) = problems(changed({misspelt: 1}, everything()))
    assert line.startswith(f"{misspelt}: unknown key; expected {meant} (nearest)")


@pytest.mark.parametrize("key", ["name", "calibration.text", "evaluation", "grids.0.patterns"])
def test_a_key_of_the_study_that_is_missing(key: str) -> None:
    new = config()
    parent, _, last = f"study.{key}".rpartition(".")
    inner: Any = new
    for part in parent.split("."):
        inner = inner[int(part)] if isinstance(inner, list) else inner[part]
    del inner[last]
    (line,) = problems(new)
    assert line.startswith(f"{parent}: {last!r} is missing (")


@pytest.mark.parametrize(
    ("registry", "key", "values"),
    [
        ("models", "source", "one of: hub, path, wheel"),
        ("texts", "source", "one of: hub, mixture, path, tokens, wheel, wheel_files"),
        ("criteria", "score", "one of: alps, flap, "),
        ("adaptations", "method", "one of: biases, biases_norms, full, "),
    ],
)
def test_an_entry_that_does_not_say_what_it_is(registry: str, key: str, values: str) -> None:
    (line,) = problems(changed({f"{registry}.x": {}}))
    assert line.startswith(f"{registry}.x: {key!r} is missing ({values}")


@pytest.mark.parametrize(
    ("key", "written", "hint"),
    [
        ("study.calibration.samples", "1e1", "YAML reads this as text"),
        ("adaptations.recon_block.learning_rate", "1E-3", "YAML reads this as text"),
        ("study.calibration.samples", "three", None),
        ("models.one.dtype", "1e-3", None),
        ("models.one.version", "1.10", "put it in quotes"),
        ("models.one.version", "2026-11-26", "put it in quotes"),
        ("models.one.version", "null", None),
        ("study.name", "no", "put it in quotes"),
    ],
)
def test_what_yaml_reads_as_another_type(key: str, written: str, hint: str | None) -> None:
    (line,) = problems(changed({key: yaml.safe_load(written)}))
    assert line.startswith(f"{key}: found ")
    assert hint in line if hint else "YAML" not in line and "quotes" not in line


@pytest.mark.parametrize("name", ["no", "null", "7", "2024-05-01"])
def test_names_that_yaml_reads_as_other_than_text(name: str) -> None:
    (read,) = yaml.safe_load(f"{name}: 1")
    new = config()
    new["models"][read] = new["models"].pop("two")
    (line,) = problems(new)
    assert line.startswith("models: found the key ") and line.endswith("(put it in quotes)")
    new = changed({"study.calibration": {**config()["study"]["calibration"], read: 1}})
    assert problems(new)[0].startswith("study.calibration: found the key ")


def test_what_is_no_study() -> None:
    for value in ("text", [], 3, None):
        (line,) = problems(value)
        assert line.startswith("(top): found") and line.endswith("expected a mapping")
    for value in ({}, {1: 2}, {"models": {1: {}, "a": {}}}):
        assert "(top): 'study' is missing (What this study runs.)" in problems(value)
    lines = problems({"study": config()["study"]})
    missing = ("adaptations", "criteria", "models", "texts")
    assert lines == [f"(top): {registry!r} is missing" for registry in missing]
