"""YAML files that people write: a key that is given twice is refused."""

from pathlib import Path
from typing import Any

import yaml

from freelunch.core.errors import UserError


def read_yaml(path: Path) -> Any:
    """Return the content of a YAML file.

    Raises:
        UserError: The file does not exist, is not valid YAML, or gives a key of a mapping twice, of
            which YAML would keep the last.
    """
    try:
        return _read(path)
    except (FileNotFoundError, IsADirectoryError) as error:
        raise UserError("there is no such file", where=path) from error
    except (yaml.YAMLError, ValueError) as error:
        # ValueError: bytes that are not text, or an impossible date such as 2026-13-01.
        raise UserError("not a valid YAML file", where=path, found=error) from error


def _read(path: Path) -> Any:
    loader = _Loader(path.read_text(encoding="utf-8"))
    loader.path = path
    try:
        return loader.get_single_data()
    finally:
        loader.dispose()


class _Loader(yaml.SafeLoader):
    """Reads YAML, and refuses a key that a mapping gives twice."""

    path: Path

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
