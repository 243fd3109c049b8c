"""Digests of the code that a script runs: what decides whether a job runs again after an edit.

Snakemake notices an edited script, but not an edited module that the script imports. Each rule
therefore carries `code_digest(script)` in its `params`. The digest covers the script, every module
of this library that its import statements reach, and the versions of the packages that compute.

Only code that can change a result counts. Layout, comments, docstrings and messages do not (see
`freelunch.core.words`), nor do the modules in `SURROUNDINGS`.
"""

import ast
import hashlib
from functools import cache
from importlib.metadata import version
from pathlib import Path

from freelunch.core import words
from freelunch.core.code_cache import CodeCache, Source
from freelunch.core.digest import json_digest

LIBRARY = Path(__file__).resolve().parents[1]
SCRIPTS = LIBRARY.parent

# Packages whose version can change a number.
PACKAGES = ("gguf", "numpy", "safetensors", "tokenizers", "torch", "transformers")
# Packages that compute for one module alone. An upgrade of lm-eval, whose prompts and metrics are
# those of tasks, repeats no other measurement.
PACKAGES_OF = {
    "evaluation/tasks.py": ("lm-eval",),
    "data/wiki.py": ("mwparserfromhell",),
}
# Modules that every script imports and no result is computed from: how an error is laid out, what a
# job logs and measures of itself, which of the machine's GPUs it takes, how a folder is locked,
# which files need not be read for a check. They are code, which the rule about words does not
# cover; and a clearer progress line must not make a study of a 72B model run again.
#
# Modules that only declare: settings, whose values a job gets in `params`, defaults included, so
# that another criterion, model or description changes nothing for it; names of rules and files.
SURROUNDINGS = (
    *("core/checked.py", "core/devices.py", "core/disk.py"),
    *("core/errors.py", "core/job.py", "core/lock.py", "core/spent.py"),
    *("study/settings.py", "study/sources.py", "study/criteria.py", "study/steps.py"),
)


def code_digest(script: str, *modules: str) -> str:
    """Return the digest of a script of the workflow and of what it imports, as 16 hex digits.

    Args:
        script: Name of the script in `workflow/scripts`, without `.py`.
        modules: Full names of modules that the script imports by a name it is given, such as a
            criterion's.
    """
    covered = covered_files(script, *modules)
    code = {str(path.relative_to(SCRIPTS)): _parsed(path)[0] for path in covered}
    _cache().save()
    packages = list(PACKAGES)
    for name, those in PACKAGES_OF.items():
        packages += those if LIBRARY / name in covered else ()
    return json_digest([code, {name: _version(name) for name in packages}])[:16]


def covered_files(script: str, *modules: str) -> list[Path]:
    """Return the files that `code_digest` of the same arguments covers, sorted."""
    roots = [SCRIPTS / f"{script}.py", *(file for name in modules for file in _files(name))]
    reached = {path for root in roots for path in reachable_files(root)}
    return sorted(reached - {LIBRARY / name for name in SURROUNDINGS})


def reachable_files(path: Path) -> list[Path]:
    """Return a file and every file of the library that its import statements reach, sorted."""
    reached: set[Path] = set()
    waiting = [path]
    while waiting:
        current = waiting.pop()
        if current not in reached:
            reached.add(current)
            waiting.extend(_parsed(current)[1])
    return sorted(reached)


@cache
def _version(package: str) -> str:
    """Return a package's version, whichever build it is (2.13.0 for 2.13.0+cpu)."""
    return version(package).partition("+")[0]


@cache
def _parsed(path: Path) -> tuple[str, tuple[Path, ...]]:
    """Return the digest of a file's code and the library files that its import statements name."""
    content = path.read_bytes()
    source = _cache().get(path, content)
    if source is None:
        source = _parse(path, content)
        _cache().add(path, content, source)
    return source.code, tuple(sorted({each for name in source.names for each in _files(name)}))


@cache
def _cache() -> CodeCache:
    return CodeCache(SCRIPTS, [Path(__file__), Path(words.__file__)])


def _parse(path: Path, content: bytes) -> Source:
    tree = ast.parse(content, filename=str(path))
    names: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = _absolute(path, node)
            names.update([base, *(f"{base}.{alias.name}" for alias in node.names)])
    words.drop_words_(tree)
    return Source(hashlib.sha256(ast.dump(tree).encode()).hexdigest(), sorted(names))


def _absolute(path: Path, node: ast.ImportFrom) -> str:
    if node.level == 0:
        return node.module or ""
    package = path.resolve().relative_to(SCRIPTS).parts[: -node.level]
    return ".".join([*package, *([node.module] if node.module else [])])


@cache
def _files(name: str) -> list[Path]:
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
