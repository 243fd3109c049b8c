"""Digests of code: what changes them, and that they see all code that a script runs."""

import ast
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from importlib.metadata import version
from pathlib import Path

import pytest

from freelunch.audit.figures import figure_modules, figures

# The module's name is also that of its function.
from freelunch.core import code_digest as digest
from freelunch.core.code_digest import SCRIPTS, code_digest, covered_files, reachable_files
from sources_read import forget_sources

NAMES = sorted(path.stem for path in SCRIPTS.glob("*.py"))


def edited_digest(path: Path, text: str, script: str) -> str:
    path.write_text(text)
    forget_sources()
    return code_digest(script)


@pytest.fixture(autouse=True)
def _no_stale_digests() -> Iterator[None]:
    forget_sources()
    yield
    forget_sources()


# --- What counts as a change


def test_a_copy_has_the_same_digests(copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A digest does not depend on where the repository lies."""
    found = {name: code_digest(name) for name in NAMES}
    monkeypatch.undo()
    forget_sources()
    assert found == {name: code_digest(name) for name in NAMES}
    assert len(set(found.values())) == len(NAMES)


def test_comments_docstrings_and_layout_do_not_count(copy: Path) -> None:
    before = code_digest("prune_model")
    path = copy / "freelunch" / "pruning" / "masks.py"
    text = path.read_text()
    of_module, of_function = text.split('"""')[1], text.split('"""')[3]
    for change in (
        "# A comment.\n" + text,
        text.replace(of_function, "Return the same, in other words."),
        text.replace(f'"""{of_module}"""', ""),
        text.replace("chosen[tied_groups] &= ~(", "chosen[tied_groups] &= ~(\n        "),
        text.replace("\n\n\n", "\n\n\n\n\n"),
    ):
        assert change != text
        assert edited_digest(path, change, "prune_model") == before


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("groups <= threshold", "groups < threshold"),
        ("dim=1", "dim=0"),
        ('"row"', '"column"'),
        ("def lowest_of_columns", "def lowest_of_columns2"),
        ("import torch\n", "import torch\n\n'a string that documents nothing'\n"),
    ],
)
def test_an_edit_of_code_far_below_the_script_counts(copy: Path, old: str, new: str) -> None:
    """`prune_model` imports `pruning`, and only that imports `masks`."""
    assert "masks" not in (copy / "prune_model.py").read_text().replace("the masks", "")
    before = code_digest("prune_model")
    untouched = code_digest("fetch_text")
    path = copy / "freelunch" / "pruning" / "masks.py"
    text = path.read_text()
    assert old in text
    assert edited_digest(path, text.replace(old, new), "prune_model") != before
    assert code_digest("fetch_text") == untouched


def test_an_edit_of_the_script_itself_counts(copy: Path) -> None:
    before = code_digest("prune_model")
    path = copy / "prune_model.py"
    assert edited_digest(path, path.read_text() + "\nprint()\n", "prune_model") != before


def test_a_module_that_is_renamed_or_moved_runs_nothing_again(copy: Path) -> None:
    """Neither does the change of the import lines that follow it, nor their new order."""
    before = {name: code_digest(name) for name in NAMES}
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
    forget_sources()
    assert {name: code_digest(name) for name in NAMES} == before


def _sorted_imports(text: str) -> str:
    """Put the imports of the library that take one line in the order of their modules' names."""
    lines = text.splitlines(keepends=True)
    ours = [at for at, line in enumerate(lines) if re.match(r"from freelunch\..*[^(]\n$", line)]
    for at, line in zip(ours, sorted(lines[at] for at in ours), strict=True):
        lines[at] = line
    return "".join(lines)


def test_an_import_of_an_equal_name_from_another_module_counts(copy: Path) -> None:
    (copy / "script.py").write_text("from freelunch.one import f\nimport freelunch.two\n")
    for name in ("one", "two"):
        (copy / "freelunch" / f"{name}.py").write_text(f"def f():\n    return '{name}'\n")
    before = code_digest("script")
    other = "from freelunch.two import f\nimport freelunch.one\n"
    assert edited_digest(copy / "script.py", other, "script") != before
    renamed = "from freelunch.one import f as g\nimport freelunch.two\n"
    assert edited_digest(copy / "script.py", renamed, "script") != before


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


@pytest.fixture(scope="module")
def loaded() -> dict[str, set[Path]]:
    """Return the library files that are in memory when a script has imported all that it does."""
    environment = {**os.environ, "PYTHONPATH": str(SCRIPTS), "MPLBACKEND": "agg"}
    output = subprocess.run(
        [sys.executable, "-c", _IMPORT_EACH, *NAMES],
        env=environment,
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    ).stdout
    found = dict(json.loads(line) for line in output.splitlines())
    return {name: {Path(file) for file in files} for name, files in found.items()}


@pytest.mark.parametrize("name", NAMES)
def test_a_digest_covers_every_module_that_is_loaded(
    loaded: dict[str, set[Path]], name: str
) -> None:
    covered = set(reachable_files(SCRIPTS / f"{name}.py"))
    assert SCRIPTS / "freelunch" / "__init__.py" in loaded[name]
    assert loaded[name] <= covered, "an edit of these would rerun nothing"


def test_an_incomplete_digest_is_noticed(
    loaded: dict[str, set[Path]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """If the imports of one module were not followed, the test above would fail."""
    complete = digest._files
    monkeypatch.setattr(digest, "_files", lambda name: [] if "masks" in name else complete(name))
    covered = set(reachable_files(SCRIPTS / "prune_model.py"))
    assert loaded["prune_model"] - covered == {SCRIPTS / "freelunch" / "pruning" / "masks.py"}


def test_only_some_modules_are_imported_by_a_name_made_at_run_time() -> None:
    """What import statements do not say, no digest could cover, unless the rule names it."""
    by_name = (
        *("pruning/criteria/__init__.py", "evaluation/measurements.py"),
        *("reporting/drawing/figure_files.py", "reporting/figures/__init__.py"),
    )
    for path in set(SCRIPTS.rglob("*.py")) - {SCRIPTS / "freelunch" / name for name in by_name}:
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


# What a rule names beside its script: where it says so, and the modules.
CRITERIA = sorted(
    f"freelunch.pruning.criteria.{path.stem}"
    for path in (SCRIPTS / "freelunch" / "pruning" / "criteria").glob("[a-z]*.py")
)
MEASUREMENTS = [
    f"freelunch.evaluation.{name}"
    for name in ("identity", "perplexity", "held_out", "drift", "tasks")
]
DRAWINGS = [figure.drawing for figure in figures().values()]


def changed(script: str, modules: list[str], edit: Callable[[], object]) -> set[str]:
    """Return the modules with which a script's digest differs after an edit, by their last name."""

    def digests() -> dict[str, str]:
        forget_sources()
        return {name.rpartition(".")[2]: code_digest(script, name) for name in modules}

    before = digests()
    edit()
    after = digests()
    return {name for name in before if after[name] != before[name]}


@pytest.mark.parametrize(
    ("rule", "named", "script", "modules", "edited", "expected"),
    [
        (
            "prune",
            'f"freelunch.pruning.criteria.{STUDY.criterion(wildcards.criterion).score}"',
            "prune_model",
            CRITERIA,
            "pruning/criteria/wanda.py",
            # Those of units are made of Wanda's scores.
            {"wanda", "wanda_sp", "flap"},
        ),
        (
            "evaluate",
            'code_digest("evaluate_cell", f"freelunch.evaluation.{name}")',
            "evaluate_cell",
            MEASUREMENTS,
            "evaluation/drift.py",
            {"drift"},
        ),
        (
            "show",
            'code_digest("draw_figure", figure_of(wildcards).drawing)',
            "draw_figure",
            DRAWINGS,
            "reporting/figures/gain_by_window.py",
            {"gain_by_window"},
        ),
    ],
)
def test_a_job_carries_the_digest_of_the_module_that_it_uses_alone(
    copy: Path,
    rule: str,
    named: str,
    script: str,
    modules: list[str],
    edited: str,
    expected: set[str],
) -> None:
    """An edit of one criterion, measurement or figure reruns what uses it, and nothing else."""
    assert named in (SCRIPTS.parent / "rules" / f"{rule}.smk").read_text()
    path = copy / "freelunch" / edited
    edit = path.read_text() + "\nNOTE = 1\n"
    assert changed(script, modules, lambda: path.write_text(edit)) == expected


@pytest.mark.parametrize(
    ("package", "measurements", "scripts"),
    [
        ("lm-eval", {"tasks"}, set()),
        ("mwparserfromhell", set(), {"fetch_text"}),
        ("torch", {name.rpartition(".")[2] for name in MEASUREMENTS}, set(NAMES)),
    ],
)
def test_an_upgrade_of_a_package_repeats_what_imports_it(
    monkeypatch: pytest.MonkeyPatch, package: str, measurements: set[str], scripts: set[str]
) -> None:
    def upgrade() -> None:
        monkeypatch.setattr(
            digest, "version", lambda name: "99.0" if name == package else version(name)
        )

    before = {name: code_digest(name) for name in NAMES}
    assert changed("evaluate_cell", MEASUREMENTS, upgrade) == measurements
    assert {name for name in NAMES if code_digest(name) != before[name]} == scripts


@pytest.mark.parametrize("script", ["build_tables", "audit_study"])
def test_what_reads_the_declarations_of_figures_carries_them(script: str) -> None:
    rule = (SCRIPTS.parent / "rules" / "show.smk").read_text()
    assert f'code=code_digest("{script}", *figures.figure_modules())' in rule
    covered = {path.stem for path in covered_files(script, *figure_modules())}
    by_name = {module.rpartition(".")[2] for module in figure_modules()}
    assert covered >= by_name | {"effects", "budget_ratios"}
