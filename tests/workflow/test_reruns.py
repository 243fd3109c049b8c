"""What runs again after an edit, and why: settings, code, files of the user, another machine."""

import json
import re
import shlex
import subprocess
import sys

import yaml

from study_folder import RECONSTRUCTED, SHOWN, WINDOWS, digests


def test_another_threshold_shows_and_audits_again_and_computes_nothing(study):
    study.edit("workflow/data/claims.yaml", "holds: {below: 0.05}", "holds: {below: 0.06}")
    shown = {"build_tables": 1, "draw_figure": 2, "audit_study": 1}
    assert study.planned() == {**shown, "all": 1, "total": 5}


def test_second_run_does_nothing(study):
    assert study.planned() == {}
    assert "Nothing to be done" in study.run()


def test_learning_rate_reruns_reconstructions_and_what_follows(study):
    study.edit("config.yaml", "method: reconstruction", "method: reconstruction\n    epochs: 2")
    assert study.planned() == {
        "reconstruct_window": 2,
        "evaluate_cell": 2,
        "collect_records": 2,
        "build_tables": 1,
        "draw_figure": 2,
        "audit_study": 1,
        "all": 1,
        "total": 11,
    }
    why = "reconstruct_window tiny/wanda-u50/recon_block/seed0: Params have changed"
    assert f"\n  {why}" in study.run("--dry-run")


def test_evaluation_setting_reruns_evaluations_only(study):
    study.edit("config.yaml", "windows: 16", "windows: 8")
    planned = study.planned()
    assert planned["evaluate_cell"] == 5
    assert planned.keys() == {
        "cut_windows",
        "evaluate_cell",
        "collect_records",
        "build_tables",
        "draw_figure",
        "audit_study",
        "all",
        "total",
    }


def test_calibration_setting_leaves_models_and_the_dense_cell_alone(study):
    study.edit("config.yaml", "samples: 8", "samples: 6")
    planned = study.planned()
    assert planned["capture_dense"] == 1
    assert planned["evaluate_cell"] == 4
    assert "fetch_model" not in planned
    assert "fetch_text" not in planned


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


def test_new_cell_adds_only_itself(study):
    study.edit("config.yaml", "patterns: [u50]", "patterns: [u50, u60]")
    planned = study.planned()
    assert planned["prune_model"] == 2
    assert planned["evaluate_cell"] == 4
    assert "capture_dense" not in planned


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


def test_better_words_and_predictions_compute_nothing_again(study):
    """An error of a source, one of a computation, a memory formula, a sentence of the summary."""
    library = "workflow/scripts/freelunch/"
    study.edit(library + "data/sources/hub.py", "was damaged on its way here", "arrived damaged")
    study.edit(library + "data/text_windows.py", "text is too short", "text is not long enough")
    study.edit(
        library + "costs/pruning.py", "+ 16 * shapes.largest_matrix", "+ 17 * shapes.largest_matrix"
    )
    study.edit(library + "reporting/sections/cell_section.py", '"All cells"', '"Every cell"')
    # Contradictions, what a setting is for, patterns in words, and what was not finite.
    for file, old in (
        ("study/adaptation_checks.py", "of one matrix holds no norm"),
        ("study/adaptations.py", "How the model is adapted"),
        ("study/retraining.py", "How the model is retrained"),
        ("study/patterns.py", "with 0 < N < M, such as 2of4"),
        ("study/patterns.py", "percent, unstructured"),
        ("study/windows.py", "the window is not decided yet"),
        ("reporting/cells.py", "learning rate {rate:g}"),
        ("audit/page_card.py", "of the attention heads and MLP channels become zero"),
        ("pruning/prune.py", "a weight is not finite"),
        ("model/mask_store.py", "a changed parameter is not finite"),
    ):
        study.edit(library + file, old, f"{old}, in other words")
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
