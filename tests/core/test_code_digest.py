"""Digests of code: what changes them, and that they see all code that a script runs."""

import ast
import json
import os
import re
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest

from freelunch.audit.figures import figure_modules, figures

# The module's name is also that of its function.
from freelunch.core import code_cache
from freelunch.core import code_digest as digest
from freelunch.core.code_digest import SCRIPTS, code_digest, covered_files, reachable_files
from freelunch.core.digest import sealed
from sources_read import forget_sources

NAMES = sorted(path.stem for path in SCRIPTS.glob("*.py"))


def edited_digest(path: Path, text: str, script: str) -> str:
    path.write_text(text)
    forget_sources()
    return code_digest(script)


@pytest.fixture(autouse=True)
def _no_stale_digests() -> None:
    forget_sources()


# --- What is kept between runs


def test_another_run_parses_nothing_and_an_edited_file_only_itself(
    copy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = {name: code_digest(name) for name in NAMES}
    forget_sources()
    parsed: list[str] = []
    parse = digest._parse
    monkeypatch.setattr(
        digest, "_parse", lambda path, text: parsed.append(path.name) or parse(path, text)
    )
    assert found == {name: code_digest(name) for name in NAMES}
    assert parsed == []
    path = copy / "freelunch" / "pruning" / "masks.py"
    assert edited_digest(path, path.read_text() + "X = 1\n", "prune_model") != found["prune_model"]
    assert parsed == ["masks.py"]


@pytest.mark.parametrize("damage", [b"", b"{", b'{"parsers": "", "sources": {}}'])
def test_damaged_memory_or_that_of_another_parser_is_none(copy: Path, damage: bytes) -> None:
    before = code_digest("prune_model")
    file = copy / "__pycache__" / code_cache.FILE
    content = json.loads(file.read_text())
    for entry in content["sources"].values():
        entry[1] = "0" * 64
    altered = json.dumps(sealed({**content, "parsers": "of another version"})).encode()
    for text in (damage, json.dumps(content).encode(), altered):
        file.write_bytes(text)
        forget_sources()
        assert code_digest("prune_model") == before


def test_a_folder_that_cannot_be_written_is_no_obstacle(copy: Path) -> None:
    (copy / "__pycache__").write_text("in the way of the folder")
    assert len(code_digest("prune_model")) == 16


def test_a_file_that_cannot_be_replaced_leaves_nothing_beside_it(copy: Path) -> None:
    file = copy / "__pycache__" / code_cache.FILE
    file.mkdir(parents=True)
    assert len(code_digest("prune_model")) == 16
    assert list(file.parent.iterdir()) == [file]


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
    tree = ast.parse(text)
    of_module = _first_line(tree)
    of_function = next(_first_line(node) for node in tree.body if isinstance(node, ast.FunctionDef))
    for change in (
        "# A comment.\n" + text,
        text.replace(of_function, "Return the same, in other words."),
        text.replace(of_module, "Other words."),
        text.replace("chosen[tied_groups] &= ~(", "chosen[tied_groups] &= ~(\n        "),
        text.replace("\n\n\n", "\n\n\n\n\n"),
    ):
        assert change != text
        assert edited_digest(path, change, "prune_model") == before
    no_docstring = ast.unparse(_without_docstrings(ast.parse(text)))
    assert '"""' not in no_docstring
    assert edited_digest(path, no_docstring, "prune_model") == before


def _first_line(node: ast.Module | ast.FunctionDef) -> str:
    docstring = ast.get_docstring(node)
    assert docstring
    return docstring.splitlines()[0]


def _without_docstrings(tree: ast.Module) -> ast.Module:
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.FunctionDef | ast.ClassDef) and ast.get_docstring(
            node
        ):
            node.body = node.body[1:]
    return tree


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("groups <= threshold", "groups < threshold"),
        ("dim=1", "dim=0"),
        ('"row"', '"column"'),
        ("def lowest_of_columns", "def lowest_of_columns2"),
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
    text = path.read_text()
    assert edited_digest(path, "# Words.\n" + text, "prune_model") == before
    assert edited_digest(path, text + "\nprint()\n", "prune_model") != before


def test_a_string_that_is_no_docstring_counts(copy: Path) -> None:
    path = copy / "freelunch" / "pruning" / "masks.py"
    text = path.read_text()
    one = edited_digest(path, text + '\nNOTE = """one"""\n', "prune_model")
    assert edited_digest(path, text + '\nNOTE = """two"""\n', "prune_model") != one


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
        *("pruning/criteria/__init__.py", "evaluation/cell.py"),
        *("reporting/drawing/files.py", "reporting/figures/__init__.py"),
    )
    for path in set(SCRIPTS.rglob("*.py")) - {SCRIPTS / "freelunch" / name for name in by_name}:
        for node in ast.walk(ast.parse(path.read_text())):
            names = {getattr(node, "id", None), getattr(node, "attr", None)}
            assert not names & {"import_module", "__import__"}, path


def test_each_rule_carries_the_digest_of_its_script() -> None:
    rules = "".join(path.read_text() for path in (SCRIPTS.parent / "rules").glob("*.smk"))
    for name in NAMES:
        assert f'"../scripts/{name}.py"' in rules, f"no rule runs {name}"
        # With the modules that the script imports by name, where there are any.
        carried = re.search(rf'code=(lambda wildcards: )?code_digest\(\s*"{name}"', rules)
        assert carried, f"no rule carries the digest of {name}"


def test_pruning_carries_the_digest_of_its_own_criterion(copy: Path) -> None:
    """An edit of one criterion reruns what uses it, and nothing else."""
    rule = (SCRIPTS.parent / "rules" / "prune.smk").read_text()
    assert 'f"freelunch.pruning.criteria.{STUDY.criterion(wildcards.criterion).score}"' in rule
    names = [path.stem for path in (copy / "freelunch" / "pruning" / "criteria").glob("[a-z]*.py")]

    def digests() -> dict[str, str]:
        forget_sources()
        return {
            name: code_digest("prune_model", f"freelunch.pruning.criteria.{name}") for name in names
        }

    before = digests()
    path = copy / "freelunch" / "pruning" / "criteria" / "wanda.py"
    path.write_text(path.read_text() + "\nNOTE = 1\n")
    after = digests()
    # Those of units are made of Wanda's scores.
    assert {name for name in names if after[name] != before[name]} == {"wanda", "wanda_sp", "flap"}


def test_an_edit_of_a_measurement_repeats_no_other(copy: Path) -> None:
    rule = (SCRIPTS.parent / "rules" / "evaluate.smk").read_text()
    assert 'code_digest("evaluate_cell", f"freelunch.evaluation.{name}")' in rule
    names = ("identity", "perplexity", "held_out", "drift", "tasks")

    def digests() -> dict[str, str]:
        forget_sources()
        return {
            name: code_digest("evaluate_cell", f"freelunch.evaluation.{name}") for name in names
        }

    before = digests()
    path = copy / "freelunch" / "evaluation" / "drift.py"
    path.write_text(path.read_text() + "\nNOTE = 1\n")
    after = digests()
    assert {name for name in names if after[name] != before[name]} == {"drift"}


def test_an_upgrade_of_lm_eval_repeats_the_tasks_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    names = ("identity", "perplexity", "held_out", "drift", "tasks")

    def digests(upgraded: str = "") -> dict[str, str]:
        digest._version.cache_clear()
        monkeypatch.setattr(
            digest, "version", lambda name: "99.0" if name == upgraded else version(name)
        )
        return {
            name: code_digest("evaluate_cell", f"freelunch.evaluation.{name}") for name in names
        }

    before = digests()
    upgraded = digests("lm-eval")
    assert {name for name in names if upgraded[name] != before[name]} == {"tasks"}
    assert not digests("torch").items() & before.items()
    digest._version.cache_clear()


def test_an_upgrade_of_the_parser_of_wikis_fetches_texts_alone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    names = sorted(path.stem for path in SCRIPTS.glob("*.py"))

    def digests(upgraded: str = "") -> dict[str, str]:
        digest._version.cache_clear()
        monkeypatch.setattr(
            digest, "version", lambda name: "99.0" if name == upgraded else version(name)
        )
        return {name: code_digest(name) for name in names}

    before, after = digests(), digests("mwparserfromhell")
    assert {name for name in before if after[name] != before[name]} == {
        "fetch_text",
        "fetch_text_files",
    }
    digest._version.cache_clear()


def test_a_figure_is_drawn_anew_by_an_edit_of_its_own_drawing_alone(copy: Path) -> None:
    rule = (SCRIPTS.parent / "rules" / "show.smk").read_text()
    assert 'code_digest("draw_figure", figure_of(wildcards).drawing)' in rule

    def digests() -> dict[str, str]:
        forget_sources()
        return {
            name: code_digest("draw_figure", figure.drawing) for name, figure in figures().items()
        }

    before = digests()
    path = copy / "freelunch" / "reporting" / "figures" / "gain_by_window.py"
    path.write_text(path.read_text() + "\nNOTE = 1\n")
    after = digests()
    assert {name for name in before if after[name] != before[name]} == {"windows"}


@pytest.mark.parametrize("script", ["build_tables", "audit_study"])
def test_what_reads_the_declarations_of_figures_carries_them(script: str) -> None:
    rule = (SCRIPTS.parent / "rules" / "show.smk").read_text()
    assert f'code=code_digest("{script}", *figures.figure_modules())' in rule
    covered = {path.stem for path in covered_files(script, *figure_modules())}
    by_name = {module.rpartition(".")[2] for module in figure_modules()}
    assert covered >= by_name | {"effects", "budget_ratios"}
