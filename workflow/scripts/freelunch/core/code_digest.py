"""Digests of the code that a script runs: what decides whether a job runs again after an edit.

Snakemake notices an edited script, but not an edited module that the script imports. Each rule
therefore carries `code_digest(script)` in its `params`. The digest covers the script, every module
of this library that its import statements reach, and the versions of the packages that compute.

It holds contents, never names of files: a module that is renamed or moved, and the import lines
that follow it, run nothing again. Comments, docstrings and layout do not count, nor do the modules
in `SURROUNDINGS`.
"""

import ast
import hashlib
from collections.abc import Iterator
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import NamedTuple

from freelunch.core.digest import json_digest

LIBRARY = Path(__file__).resolve().parents[1]
SCRIPTS = LIBRARY.parent

# Packages whose version can change a number.
PACKAGES = ("gguf", "numpy", "safetensors", "tokenizers", "torch", "transformers")
# Packages that count only where a module imports them, by the name of the import. An upgrade of
# lm-eval, whose prompts and metrics are those of tasks, repeats no other measurement.
PACKAGES_OF = {"lm_eval": "lm-eval"}
# Modules that many scripts import and no result is computed from: how an error is laid out, what a
# job logs and measures of itself, which of the machine's GPUs it takes, how a folder is locked. A
# clearer progress line must not make a study of a 72B model run again.
#
# Modules that only declare: settings, whose values a job gets in `params`, defaults included, so
# that another criterion, model or description changes nothing for it; names of rules and files.
SURROUNDINGS = (
    "freelunch.core.devices",
    "freelunch.core.errors",
    "freelunch.core.job",
    "freelunch.core.lock",
    "freelunch.core.job_cost",
    "freelunch.study.criteria",
    "freelunch.study.settings",
    "freelunch.study.sources",
    "freelunch.study.steps",
)


class Import(NamedTuple):
    """A name that an import statement binds: that of a module, or of something in it."""

    module: str
    # Empty if the module itself is imported.
    name: str
    bound: str

    @property
    def files(self) -> list[Path]:
        """The library files that the import runs, the one with the name last."""
        return _files(f"{self.module}.{self.name}".rstrip("."))


@cache
def code_digest(script: str, *modules: str) -> str:
    """Return the digest, 16 hex digits, of a script in `workflow/scripts` and of what it imports,
    with the modules that it imports by a name it is given, such as a criterion's.
    """
    covered = covered_files(script, *modules)
    imported = {each.module.partition(".")[0] for path in covered for each in _source(path)[1]}
    packages = [*PACKAGES, *(PACKAGES_OF[name] for name in PACKAGES_OF if name in imported)]
    contents = sorted({_content(path) for path in covered})
    # Whichever build it is: 2.13.0 for 2.13.0+cpu.
    versions = {name: version(name).partition("+")[0] for name in packages}
    return json_digest([contents, versions])[:16]


def covered_files(script: str, *modules: str) -> list[Path]:
    """Return the files that `code_digest` of the same arguments covers, sorted."""
    roots = [SCRIPTS / f"{script}.py", *(file for name in modules for file in _files(name))]
    reached = {path for root in roots for path in reachable_files(root)}
    return sorted(reached - _surroundings())


def reachable_files(path: Path) -> list[Path]:
    """Return a file and every file of the library that its import statements reach, sorted."""
    reached, waiting = set[Path](), {path}
    while waiting:
        reached |= waiting
        imports = {each for current in waiting for each in _source(current)[1]}
        waiting = {file for each in imports for file in each.files} - reached
    return sorted(reached)


@cache
def _content(path: Path) -> str:
    """Return the digest of a file's code, and of that of the files that it imports by name.

    So an import of an equal name from another module counts, although no module's name does.
    """
    code, imports = _source(path)
    names = []
    for each in imports:
        if each.files:
            origin = each.files[-1]
            name = each.name if origin == _files(each.module)[-1] else ""
            imported = "" if origin in _surroundings() else _source(origin)[0]
            names.append((imported, name, each.bound))
    return json_digest([code, sorted(names)])


@cache
def _source(path: Path) -> tuple[str, list[Import]]:
    """Return the digest of a file's code without docstrings and imports, and its imports."""
    tree = ast.parse(path.read_bytes(), filename=str(path))
    imports = list(_take_imports_(tree, path))
    return hashlib.sha256(ast.dump(tree).encode()).hexdigest(), imports


def _take_imports_(node: ast.AST, path: Path) -> Iterator[Import]:
    """Yield all imports in a tree, and remove those of the library, and docstrings, in place."""
    documented = ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef
    if isinstance(node, documented) and ast.get_docstring(node, clean=False) is not None:
        del node.body[0]
    for field in ("body", "orelse", "finalbody", "handlers", "cases"):
        statements: list[ast.AST] = getattr(node, field, [])
        for statement in [*statements]:
            if isinstance(statement, ast.Import | ast.ImportFrom):
                imports = list(_imports(statement, path))
                yield from imports
                if all(each.module.partition(".")[0] == LIBRARY.name for each in imports):
                    statements.remove(statement)
            else:
                yield from _take_imports_(statement, path)


def _imports(statement: ast.Import | ast.ImportFrom, path: Path) -> Iterator[Import]:
    for alias in statement.names:
        if isinstance(statement, ast.Import):
            yield Import(alias.name, "", alias.asname or alias.name)
        else:
            parts = [statement.module] if statement.module else []
            if statement.level:
                parts[:0] = path.resolve().relative_to(SCRIPTS).parts[: -statement.level]
            yield Import(".".join(parts), alias.name, alias.asname or alias.name)


@cache
def _surroundings() -> set[Path]:
    return {SCRIPTS.joinpath(*name.split(".")).with_suffix(".py") for name in SURROUNDINGS}


@cache
def _files(name: str) -> list[Path]:
    parts = name.split(".")
    if parts[0] != LIBRARY.name:
        return []
    bases = [SCRIPTS.joinpath(*parts[: depth + 1]) for depth in range(len(parts))]
    files = [file for base in bases for file in (base / "__init__.py", base.with_suffix(".py"))]
    return [file for file in files if file.is_file()]
