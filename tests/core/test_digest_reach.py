"""How far digests reach: what only predicts, downloads, words or shows runs no computation again.

A digest that covers too much costs days on a large model; one that covers too little keeps a wrong
number. `test_code_digest` guards against the second, this file against the first.
"""

from pathlib import Path

import pytest

from freelunch.core.code_digest import SCRIPTS, SURROUNDINGS, code_digest, covered_files
from freelunch.study.criteria import CRITERIA
from sources_read import forget_sources

# Scripts that fetch, plan, record or show; all others compute.
_OTHERS = ("fetch_", "collect_", "build_", "draw_", "audit_")
COMPUTING = sorted(path.stem for path in SCRIPTS.glob("*.py") if not path.stem.startswith(_OTHERS))
# Rooms and modules of the library that no computing script may reach.
APART = (
    *("costs/", "records/", "analysis/", "reporting/", "cli/"),
    *("data/sources/", "data/models.py", "data/tasks.py", "data/texts.py", "data/wiki.py"),
    "data/text_formats.py",
)
# Rooms that a script computes with, beside `core` and `study`.
ROOMS = {
    "mix_text": {"data"},
    "sample_mixture": {"data", "model"},
    "sample_calibration": {"data", "model"},
    "cut_windows": {"data", "model"},
    "capture_reference": {"evaluation", "model"},
    "evaluate_cell": {"evaluation", "model"},
    "extend_calibration": {"data", "model"},
    "capture_dense": {"model", "pruning"},
    "prune_model": {"model", "pruning"},
    "reconstruct_window": {"adaptation", "model"},
    "retrain_model": {"adaptation", "model"},
    "choose_candidate": {"adaptation", "model"},
}


# What a script imports by name.
BY_NAME = {
    "evaluate_cell": [
        f"freelunch.evaluation.{name}"
        for name in ("identity", "perplexity", "held_out", "drift", "tasks")
    ],
    "prune_model": [f"freelunch.pruning.criteria.{score}" for score in CRITERIA],
}


def covered(script: str) -> list[str]:
    """Return the modules of the library that a script's digest covers."""
    library = SCRIPTS / "freelunch"
    modules = BY_NAME.get(script, [])
    files = (path for path in covered_files(script, *modules) if path.is_relative_to(library))
    return [str(path.relative_to(library)) for path in files]


def test_the_lists_name_what_exists() -> None:
    assert set(ROOMS) <= set(COMPUTING)
    for name in APART:
        path = SCRIPTS / "freelunch" / name
        assert path.is_dir() if name.endswith("/") else path.is_file(), name


@pytest.mark.parametrize("script", COMPUTING)
def test_a_computing_script_reaches_nothing_that_stands_apart(script: str) -> None:
    too_far = [name for name in covered(script) if name.startswith(APART)]
    assert not too_far, f"{script} runs again after an edit of any of these"


@pytest.mark.parametrize("script", [name for name in COMPUTING if "mix" not in name])
def test_mixtures_are_apart_from_studies_without_one(script: str) -> None:
    """A finished study that calibrates on a single text does not run again after an edit there."""
    assert not [name for name in covered(script) if "mixture" in name]


@pytest.mark.parametrize("script", ROOMS)
def test_a_script_reaches_only_the_rooms_it_computes_with(script: str) -> None:
    rooms = {name.partition("/")[0] for name in covered(script) if "/" in name}
    assert rooms - {"core", "study"} == ROOMS[script]


# --- Edits


def digests(scripts: list[str]) -> dict[str, str]:
    forget_sources()
    return {script: code_digest(script, *BY_NAME.get(script, [])) for script in scripts}


@pytest.mark.parametrize("name", APART)
def test_an_edit_of_what_stands_apart_computes_nothing_again(copy: Path, name: str) -> None:
    """Such as a memory formula, a sentence of the summary, a way to download."""
    before = digests(COMPUTING)
    path = copy / "freelunch" / name
    for module in path.rglob("*.py") if path.is_dir() else [path]:
        module.write_text(module.read_text() + "\nEDITED = 1\n")
    after = digests(COMPUTING)
    assert [script for script in COMPUTING if before[script] != after[script]] == []


@pytest.mark.parametrize("name", SURROUNDINGS)
def test_an_edit_of_what_only_surrounds_or_declares_computes_nothing_again(
    copy: Path, name: str
) -> None:
    before = digests(COMPUTING)
    path = copy.joinpath(*name.split(".")).with_suffix(".py")
    # This fails if the module was renamed or moved, and SURROUNDINGS was not.
    path.write_text(path.read_text() + "\nEDITED = 1\n")
    assert digests(COMPUTING) == before


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("Searched[Rate] = 0.001", "Searched[Rate] = 0.002"),
        ("default=0.1, ge=0, lt=1)", "default=0.1, ge=0, lt=2)"),
        ('"constant"] = "linear"', '"constant"] = "cosine"'),
    ],
)
def test_an_edit_of_how_an_adaptation_trains_by_default_counts(
    copy: Path, old: str, new: str
) -> None:
    scripts = ["reconstruct_window", "retrain_model"]
    before = digests(scripts)
    path = copy / "freelunch" / "study" / "adaptations.py"
    text = path.read_text()
    assert text.count(old) == 1
    path.write_text(text.replace(old, new))
    after = digests(scripts)
    assert [name for name in scripts if before[name] == after[name]] == []
