"""What runs again after an edit, and why: settings, code, files of the user, another machine."""

import json
import re
import shlex
import subprocess
import sys

import pytest
import yaml

from study_folder import RECONSTRUCTED, SHOWN, WINDOWS, digests


def test_another_threshold_shows_and_audits_again_and_computes_nothing(study):
    study.edit("workflow/data/claims.yaml", "holds: {below: 0.05}", "holds: {below: 0.06}")
    shown = {"build_tables": 1, "draw_figure": 2, "audit_study": 1}
    assert study.planned() == {**shown, "all": 1, "total": 5}


def test_second_run_does_nothing(study):
    assert study.planned() == {}
    assert "Nothing to be done" in study.run()


# What an edit of a study's file runs again, how often at least, and what it leaves alone.
AFTER_RECORDS = {"collect_records", "build_tables", "draw_figure", "audit_study", "all", "total"}
EDITS = {
    ("method: reconstruction", "method: reconstruction\n    epochs: 2"): (
        {"reconstruct_window": 2, "evaluate_cell": 2, "collect_records": 2},
        {"prune_model", "capture_dense"},
    ),
    ("windows: 16", "windows: 8"): (
        {"cut_windows": 1, "evaluate_cell": 5, "collect_records": 5},
        {"capture_dense", "prune_model", "reconstruct_window"},
    ),
    ("samples: 8", "samples: 6"): (
        {"capture_dense": 1, "evaluate_cell": 4},
        {"fetch_model", "fetch_text"},
    ),
    ("patterns: [u50]", "patterns: [u50, u60]"): (
        {"prune_model": 2, "evaluate_cell": 4},
        {"capture_dense"},
    ),
}


@pytest.mark.parametrize("edit", EDITS)
def test_a_setting_runs_again_what_depends_on_it_and_no_more(study, edit):
    study.edit("config.yaml", *edit)
    planned, (counts, left_alone) = study.planned(), EDITS[edit]
    assert {rule: planned[rule] for rule in counts} == counts
    assert not left_alone & planned.keys() and planned.keys() >= AFTER_RECORDS
    if "reconstruct_window" in counts:
        why = "reconstruct_window tiny/wanda-u50/recon_block/seed0: Params have changed"
        assert f"\n  {why}" in study.run("--dry-run")


def test_order_of_keys_makes_no_number_again(study):
    """Only the tables, whose order of rows and colours is that of the config."""
    path = study.path / "config.yaml"
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


def test_step_made_again_with_an_equal_result_leaves_the_rest_valid(study):
    """Its manifest is newer than what was made from it, but equal."""
    target = "results/smoke/calibration/tiny/seed0/manifest.json"
    before = (study.path / target).stat().st_mtime_ns
    study.run("--force", target)
    assert (study.path / target).stat().st_mtime_ns > before
    assert study.planned() == {}


def test_code_reruns_what_imports_it_and_comments_rerun_nothing(study):
    library = "workflow/scripts/freelunch/"
    study.edit(library + "pruning/masks.py", '"""Masks from scores:', '"""Masks out of scores:')
    study.edit(
        library + "model/mask_store.py",
        "        flat = np.unpackbits",
        "        # A comment.\n        flat = np.unpackbits",
    )
    assert study.planned() == {}
    study.edit(
        library + "pruning/criteria/wanda.py",
        "weight.float().abs() *",
        "weight.float().abs() * 1 *",
    )
    planned = study.planned()
    assert planned["prune_model"] == 1, "the other criterion has nothing to do with it"
    assert "capture_dense" not in planned
    study.edit(
        library + "model/mask_store.py",
        "        flat = np.unpackbits",
        "        flat = 1 * np.unpackbits",
    )
    planned = study.planned()
    assert planned["prune_model"] == 2
    assert "capture_dense" not in planned


def test_what_predicts_declares_or_shows_computes_nothing_again(study):
    """A memory formula, a setting, a section of the summary."""
    for module in (
        "costs/pass_costs.py",
        "study/settings.py",
        "reporting/sections.py",
    ):
        path = study.path / "workflow/scripts/freelunch" / module
        path.write_text(path.read_text() + "\nEDITED = 1\n")
    planned = study.planned()
    shown = {"all", "collect_records", "build_tables", "audit_study", "total"}
    assert {rule for rule in planned if not rule.startswith("draw_")} <= shown
    assert "build_tables" in planned, "the summary is written anew"


def test_a_licence_decides_nothing(study):
    """It is shown in the audit."""
    study.edit("config.yaml", "licence: public domain", "licence: CC0-1.0")
    assert study.planned() == {"audit_study": 1, "all": 1, "total": 2}


def test_changed_user_file_is_fetched_again(study):
    speeches = study.path / "tests/fixtures/speeches.jsonl"
    speeches.write_text(speeches.read_text().replace("Fellow-Citizens", "Fellow Citizens"))
    assert study.planned()["fetch_text"] == 1


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
    for key in ("flops", "tokens"):
        assert cost[key] == once[key]
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


def test_the_command_that_an_edited_study_names_computes_what_the_edit_asks_for(study):
    environment = {**study.environment, "PYTHONPATH": str(study.path / "workflow/scripts")}
    study.edit("config.yaml", "windows: 16", "windows: 8")
    command = [sys.executable, "-m", "freelunch", "summary", "config.yaml"]
    done = subprocess.run(
        command, cwd=study.path, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert "evaluation.perplexity.windows = 16" in done.stderr
    assert done.stderr.endswith(": make study STUDY=config.yaml\n")
    planned = study.planned()
    assert planned["cut_windows"] == 1 and "reconstruct_window" not in planned


def test_stale_steps_without_metadata_are_refused(study):
    """What DVC or a copy brings without Snakemake's metadata cannot pass under new settings."""
    study.edit("config.yaml", "windows: 16", "windows: 8")
    study.edit("config.yaml", "adaptations: [none, recon_block]", "adaptations: [none]")
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
