"""What runs again after an edit, and why: settings, code, files of the user, another machine."""

import json
import os
import re
import shlex
import subprocess

import pytest
import yaml

from study_folder import RECONSTRUCTED, SHOWN, WINDOWS, digests

LIBRARY = "workflow/scripts/freelunch/"
CONFIG = "config.yaml"
DRAWN = {"draw_figure", "audit_study", "all", "total"}
ALL_SHOWN = {"build_tables": 1, "draw_figure": 2, "audit_study": 1}
# Edits: the file, what it holds and what it is to hold, how many jobs of some rules run again, and
# the rules of which some may; of all others none do. An empty text stands for the file's end.
COMPUTED = {"evaluate_cell", "collect_records", "build_tables", *DRAWN}
ADAPTED = {"reconstruct_window", *COMPUTED}
PRUNED = {"prune_model", *ADAPTED}
SAMPLED = {"sample_calibration", "capture_dense", *PRUNED}
EDITS = {
    "a threshold shows and audits again": (
        ("workflow/data/claims.yaml", "holds: {below: 0.05}", "holds: {below: 0.06}"),
        ALL_SHOWN,
        {"all", "total"},
    ),
    "a licence decides nothing": (
        (CONFIG, "licence: public domain", "licence: CC0-1.0"),
        {"audit_study": 1},
        {"all", "total"},
    ),
    "an adaptation": (
        (CONFIG, "method: reconstruction", "method: reconstruction\n    epochs: 2"),
        {"reconstruct_window": 2, "evaluate_cell": 2, "collect_records": 2, **ALL_SHOWN},
        ADAPTED,
    ),
    "windows of the evaluation": (
        (CONFIG, "windows: 16", "windows: 8"),
        {"cut_windows": 1, "evaluate_cell": 5, "collect_records": 5, **ALL_SHOWN},
        COMPUTED,
    ),
    "the calibration": (
        (CONFIG, "samples: 8", "samples: 6"),
        {"capture_dense": 1, "evaluate_cell": 4},
        SAMPLED,
    ),
    "another pattern": (
        (CONFIG, "patterns: [u50]", "patterns: [u50, u60]"),
        {"prune_model": 2, "evaluate_cell": 4},
        PRUNED,
    ),
    "a text of the user": (
        ("tests/fixtures/speeches.jsonl", "Fellow-Citizens", "Fellow Citizens"),
        {"fetch_text": 1},
        {"cut_windows", "decide_bos", *SAMPLED},
    ),
    "a docstring": (
        (LIBRARY + "pruning/masks.py", '"""Masks from scores:', '"""Masks out of scores:'),
        {},
        set(),
    ),
    "a comment": (
        (LIBRARY + "model/mask_store.py", "        flat =", "        # Bits.\n        flat ="),
        {},
        set(),
    ),
    "one criterion has nothing to do with the other": (
        (
            LIBRARY + "pruning/criteria/wanda.py",
            "weight.float().abs() *",
            "weight.float().abs() * 1 *",
        ),
        {"prune_model": 1},
        PRUNED,
    ),
    "code that all masks are stored by": (
        (LIBRARY + "model/mask_store.py", "flat = np.unpackbits", "flat = 1 * np.unpackbits"),
        {"prune_model": 2},
        PRUNED,
    ),
    "a formula of costs, which records have": (
        (LIBRARY + "costs/pass_costs.py", "", "\nEDITED = 1\n"),
        {},
        {"collect_records", "build_tables", *DRAWN},
    ),
    "a declaration": (
        (LIBRARY + "study/settings.py", "", "\nEDITED = 1\n"),
        {},
        {"collect_records", "build_tables", *DRAWN},
    ),
    "a section of the summary": (
        (LIBRARY + "reporting/sections.py", "", "\nEDITED = 1\n"),
        {"build_tables": 1},
        DRAWN,
    ),
}


@pytest.fixture(scope="module")
def shared(finished, tmp_path_factory):
    """A finished study that is only planned: each test puts back what it edits."""
    return finished.copy(tmp_path_factory.mktemp("reruns") / "study").warm()


@pytest.mark.parametrize("edit", EDITS)
def test_an_edit_runs_again_what_depends_on_it_and_no_more(shared, edit):
    (file, old, new), counts, others = EDITS[edit]
    path = shared.path / file
    before, stamp = path.read_text(), path.stat()
    assert old in before
    path.write_text(before.replace(old, new) if old else before + new)
    try:
        planned = shared.planned()
        said = shared.run("--dry-run") if "reconstruct_window" in counts else ""
    finally:
        path.write_text(before)
        os.utime(path, ns=(stamp.st_atime_ns, stamp.st_mtime_ns))
    assert {rule: planned.get(rule) for rule in counts} == counts
    assert planned.keys() <= counts.keys() | others
    why = "reconstruct_window tiny/wanda-u50/recon_block/seed0: Params have changed since last "
    assert not said or f"\n  {why}execution: epochs 1 -> 2\n" in said


def test_second_run_does_nothing(study):
    assert study.planned() == {}
    assert "Nothing to be done" in study.run()
    # A step made again with an equal result leaves the rest valid, though its manifest is newer.
    target = "results/smoke/calibration/tiny/seed0/manifest.json"
    before = (study.path / target).stat().st_mtime_ns
    study.run("--force", target)
    assert (study.path / target).stat().st_mtime_ns > before
    assert study.planned() == {}


def test_order_of_keys_makes_no_number_again(study):
    """Only the tables, whose order of rows and colours is that of the config."""
    path = study.path / CONFIG
    config = yaml.safe_load(path.read_text())

    def reverse(value):
        if not isinstance(value, dict):
            return value
        return {key: reverse(inner) for key, inner in reversed(value.items())}

    path.write_text(yaml.safe_dump(config, sort_keys=True))
    assert study.planned().keys() <= SHOWN
    for registry in ("models", "texts", "criteria", "adaptations"):
        for name, entry in config[registry].items():
            config[registry][name] = reverse(entry)
    path.write_text(yaml.safe_dump(config, sort_keys=False))
    assert study.planned().keys() <= SHOWN


def test_another_number_of_groups_keeps_the_windows(study):
    """Also a number larger than that of the windows, which leaves a group empty."""
    results = study.path / "results/smoke"
    checkpoint = results / "checkpoints" / RECONSTRUCTED
    before = digests(checkpoint)
    target = "results/smoke/records/tiny__wanda-u50__recon_block__seed0.json"
    once = json.loads((study.path / target).read_text())["cost"]["reconstruct_window"]
    study.run("--set-scatter", "windows=5", "--", target)
    # The study stays with its number where nobody says another one.
    assert study.planned("--", target) == {}
    assert digests(checkpoint) == before
    whole = study.path / WINDOWS
    for index in range(4):
        shard = f"block-{index:03d}.safetensors"
        part = whole.parent / f"{index + 2}-of-5" / shard
        assert part.samefile(whole / shard), "it was made again"
    cost = json.loads((study.path / target).read_text())["cost"]["reconstruct_window"]
    assert [cost[key] for key in ("flops", "tokens")] == [once[key] for key in ("flops", "tokens")]
    assert cost["jobs"] == 5 and cost["peak_bytes"] >= 0.9 * once["peak_bytes"]


def forced_by(study, said):
    """Return the rules that the `make` command in a message would run because they are forced."""
    command = re.search(r"`(make study [^`]*)`", said)[1]
    # There is no environment to make: this one's programs are found.
    given = [*shlex.split(command), "--dry-run", "--old-file=.venv/.ready"]
    library = str(study.path / "workflow" / "scripts")
    environment = {**study.environment, "VERBOSE": "1", "PYTHONPATH": library}
    options = {"cwd": study.path, "env": environment, "capture_output": True, "text": True}
    said = subprocess.run(given, check=True, **options).stdout.replace("\\\n", " ")
    (run,) = (line for line in said.splitlines() if "freelunch run" in line)
    # A shell, since the recipe sets a variable before its command.
    done = subprocess.run(["bash", "-c", f"{run} -- --dry-run"], check=False, **options)
    assert done.returncode == 0, done.stderr
    forced = re.search(r"^    forced:\n +(.+)$", done.stdout + done.stderr, re.MULTILINE)
    return forced[1].split(", ") if forced else []


def test_stale_steps_without_metadata_are_refused(study):
    """What DVC or a copy brings without Snakemake's metadata cannot pass under new settings."""
    study.edit(CONFIG, "windows: 16", "windows: 8")
    done = study.freelunch("summary", CONFIG)
    assert done.returncode == 1
    assert "evaluation.perplexity.windows = 16" in done.stderr
    assert done.stderr.endswith(": make study STUDY=config.yaml\n")
    study.edit(CONFIG, "adaptations: [none, recon_block]", "adaptations: [none]")
    for record in (study.path / "results/smoke/records").iterdir():
        record.unlink()
    for metadata in (study.path / ".snakemake/metadata").iterdir():
        metadata.unlink()
    output = study.run(status=1)
    assert "was computed with other settings than the config asks for" in output
    assert "evaluation.perplexity.windows = 16" in output
    assert forced_by(study, output) == ["cut_windows"]
    study.run("--forcerun", "cut_windows", "evaluate_cell", "--")
    assert study.planned() == {}
