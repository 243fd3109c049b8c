"""Digests of code: what changes them, that they see all code that a script runs, and no more.

A digest that covers too little keeps a wrong number; one that covers too much costs days on a large
model.
"""

import ast
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path

import pytest

# The module's name is also that of its function.
from freelunch.core import code_digest as digest
from freelunch.core.code_digest import (
    SCRIPTS,
    SURROUNDINGS,
    code_digest,
    covered_files,
    reachable_files,
)
from freelunch.reporting.figures import figure_modules
from freelunch.study.criteria import CRITERIA

NAMES = sorted(path.stem for path in SCRIPTS.glob("*.py"))
LIBRARY = SCRIPTS / "freelunch"
RULES = {path.stem: path.read_text() for path in (SCRIPTS.parent / "rules").glob("*.smk")}
MEASUREMENTS = [
    f"freelunch.evaluation.{name}"
    for name in ("identity", "perplexity", "held_out", "drift", "tasks")
]
# What a script imports by name.
BY_NAME = {
    "evaluate_cell": MEASUREMENTS,
    "prune_model": [f"freelunch.pruning.criteria.{score}" for score in CRITERIA],
}


@pytest.fixture
def copy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the scripts and the library, which is what digests are of from now on."""
    folder = tmp_path / "scripts"
    shutil.copytree(SCRIPTS, folder, ignore=shutil.ignore_patterns("__pycache__"))
    monkeypatch.setattr(digest, "SCRIPTS", folder)
    monkeypatch.setattr(digest, "LIBRARY", folder / "freelunch")
    return folder


def forget_sources() -> None:
    """Let digests of code read all sources again, as another process would."""
    for function in vars(digest).values():
        if hasattr(function, "cache_clear"):
            function.cache_clear()


@pytest.fixture(autouse=True)
def _no_stale_digests() -> Iterator[None]:
    forget_sources()
    yield
    forget_sources()


def digests(scripts: list[str] = NAMES) -> dict[str, str]:
    """Return the digest of each script as its sources are now."""
    forget_sources()
    return {script: code_digest(script, *BY_NAME.get(script, [])) for script in scripts}


def append(path: Path) -> None:
    path.write_text(path.read_text() + "\nEDITED = 1\n")


# --- What counts as a change


def test_an_edit_of_code_far_below_the_script_counts_and_layout_does_not(copy: Path) -> None:
    """`prune_model` imports `pruning`, and only that imports `masks`."""
    assert "masks" not in (copy / "prune_model.py").read_text().replace("the masks", "")
    before = digests(["prune_model", "fetch_text"])
    path = copy / "freelunch" / "pruning" / "masks.py"
    text = path.read_text()
    for old, new, counts in (
        ("groups <= threshold", "groups < threshold", True),
        ('"row"', '"column"', True),
        ("def lowest_of_columns", "def lowest_of_columns2", True),
        ("import torch\n", "import torch\n\n'a string that documents nothing'\n", True),
        ("import torch\n", "import torch  # A comment.\n", False),
        ('"""Masks from', '"""Masks out of', False),
        ("chosen[tied_groups] &= ~(", "chosen[tied_groups] &= ~(\n        ", False),
    ):
        assert old in text
        path.write_text(text.replace(old, new))
        after = digests(["prune_model", "fetch_text"])
        assert (after["prune_model"] != before["prune_model"]) is counts, new
        assert after["fetch_text"] == before["fetch_text"]


def test_a_module_that_is_renamed_or_moved_runs_nothing_again(copy: Path) -> None:
    """Neither does the change of the import lines that follow it, nor their new order."""
    before = digests()
    library = copy / "freelunch"
    (library / "a_new_room").mkdir()
    (library / "a_new_room" / "__init__.py").write_text('"""A room."""\n')
    moves = {
        "pruning/masks.py": "a_new_room/kept_weights.py",
        "core/digest.py": "core/zz_digests.py",
        "data/text_windows.py": "data/a_window.py",
    }
    for old, new in moves.items():
        (library / old).rename(library / new)
    edited = 0
    for path in copy.rglob("*.py"):
        text = path.read_text()
        for old, new in moves.items():
            was, becomes = (name.removesuffix(".py").replace("/", ".") for name in (old, new))
            text = re.sub(rf"\bfreelunch\.{was}\b", f"freelunch.{becomes}", text)
        edited += text != path.read_text()
        path.write_text(_sorted_imports(text))
    assert edited > 20
    assert digests() == before


def _sorted_imports(text: str) -> str:
    """Put the imports of the library that take one line in the order of their modules' names."""
    lines = text.splitlines(keepends=True)
    ours = [at for at, line in enumerate(lines) if re.match(r"from freelunch\..*[^(]\n$", line)]
    for at, line in zip(ours, sorted(lines[at] for at in ours), strict=True):
        lines[at] = line
    return "".join(lines)


def test_an_import_of_an_equal_name_from_another_module_counts(copy: Path) -> None:
    for name in ("one", "two"):
        (copy / "freelunch" / f"{name}.py").write_text(f"def f():\n    return '{name}'\n")
    found = set()
    for imported, beside in (
        ("one import f", "two"),
        ("two import f", "one"),
        ("one import f as g", "two"),
    ):
        (copy / "script.py").write_text(f"from freelunch.{imported}\nimport freelunch.{beside}\n")
        found |= {*digests(["script"]).values()}
    append(copy / "script.py")
    assert len(found | {*digests(["script"]).values()}) == 4


def test_every_way_of_importing_is_followed(copy: Path) -> None:
    folder = copy / "freelunch" / "inner"
    folder.mkdir()
    for name in ("__init__", "a", "b", "c", "d", "e", "stranger"):
        (folder / f"{name}.py").write_text(f"{name} = 1\n")
    (folder / "a.py").write_text("from . import b\nfrom .c import c\n")
    (folder / "b.py").write_text("def lazy():\n    import freelunch.inner.d as d\n    return d\n")
    (folder / "c.py").write_text("from freelunch.inner import e\nfrom ..core import errors\n")
    script = copy / "script.py"
    script.write_text("import os\nfrom freelunch.inner.a import b\n")
    found = {str(path.relative_to(copy)) for path in reachable_files(script)}
    assert found == {
        "script.py",
        "freelunch/__init__.py",
        "freelunch/core/__init__.py",
        "freelunch/core/errors.py",
        *(f"freelunch/inner/{name}.py" for name in ("__init__", "a", "b", "c", "d", "e")),
    }


def test_an_upgrade_of_a_package_repeats_what_imports_it(monkeypatch: pytest.MonkeyPatch) -> None:
    before = {name: code_digest(name) for name in NAMES}
    tasks = code_digest("evaluate_cell", "freelunch.evaluation.tasks")
    for package, expected in {
        "lm-eval": set[str](),
        "torch": set(NAMES),
    }.items():
        versions = {package: "99.0"}
        monkeypatch.setattr(
            digest, "version", lambda name, new=versions: new.get(name) or version(name)
        )
        forget_sources()
        assert {name for name in NAMES if code_digest(name) != before[name]} == expected
        found = code_digest("evaluate_cell", "freelunch.evaluation.tasks")
        assert found != tasks


# --- Whether the digests are complete

# Third-party packages first, so that each script pays for its own part of the library only.
_IMPORT_EACH = """
import ast, importlib, json, os, sys
import jsonschema, matplotlib.pyplot, numpy, safetensors.torch, torch, transformers, yaml
from transformers import AutoModelForCausalLM
for name in sys.argv[1:]:
    assert not any(module.startswith("freelunch") for module in sys.modules)
    sys.stdout.flush()
    if os.fork() == 0:
        importlib.import_module(name)
        # What the script imports only when it gets there.
        for node in ast.walk(ast.parse(open(sys.modules[name].__file__).read())):
            if isinstance(node, ast.ImportFrom) and node.module.startswith("freelunch."):
                importlib.import_module(node.module)
        files = [module.__file__ for key, module in sys.modules.items()
                 if key.partition(".")[0] == "freelunch"]
        print(json.dumps([name, files]), flush=True)
        os._exit(0)
    assert os.wait()[1] == 0, name
"""


def test_a_digest_covers_every_module_that_is_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    """But what surrounds each job: no result is computed from it."""
    command = [sys.executable, "-c", _IMPORT_EACH, *NAMES]
    environment = {**os.environ, "PYTHONPATH": str(SCRIPTS), "MPLBACKEND": "agg"}
    output = subprocess.check_output(command, env=environment, text=True)
    loaded = {name: {*map(Path, files)} for name, files in map(json.loads, output.splitlines())}
    assert loaded.keys() == set(NAMES)

    def uncovered(name: str) -> set[Path]:
        roots = (SCRIPTS / f"{name}.py", LIBRARY / "core" / "job.py")
        return loaded[name] - {path for root in roots for path in reachable_files(root)}

    assert {name: uncovered(name) for name in NAMES if uncovered(name)} == {}
    assert all(LIBRARY / "__init__.py" in files for files in loaded.values())
    # If the imports of one module were not followed, this would be noticed.
    complete = digest._files
    monkeypatch.setattr(digest, "_files", lambda name: [] if "masks" in name else complete(name))
    assert uncovered("prune_model") == {LIBRARY / "pruning" / "masks.py"}


def test_only_some_modules_are_imported_by_a_name_made_at_run_time() -> None:
    """What import statements do not say, no digest could cover, unless the rule names it."""
    by_name = (
        *("pruning/criteria/__init__.py", "evaluation/measurements.py"),
        *("reporting/drawing/style.py", "reporting/figures/__init__.py"),
    )
    for path in set(SCRIPTS.rglob("*.py")) - {LIBRARY / name for name in by_name}:
        for node in ast.walk(ast.parse(path.read_text())):
            names = {getattr(node, "id", None), getattr(node, "attr", None)}
            assert not names & {"import_module", "__import__"}, path


def test_each_rule_carries_the_digest_of_its_script() -> None:
    rules = "".join(path.read_text() for path in (SCRIPTS.parent / "rules").glob("*.smk"))
    # One script draws every sample, another every sample of a mixture.
    sampling = re.findall(r'SAMPLING = "(\w+)" if STUDY.mixture else "(\w+)"', rules)[0]
    assert rules.count("code_digest(SAMPLING)") == rules.count("scripts/{SAMPLING}.py") == 3
    for name in set(NAMES) - set(sampling):
        assert f'"../scripts/{name}.py"' in rules, f"no rule runs {name}"
        # With the modules that the script imports by name, where there are any.
        carried = re.search(rf'code=(lambda wildcards: )?code_digest\(\s*"{name}"', rules)
        assert carried, f"no rule carries the digest of {name}"
    for script in ("build_tables", "audit_study"):
        assert f'code=code_digest("{script}", *figure_modules())' in RULES["show"]
        covered = {path.stem for path in covered_files(script, *figure_modules())}
        by_name = {module.rpartition(".")[2] for module in figure_modules()}
        assert covered >= by_name | {"effects"}


# --- How far digests reach: what only predicts, downloads, words or shows computes nothing again

# Rooms that a script computes with, beside `core` and `study`; all others fetch, record or show.
ROOMS = {
    "mix_text": {"data"},
    "sample_mixture": {"data", "model"},
    "sample_text": {"data", "model"},
    "cut_windows": {"data", "model"},
    "decide_bos": {"data", "evaluation", "model"},
    "evaluate_cell": {"evaluation", "model"},
    "capture_dense": {"model", "pruning"},
    "prune_model": {"model", "pruning"},
    "reconstruct_window": {"adaptation", "model"},
    "retrain_model": {"adaptation", "model"},
    "choose_candidate": {"adaptation", "model"},
    "find_rate": {"adaptation", "model"},
}
# Rooms and modules of the library that no computing script may reach.
APART = (
    *("costs/", "records/", "analysis/", "reporting/", "audit/", "cli/"),
    *("data/sources.py", "data/hub.py", "data/models.py", "data/tasks.py", "data/texts.py"),
    *("data/text_formats.py", "data/inspect_model.py", "data/inspect_text.py"),
)


def test_a_computing_script_reaches_only_what_it_computes_with() -> None:
    others = ("fetch_", "collect_", "build_", "draw_", "audit_")
    assert {name for name in NAMES if not name.startswith(others)} == set(ROOMS)
    around = [name.partition(".")[2].replace(".", "/") + ".py" for name in SURROUNDINGS]
    apart = (*APART, *around)
    # One may have been renamed or moved.
    assert all((LIBRARY / name).exists() for name in apart)
    for script, rooms in ROOMS.items():
        files = covered_files(script, *BY_NAME.get(script, []))
        names = [str(path.relative_to(LIBRARY)) for path in files if path.is_relative_to(LIBRARY)]
        reached = {name.partition("/")[0] for name in names if "/" in name}
        assert reached - {"core", "study"} == rooms, script
        assert not [name for name in names if name.startswith(apart)], "it runs after an edit"
        # Studies without a mixture do not run again after an edit there.
        assert "mix" in script or not [name for name in names if "mixture" in name]


def test_an_edit_of_how_an_adaptation_trains_by_default_counts(copy: Path) -> None:
    scripts = ["reconstruct_window", "retrain_model"]
    path = copy / "freelunch" / "study" / "adaptations.py"
    text, before = path.read_text(), digests(scripts)
    for old, new in (
        ("Found[Rate] = 0.001", "Found[Rate] = 0.002"),
        ("default=0.1, ge=0, lt=1)", "default=0.1, ge=0, lt=2)"),
        ('"constant"] = "linear"', '"constant"] = "cosine"'),
    ):
        assert text.count(old) == 1
        path.write_text(text.replace(old, new))
        after = digests(scripts)
        assert [name for name in scripts if before[name] == after[name]] == [], old
