"""YAML files: what a key that is given twice would hide."""

from pathlib import Path

import pytest

from freelunch.core.errors import UserError
from freelunch.study.study import Study
from freelunch.study.yaml_file import read_yaml


@pytest.mark.parametrize(
    ("text", "key", "line", "first"),
    [
        ("a: 1\nb: 2\na: 3\n", "a", 3, 1),
        ("models:\n  one: {x: 1, y: 2, x: 3}\n", "x", 2, 2),
        ("a:\n  - b: 1\n    'b': 2\n", "b", 3, 2),
        ("a: &a {b: 1}\nc:\n  <<: *a\n  d: 1\n  d: 2\n", "d", 5, 4),
        ("a: &a {}\nb: &b {}\nc:\n  <<: *a\n  <<: *b\n", "<<", 5, 4),
    ],
)
def test_a_key_that_is_given_twice_is_refused(
    tmp_path: Path, text: str, key: str, line: int, first: int
) -> None:
    path = tmp_path / "study.yaml"
    path.write_text(text)
    with pytest.raises(UserError) as caught:
        read_yaml(path)
    message = str(caught.value)
    assert message.startswith(f"{path}, line {line}: the key `{key}` is given twice")
    assert f"the first is in line {first}" in message


def test_a_key_that_replaces_a_merged_one_is_given_once(tmp_path: Path) -> None:
    path = tmp_path / "study.yaml"
    path.write_text(
        "a: &a {size: 1, rate: 2}\n"
        "b: &b {<<: *a, size: 3}\n"
        "c: {<<: [*b, *a], rate: 4}\n"
        "1: number\n"
        "'1': text\n"
    )
    assert read_yaml(path) == {
        "a": {"size": 1, "rate": 2},
        "b": {"size": 3, "rate": 2},
        "c": {"size": 3, "rate": 4},
        1: "number",
        "1": "text",
    }


def test_a_study_and_its_base_are_read_so(tmp_path: Path) -> None:
    study, base = tmp_path / "mine.yaml", tmp_path / "base.yaml"
    study.write_text("base: base.yaml\nstudy: {name: one}\n")
    base.write_text("models: {}\ntexts: {}\nmodels: {}\n")
    with pytest.raises(UserError, match=f"^{base}, line 3: the key `models` is given twice"):
        Study.load(study)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"a: \xff\xfe\n", "this file is not in UTF-8"),
        ("a: ä\n".encode("utf-16"), "this file is not in UTF-8"),
        (b"a: \0\n", "not a valid YAML file"),
        (b"a: 1\nb: [!!bool foo]\n", "'foo' is no tag:yaml.org,2002:bool"),
        (b"a: !!float ''\n", "'' is no tag:yaml.org,2002:float"),
        (b"a: !!int '-'\n", "'-' is no tag:yaml.org,2002:int"),
        (b"a: !!timestamp foo\n", "'foo' is no tag:yaml.org,2002:timestamp"),
        (b"!!float '" + 400 * b"1:" + b"1'\n", " is no tag:yaml.org,2002:float"),
        (b"!!bool foo: 1\n", "'foo' is no tag:yaml.org,2002:bool"),
        (b"[" * 100_000, "this is nested too deeply"),
    ],
)
def test_a_file_that_no_study_is_like_is_one_clear_error(
    tmp_path: Path, content: bytes, said: str
) -> None:
    path = tmp_path / "study.yaml"
    path.write_bytes(content)
    with pytest.raises(UserError, match=said) as caught:
        read_yaml(path)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize("written", ["1:30", "-1:30", "1:30.5", "010", "0_7", "08"])
def test_numbers_to_other_bases_than_they_look_stay_strings(tmp_path: Path, written: str) -> None:
    """By YAML 1.1, `1:30` is 90 and `010` is 8; the schema then refuses the string."""
    path = tmp_path / "study.yaml"
    path.write_text(f"a: {written}\n")
    assert read_yaml(path) == {"a": written}


def test_numbers_are_numbers(tmp_path: Path) -> None:
    path = tmp_path / "study.yaml"
    path.write_text("a: [0, -7, 12, 1_000, 0x1F, 1.5, 0.5, 1.0e-3, .5, .inf, 'x', 00:x]\n")
    numbers = [0, -7, 12, 1000, 31, 1.5, 0.5, 0.001, 0.5, float("inf"), "x", "00:x"]
    assert read_yaml(path) == {"a": numbers}
