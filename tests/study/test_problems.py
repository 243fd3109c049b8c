"""Messages about values that a class of settings refuses: where, what is found and expected."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from configs import changed, config, everything, refusal
from freelunch.core.errors import UserError
from freelunch.study.study import Study


def test_all_problems_at_once() -> None:
    message = refusal(
        changed(
            {
                "models.one.dtyp": "float32",
                "texts.c4.format": "line",
                "criteria.wanda.score": "wnada",
                "adaptations.recon_block.epochs": 0,
                "study.calibration.samples": "many",
                "study.grids.0.seeds": [],
            }
        )
    )
    assert message.startswith("config.yaml: 6 problems in the config")
    for line in (
        "models.one.dtyp: unknown key; expected dtype (nearest)",
        'texts.c4.format: found "line"; expected lines (nearest)',
        'criteria.wanda.score: found "wnada"; expected wanda (nearest) out of: ',
        "adaptations.recon_block.epochs: found 0; expected at least 1",
        'study.calibration.samples: found "many"; expected a whole number',
        "study.grids.0.seeds: found []; expected a list of at least 1",
    ):
        assert f"  {line}" in message


@pytest.mark.parametrize("number", ["1e-3", "1E-3", "1.5e3"])
def test_yaml_reads_some_exponents_as_text(number: str) -> None:
    new = config()
    new["adaptations"]["recon_block"] |= yaml.safe_load(f"learning_rate: {number}")
    message = refusal(new)
    assert "adaptations.recon_block.learning_rate" in message
    assert f"write {'1500' if '3' in number and '-' not in number else '0.001'})" in message
    new["adaptations"]["recon_block"] |= yaml.safe_load("learning_rate: 1.0e-3")
    Study.check(new, "config.yaml")


@pytest.mark.parametrize(
    ("key", "written", "number"),
    [
        ("study.calibration.samples", "1e1", "10"),
        ("study.dense_limit", "5.0e3", "5000"),
        ("adaptations.recon_block.learning_rate", "1e-7", "1.0e-07"),
    ],
)
def test_the_number_that_a_hint_gives_is_accepted(key: str, written: str, number: str) -> None:
    assert f"(YAML reads this as text: write {number})" in refusal(changed({key: written}))
    Study.check(changed({key: yaml.safe_load(number)}), "config.yaml")


@pytest.mark.parametrize("key", ["study.calibration.samples", "criteria.wanda.swaps"])
@pytest.mark.parametrize("number", [10**16, 10**400, 16**5000], ids=["e16", "e400", "hex"])
def test_numbers_that_count_nothing_that_exists(key: str, number: int) -> None:
    assert f"{key}: found " in (message := refusal(changed({key: number})))
    assert "expected at most 1e+15" in message


def test_the_hint_about_exponents_is_for_numbers_only() -> None:
    assert "1.0e-3" not in refusal(changed({"study.calibration.samples": "three"}))
    assert "1.0e-3" not in refusal(changed({"models.one.dtype": "1e-3"}))


@pytest.mark.parametrize("version", ["1.10", "2", "2026-11-26"])
def test_yaml_reads_some_versions_as_numbers_or_dates(version: str) -> None:
    new = config()
    new["models"]["one"] |= yaml.safe_load(f"version: {version}")
    message = refusal(new)
    assert "models.one.version: found" in message
    assert "expected text (put it in quotes)" in message
    assert "quotes" not in refusal(changed({"models.one.version": None}))


@pytest.mark.parametrize("name", ["no", "yes", "off", "true", "null", "~", "7", "2024-05-01"])
def test_yaml_reads_some_names_as_other_than_text(name: str) -> None:
    (read,) = yaml.safe_load(f"{name}: 1")
    new = config()
    new["models"][read] = new["models"].pop("two")
    message = refusal(new)
    assert "  models: found the key " in message
    assert message.endswith("expected text (put it in quotes)")
    if read is not None:
        message = refusal(changed({"study.name": read}))
        assert "  study.name: found " in message and "text (put it in quotes)" in message
    message = refusal(changed({"study.calibration": {read: 1}}))
    assert "  study.calibration: found the key " in message


@pytest.mark.parametrize(
    ("key", "value", "expected"),
    [
        ("adaptations.recon_block.learning_rate", 0, "more than 0"),
        ("adaptations.recon_block.learning_rate", -1e-3, "more than 0"),
        ("adaptations.recon_block.learning_rate", float("nan"), "a finite number"),
        ("adaptations.recon_block.learning_rate", float("inf"), "a finite number"),
        ("adaptations.recon_block.learning_rate", [], "a list of at least 1"),
        ("adaptations.recon_block.learning_rate", [0.1, 0.1], "each value only once"),
        ("adaptations.recon_block.learning_rate", {}, "a number"),
        ("adaptations.recon_block.warmup", 1, "less than 1"),
        ("adaptations.recon_block.warmup", -0.1, "at least 0"),
        ("adaptations.recon_block.epochs", 0, "at least 1"),
        ("adaptations.recon_block.epochs", 1.0, "a whole number"),
        ("adaptations.recon_block.epochs", True, "a whole number"),
        ("adaptations.recon_block.batch", 2.0, "a whole number"),
        ("adaptations.recon_block.shuffle", 1, "true or false"),
        ("adaptations.recon_block.samples", None, "a value, or no such key"),
        ("adaptations.recon_block.window", 0, "at least 1"),
        (
            "adaptations.recon_block.window",
            "mlp",
            "one of: all, attention_mlp, auto, matrix, or a number of blocks (Part of",
        ),
        ("adaptations.recon_block.window", "al", "all (nearest) out of: all, attention_mlp, auto"),
        (
            "adaptations.recon_block.window",
            1.5,
            "a whole number, or one of: all, attention_mlp, auto, matrix (Part of",
        ),
        ("adaptations.recon_block.epochs", "two", "a whole number, or a list of them (Passes"),
        ("adaptations.recon_block.budget", 3, "a mapping"),
        ("adaptations.recon_block.budget", {}, "`tokens`, or `times` and `of`"),
        ("adaptations.recon_block.method", "retraining", "one of: biases, "),
        ("adaptations.recon_block.method", None, "one of: biases, "),
        ("study.calibration.samples", 0, "at least 1"),
        ("study.calibration.length", 1, "at least 2"),
        ("study.calibration", None, "a mapping"),
        ("study.evaluation.perplexity.windows", 1, "at least 2 (Number"),
        ("study.evaluation.perplexity.windows", "all", "a whole number or null (Number"),
        ("adaptations.recon_block.rank", "low", "a whole number (Rank"),
        ("study.evaluation.drift", None, "a value, or no such key"),
        ("study.evaluation.tasks", None, "a value, or no such key"),
        ("study.dense_limit", 1, "more than 1"),
        ("study.dense_limit", float("nan"), "a finite number"),
        ("study.name", "../escape", "lower-case letters and digits, with single . _ or - between"),
        ("study.name", "Laptop", "lower-case letters and digits"),
        ("study.name", "laptop\n", "lower-case letters and digits"),
        ("study.keep_hidden_states", "every_0", "all, none, or every_k with a whole number k"),
        ("study.grids", [], "a list of at least 1"),
        ("study.grids.0.models", [], "a list of at least 1"),
        ("study.grids.0.models", "one", "a list"),
        ("study.grids.0.models", ["one", "one"], "each value only once"),
        ("study.grids.0.seeds", [0, 0], "each value only once"),
        ("models.one.source", "ftp", "one of: hub, path, wheel"),
        ("models.one.source", 3, "one of: hub, path, wheel"),
        ("models.one.sha256", "0" * 63, "64 hexadecimal digits"),
        ("models.one", "wheel", "a mapping"),
        ("models.one.dtype", "float23", "float32 (nearest) out of: bfloat16, float16, float32"),
        ("models.hub.revision", "-main", "a branch, a tag or a full commit (A full commit; or a"),
        ("models.hub.repository", "name", "owner/name (Owner and name on the hub.)"),
        ("models", None, "a mapping"),
        ("criteria", [], "a mapping"),
    ],
    ids=lambda value: str(value)[:30],
)
def test_values_that_are_refused(key: str, value: object, expected: str) -> None:
    """One problem, at the key itself; nothing that follows from it is reported beside it."""
    message = refusal(changed({key: value}, everything()))
    assert "1 problem in the config" in message
    assert f"  {key}: found " in message
    assert f"; expected {expected}" in message


def test_a_problem_of_one_value_of_a_list() -> None:
    new = changed({"study.grids.0.seeds": [0, -1], "adaptations.recon_block.epochs": [1, 0]})
    message = refusal(new)
    assert "2 problems in the config" in message
    assert "  study.grids.0.seeds.1: found -1; expected at least 0" in message
    assert "  adaptations.recon_block.epochs.1: found 0; expected at least 1" in message


def test_the_description_of_a_setting_is_in_its_message() -> None:
    message = refusal(changed({"adaptations.recon_block.batch": 0}))
    assert message.endswith("found 0; expected at least 1 (Sequences in an optimiser step.)")


def test_long_values_are_cut() -> None:
    message = refusal(changed({"study.calibration.samples": "many " * 99}))
    assert 'found "many many' in message and "...; expected a whole number" in message
    assert len(message) < 200


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("models.a/b", "lower-case letters and digits, with single . _ or - between"),
        ("criteria.a-b", "lower-case letters and digits, with single _ between"),
        ("criteria.a__b", "lower-case letters and digits, with single _ between"),
        ("adaptations.A", "lower-case letters and digits, with single _ between"),
    ],
)
def test_names_that_are_refused(name: str, expected: str) -> None:
    """A name is part of a cell's identity, and of paths."""
    registry, _, last = name.partition(".")
    entry = next(iter(config()[registry].values()))
    message = refusal(changed({name: entry}))
    assert "1 problem in the config" in message
    assert f'  {name}: found "{last}"; expected {expected}' in message


@pytest.mark.parametrize("key", ["name", "calibration.text", "evaluation", "grids.0.patterns"])
def test_a_key_of_the_study_that_is_missing(key: str) -> None:
    new = config()
    parent, _, last = f"study.{key}".rpartition(".")
    inner: Any = new
    for part in parent.split("."):
        inner = inner[int(part)] if isinstance(inner, list) else inner[part]
    del inner[last]
    message = refusal(new)
    assert "1 problem in the config" in message
    assert f"  {parent}: {last!r} is missing (" in message


@pytest.mark.parametrize(
    ("registry", "key", "values"),
    [
        ("models", "source", "one of: hub, path, wheel"),
        ("texts", "source", "one of: hub, mixture, path, tokens, wheel, wheel_files"),
        ("criteria", "score", "one of: flap, magnitude, "),
        ("adaptations", "method", "one of: biases, biases_norms, full, "),
    ],
)
def test_an_entry_that_does_not_say_what_it_is(registry: str, key: str, values: str) -> None:
    message = refusal(changed({f"{registry}.x": {}}))
    assert "1 problem in the config" in message
    assert f"  {registry}.x: {key!r} is missing ({values}" in message


def test_an_unknown_model_whose_budget_is_in_tokens() -> None:
    """The check that a budget in tokens suits all models does not know this one."""
    adaptations = {"adaptations.recon_block.budget": {"tokens": 4096}}
    message = refusal(changed({"study.grids.0.models": ["nobody"], **adaptations}))
    assert "1 problem in the config" in message and "nobody" in message


def test_registries_that_are_missing() -> None:
    message = refusal({"study": config()["study"]})
    assert "4 problems in the config" in message
    for registry in ("models", "texts", "criteria", "adaptations"):
        assert f"  (top): {registry!r} is missing" in message


def test_an_empty_file(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_text("# Nothing yet.\n")
    with pytest.raises(UserError, match=r"\n  \(top\): the file is empty; expected a study$"):
        Study.load(path)


@pytest.mark.parametrize("value", ["text", [], 3])
def test_what_is_no_mapping(value: object) -> None:
    message = refusal(value)
    assert "1 problem in the config" in message
    assert "(top): found" in message and "expected a mapping" in message


@pytest.mark.parametrize("value", [{}, {1: 2}, {"models": {1: {}}}, {"models": {1: {}, "a": {}}}])
def test_what_is_no_config_at_all(value: object) -> None:
    assert "(top): 'study' is missing (What this study runs.)" in refusal(value)


def test_a_config_that_cannot_be_read(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    for missing in (path, tmp_path):
        with pytest.raises(UserError, match="there is no such file"):
            Study.load(missing)
    path.write_text("models: {one: [}")
    with pytest.raises(UserError, match="not a valid YAML file") as error:
        Study.load(path)
    assert "line 1" in str(error.value)
    for content, said in (
        (b"\xff\xfe\x00", "this file is not in UTF-8"),
        (b"revision: 2026-13-01", "not a valid YAML file"),
    ):
        path.write_bytes(content)
        with pytest.raises(UserError, match=said):
            Study.load(path)
