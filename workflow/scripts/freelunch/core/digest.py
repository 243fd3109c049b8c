"""Digests: of files, of settings, and of the code that a script runs.

Snakemake sees a script change but not a change in a module the script imports. Each rule therefore
carries `code_digest(script)` in its `params`; the digest covers the script and, followed through
its import statements, every module of this library it can reach. Comments, docstrings and layout do
not count, so documenting a module reruns nothing; nor do the modules in `SURROUNDINGS`. Versions of
the packages that compute do count.
"""

import ast
import hashlib
import json
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

LIBRARY = Path(__file__).resolve().parents[1]
SCRIPTS = LIBRARY.parent

# Packages whose version can change a number.
PACKAGES = ("gguf", "numpy", "safetensors", "tokenizers", "torch", "transformers")
# Modules that say, name, lock and log, and hand nothing on that a result is computed from. A better
# message must not make a study of 72B parameters run again.
SURROUNDINGS = ("core/errors", "core/job", "core/lock", "core/progress", "study/steps")


def file_digest(path: Path) -> str:
    """Return the sha256 of a file as 64 hex digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def json_digest(value: Any) -> str:
    """Return the sha256 of a JSON value, independent of the order of its keys."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


def code_digest(script: str, *modules: str) -> str:
    """Return a digest of `workflow/scripts/<script>.py` and the library modules it can import.

    Args:
        script: Its name.
        modules: Modules that it imports by a name it is given, such as a criterion's.
    """
    surroundings = {LIBRARY / f"{name}.py" for name in SURROUNDINGS}
    roots = [SCRIPTS / f"{script}.py", *(file for name in modules for file in _module_files(name))]
    reached = {path for root in roots for path in reachable_modules(root)}
    paths = sorted(reached - surroundings)
    code = {str(path.relative_to(SCRIPTS)): _parsed(path)[0] for path in paths}
    return json_digest([code, _versions()])[:16]


def reachable_modules(path: Path) -> list[Path]:
    """Return `path` and every file of the library reachable from it through import statements."""
    reached: set[Path] = set()
    waiting = [path]
    while waiting:
        current = waiting.pop()
        if current not in reached:
            reached.add(current)
            waiting.extend(_parsed(current)[1])
    return sorted(reached)


@cache
def _versions() -> dict[str, str]:
    """Return the versions of PACKAGES, whichever build they are (2.13.0 for 2.13.0+cpu)."""
    return {name: version(name).partition("+")[0] for name in PACKAGES}


@cache
def _parsed(path: Path) -> tuple[str, tuple[Path, ...]]:
    """Return the digest of a file's code and the library files its import statements name."""
    tree = ast.parse(path.read_bytes(), filename=str(path))
    imported: set[Path] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                imported.update(_module_files(alias.name))
        elif isinstance(node, ast.ImportFrom):
            base = _absolute(path, node)
            imported.update(_module_files(base))
            for alias in node.names:
                imported.update(_module_files(f"{base}.{alias.name}"))
        elif (
            isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef)
            and ast.get_docstring(node, clean=False) is not None
        ):
            node.body = node.body[1:]
    return hashlib.sha256(ast.dump(tree).encode()).hexdigest(), tuple(sorted(imported))


def _absolute(path: Path, node: ast.ImportFrom) -> str:
    if node.level == 0:
        return node.module or ""
    package = path.resolve().relative_to(SCRIPTS).parts[: -node.level]
    return ".".join([*package, *([node.module] if node.module else [])])


def _module_files(name: str) -> list[Path]:
    """Return the library files that `import name` runs: the module and its packages."""
    parts = name.split(".")
    if parts[0] != LIBRARY.name:
        return []
    files = []
    for depth in range(1, len(parts) + 1):
        base = SCRIPTS.joinpath(*parts[:depth])
        files += [
            file for file in (base / "__init__.py", base.with_suffix(".py")) if file.is_file()
        ]
    return files
