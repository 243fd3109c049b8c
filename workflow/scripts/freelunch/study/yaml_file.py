"""YAML files that people write: a key that is given twice is refused."""

import re
from pathlib import Path
from typing import Any

import yaml

from freelunch.core.errors import UserError


def read_yaml(path: Path) -> Any:
    """Return the content of a YAML file; UserError if it does not exist, is not valid, is nested
    beyond any study, or gives a key of a mapping twice, of which YAML would keep the last.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        missing = isinstance(error, FileNotFoundError)
        problem = "there is no such file" if missing else "this file cannot be read"
        raise UserError(problem, where=path, found=error.strerror) from error
    except UnicodeDecodeError as error:
        raise UserError(
            "this file is not in UTF-8",
            where=path,
            found=f"the byte 0x{error.object[error.start]:02x} at position {error.start}",
            todo="save it in the encoding UTF-8",
        ) from error
    return parse_yaml(text, path)


def parse_yaml(text: str, path: Path) -> Any:
    """Return the content of a text, that of a YAML file, as `read_yaml` does."""
    try:
        loader = _Loader(text)
        loader.path = path
        node = loader.get_single_node()
        return None if node is None else loader.construct_document(node)
    except RecursionError as error:
        raise UserError(
            "this is nested too deeply", where=path, expected="a study of a few levels"
        ) from error
    except (yaml.YAMLError, ValueError) as error:
        # ValueError: an impossible date such as 2026-13-01.
        raise UserError("not a valid YAML file", where=path, found=error) from error


# What PyYAML, by YAML 1.1, takes for a number to the base of 60 or 8: `1:30` for 90, `010` for 8.
# Nobody who writes them means that, so they stay strings, which the schema refuses.
_OLD_NUMBERS = re.compile(r"[-+]?([0-9][0-9_]*(:[0-5]?[0-9])+(\.[0-9_]*)?|0[0-9_]+)")


class _Loader(yaml.SafeLoader):
    """Reads YAML, and refuses a key that a mapping gives twice."""

    path: Path

    def resolve(self, kind: type[yaml.Node], value: Any, implicit: Any) -> str:
        """Return the tag of a node; a plain scalar's implicit type is that of YAML 1.2."""
        if kind is yaml.ScalarNode and implicit[0] and _OLD_NUMBERS.fullmatch(value):
            return str(self.DEFAULT_SCALAR_TAG)
        tag: str = super().resolve(kind, value, implicit)  # type: ignore[no-untyped-call]
        return tag

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        """Return the value of a node; PyYAML raises all of these for a value unlike its tag."""
        try:
            return super().construct_object(node, deep)
        except (ArithmeticError, AttributeError, IndexError, KeyError, TypeError) as error:
            raise yaml.constructor.ConstructorError(
                None, None, f"{str(node.value)[:60]!r} is no {node.tag}", node.start_mark
            ) from error

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        """Return a mapping as it is written, before `<<` brings keys of others."""
        node: yaml.MappingNode = super().compose_mapping_node(anchor)
        first: dict[tuple[str, str], int] = {}
        for key, _ in node.value:
            line = key.start_mark.line + 1
            if not isinstance(key, yaml.ScalarNode):
                continue
            name = key.tag, key.value
            if name in first:
                raise UserError(
                    f"the key `{key.value}` is given twice",
                    where=f"{self.path}, line {line}",
                    expected=f"only one; the first is in line {first[name]}",
                )
            first[name] = line
        return node
