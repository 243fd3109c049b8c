"""The workflow by running it: what it makes, what runs again and why, what it says when stopped."""

import csv
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

import pytest
import torch
import yaml
from huggingface_hub import ModelCard
from transformers import AutoModelForCausalLM

from study_folder import digests

RECONSTRUCTED = "tiny/wanda-u50/recon_block/seed0"
WINDOWS = Path("results/smoke/windows") / RECONSTRUCTED / "1-of-1"
MASKS = "results/smoke/pruned/tiny/wanda-u50/seed0/masks-001.safetensors"
SLOW = f"{WINDOWS}/manifest.json"


def wait_for(process: subprocess.Popen[str], condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + 180
    while not condition():
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < deadline, "this took more than three minutes"
        time.sleep(0.01)


def test_study_leaves_records_tables_figures_and_loadable_checkpoints(finished):
    results = finished.path / "results" / "smoke"
    records = sorted(path.name for path in (results / "records").iterdir())
    assert records == [
        "tiny__dense__none__seed0.json",
        "tiny__magnitude-u50__none__seed0.json",
        "tiny__magnitude-u50__recon_block__seed0.json",
        "tiny__wanda-u50__none__seed0.json",
        "tiny__wanda-u50__recon_block__seed0.json",
    ]
    with (results / "tables" / "summary.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0])[:5] == ["model", "criterion", "pattern", "adaptation", "seed"]
    assert rows[0]["criterion"] == "dense"
    for suffix in ("png", "svg", "pdf"):
        assert (results / "figures" / f"criteria.{suffix}").stat().st_size > 1000
    checkpoint = results / "checkpoints" / RECONSTRUCTED
    model = AutoModelForCausalLM.from_pretrained(checkpoint)
    for layer in model.model.layers:
        weight = layer.mlp.down_proj.weight
        # Wanda compares within rows, so each row has lost exactly half of its 64 inputs.
        assert torch.equal((weight == 0).sum(1), torch.full((32,), 32))
    record = json.loads((results / "records" / records[4]).read_text())
    card = ModelCard.load(checkpoint / "README.md")
    assert card.data.model_name == record["cell"] and record["sha256"] in card.text
    assert record["identity"]["sparsity"] == 0.5
    assert set(record["cost"]) >= {"capture_dense", "reconstruct_window", "evaluate_cell"}
    assert all(step["wall_s"] > 0 for step in record["cost"].values())
    for name in ("capture_dense", "prune_model", "reconstruct_window", "evaluate_cell"):
        step = record["cost"][name]
        assert step["peak_requested_bytes"] > step["peak_bytes"]
        assert step["requested_s"] > step["wall_s"]
    assert record["provenance"]["environments"]["reconstruct_window"]["threads"] == 1
    packages = record["provenance"]["environments"]["evaluate_cell"]["packages"]
    assert packages["torch"] == version("torch")
    assert record["provenance"]["text_origins"]["evaluation"]["source"] == "path"


def test_study_ends_with_an_audit(finished):
    results = finished.path / "results" / "smoke"
    audit = json.loads((results / "audit" / "audit.json").read_text())
    verdicts = {claim["id"]: claim["verdict"] for claim in audit["claims"]}
    assert verdicts["C4"] == "not testable here"
    recovery = next(claim for claim in audit["claims"] if claim["id"] == "C1")["parts"][0]
    (finding,) = recovery["findings"]
    assert finding["reason"] == "there are no cells of ria, sparsegpt"
    perplexity = next(claim for claim in audit["claims"] if claim["id"] == "C4")["parts"][1]
    assert perplexity["findings"][0]["text"] == "24.02 GB"
    page = (results / "audit" / "index.html").read_text()
    assert "not testable here" in page and "tiny__wanda-u50__recon_block__seed0.json" in page
    crate = json.loads((results / "ro-crate-metadata.json").read_text())
    described = {entity["@id"] for entity in crate["@graph"]}
    files = {
        str(path.relative_to(results))
        for part in ("audit", "figures", "records", "tables")
        for path in (results / part).rglob("*")
        if path.is_file()
    }
    assert files <= described, files - described


def test_another_threshold_shows_and_audits_again_and_computes_nothing(study):
    study.edit("workflow/data/claims.yaml", "holds: {below: 0.05}", "holds: {below: 0.06}")
    shown = {"build_tables": 1, "draw_figure": 2, "audit_study": 1}
    assert study.planned() == {**shown, "all": 1, "total": 5}


def test_a_missing_cell_is_not_testable_and_an_altered_record_is_refused(study):
    """All jobs succeed, and the check at the end finds masks that are damaged."""
    study.edit("config.yaml", "adaptations: [none, recon_block]", "adaptations: [none]")
    with (study.path / MASKS).open("ab") as file:
        file.write(b"x")
    output = study.run(status=1)
    assert "  finished  audit_study" in output
    assert "the results are not whole" in output and "make repair" in output
    path = study.path / "results/smoke/audit/audit.json"
    audit = json.loads(path.read_text())
    assert {claim["verdict"] for claim in audit["claims"]} == {"not testable here"}
    assert "no cells" in audit["claims"][0]["parts"][0]["reason"]
    record = study.path / "results/smoke/records/tiny__wanda-u50__none__seed0.json"
    content = json.loads(record.read_text())
    content["metrics"]["perplexity"]["perplexity"] /= 2
    record.write_text(json.dumps(content))
    output = study.run("--forcerun", "audit_study", "--rerun-triggers", "params", status=1)
    assert "a record is damaged or was altered" in output and "Traceback" not in output


def test_terminal_shows_plan_progress_and_summary(finished):
    said = finished.said.read_text()
    assert "Using workflow specific profile profiles/default" in said
    assert "The study `smoke` (config.yaml): 5 cells" in said
    jobs = said.count("  started   ")
    assert jobs == 23 == said.count("  finished  ")
    assert "  finished  reconstruct_window tiny/wanda-u50/recon_block/seed0, " in said
    assert re.search(r"\[11 of 23 jobs, \d+ %, about .+ left\]\n", said)
    summary = said.split("[23 of 23 jobs, 100 %]\n")[1].strip().splitlines()
    assert len(summary) <= 15
    assert "tables       results/smoke/tables/summary.md, and more beside it" in summary
    # The default study has 60 jobs, its target included, and may print 150 lines.
    others = said.count("\n") - 2 * jobs - len(summary)
    assert 2 * 59 + 15 + others <= 150
    (words,) = (finished.path / ".snakemake/log").glob("*.jobs.log")
    assert (
        "[reconstruct_window tiny/wanda-u50/recon_block/0/1-of-1] 4/4 windows" in words.read_text()
    )


def test_a_look_at_the_unfinished_study_goes_when_it_finishes(study):
    record = next(study.path.glob("results/smoke/records/*recon*.json"))
    record.unlink()
    shutil.rmtree(study.path / "results/smoke/audit")
    environment = {**study.environment, "PYTHONPATH": str(study.path / "workflow/scripts")}
    command = [sys.executable, "-m", "freelunch", "interim", "config.yaml"]
    subprocess.run(command, cwd=study.path, env=environment, check=True)
    look = study.path / "results/smoke/interim"
    assert "unfinished" in (look / "audit/index.html").read_text()
    study.run("--", str(record.relative_to(study.path)))
    assert look.exists()
    study.run()
    assert not look.exists()


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

    shown = {"all", "build_tables", "draw_figure", "audit_study", "total"}
    path.write_text(yaml.safe_dump(config, sort_keys=True))
    assert study.planned().keys() <= shown
    for registry in ("models", "texts", "criteria", "adaptations"):
        for name, entry in config[registry].items():
            config[registry][name] = reverse(entry)
    path.write_text(yaml.safe_dump(config, sort_keys=False))
    assert study.planned().keys() <= shown


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
    study.edit(library + "reporting/sections/cells.py", '"All cells"', '"Every cell"')
    # Contradictions, what a setting is for, patterns in words, and what was not finite.
    for file, old in (
        ("study/adaptation_checks.py", "of one matrix holds no norm"),
        ("study/adaptations.py", "How the model is adapted"),
        ("study/retraining.py", "How the model is retrained"),
        ("study/patterns.py", "with 0 < N < M, such as 2of4"),
        ("study/patterns.py", "percent, unstructured"),
        ("study/windows.py", "the window is not decided yet"),
        ("reporting/cells.py", "learning rate {rate:g}"),
        ("reporting/audit/page_card.py", "of the attention heads and MLP channels become zero"),
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


@pytest.fixture(scope="module")
def slow(finished, tmp_path_factory):
    """A study with a reconstruction that takes long enough to be interrupted, and its result."""
    folder = finished.copy(tmp_path_factory.mktemp("slow") / "study")
    folder.edit("config.yaml", "method: reconstruction", "method: reconstruction\n    epochs: 60")
    folder.run(SLOW)
    return folder


def start_reconstruction(slow, tmp_path):
    """Start the reconstruction of one cell anew in a copy; return copy, its folder, process."""
    study = slow.copy(tmp_path / "study")
    windows = study.path / WINDOWS
    for old in windows.iterdir():
        old.unlink()
    return study, windows, study.start(SLOW)


@pytest.mark.parametrize("kill", [signal.SIGKILL, signal.SIGTERM])
def test_killed_reconstruction_resumes_bit_for_bit(slow, tmp_path, kill):
    study, windows, process = start_reconstruction(slow, tmp_path)
    wait_for(process, lambda: len(list(windows.glob("block-*.safetensors"))) >= 2)
    os.killpg(process.pid, kill)
    said, _ = process.communicate()
    assert not (windows / "manifest.json").exists(), "the run was over before it was killed"
    if kill == signal.SIGTERM:
        assert "was interrupted. Nothing is lost." in said and "FAILED" not in said, said
        assert "job failed" not in said and "Fix any error" not in said, said
    survived = {path.name: path.stat().st_mtime_ns for path in windows.glob("block-*")}
    assert 2 <= len(survived) < 4

    study.run(SLOW)
    for name, changed in survived.items():
        assert (windows / name).stat().st_mtime_ns == changed, f"{name} was computed twice"
    left = {path.name for path in windows.iterdir()}
    assert left == {path.name for path in (slow.path / WINDOWS).iterdir()}
    assert digests(windows) == digests(slow.path / WINDOWS)
    assert study.planned(SLOW) == {}


def test_killed_retraining_goes_on_from_its_saved_state(finished, tmp_path):
    study = finished.copy(tmp_path / "study")
    # Every step, not every five minutes.
    library = "workflow/scripts/freelunch/"
    study.edit(library + "adaptation/retraining/driver.py", "SAVE_S = 300.0", "SAVE_S = 0.0")
    config = yaml.safe_load((study.path / "config.yaml").read_text())
    config["adaptations"]["full"] = {"method": "full", "epochs": 100}
    grid = config["study"]["grids"][0]
    config["study"]["grids"].append({**grid, "criteria": ["wanda"], "adaptations": ["full"]})
    (study.path / "config.yaml").write_text(yaml.safe_dump(config))
    model = Path("results/smoke/windows/tiny/wanda-u50/full/seed0/model")
    whole = study.copy(tmp_path / "whole").warm()
    whole.run(f"{model}/manifest.json")

    process = study.start(f"{model}/manifest.json")
    wait_for(process, (study.path / model.with_name(".model.state")).exists)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    assert not (study.path / model / "manifest.json").exists(), "it was over before it was killed"
    study.run(f"{model}/manifest.json")
    logs = (study.path / "results" / "smoke" / "logs").rglob("*")
    assert any("resuming from step" in log.read_text() for log in logs if log.is_file())
    assert digests(study.path / model) == digests(whole.path / model)
    assert not (study.path / model.with_name(".model.state")).exists()


def test_job_that_outlives_its_snakemake_is_waited_for(slow, tmp_path):
    """The process alone is killed, as by the system when memory is short; its job works on."""
    study, windows, process = start_reconstruction(slow, tmp_path)
    wait_for(process, lambda: len(list(windows.glob("block-*.safetensors"))) >= 1)
    process.kill()
    process.wait()
    study.run(SLOW)
    process.communicate()
    assert digests(windows) == digests(slow.path / WINDOWS)
    assert study.planned(SLOW) == {}


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


def test_two_runs_at_once_do_not_meet(slow, tmp_path):
    study = slow.copy(tmp_path / "study")
    first = study.start("--force", SLOW)
    locks = study.path / ".snakemake/locks"
    try:
        wait_for(first, lambda: locks.is_dir() and list(locks.iterdir()))
        output = study.run("--force", SLOW, status=1)
        assert "Another run in this folder makes some of the same files" in output
        assert list(locks.iterdir()), "the second run took the first one's lock away"
    finally:
        said = first.communicate()[0]
    assert first.returncode == 0, said


def test_bad_config_is_one_clear_error(study):
    study.edit("config.yaml", "samples: 8", "sampels: 8")
    output = study.run("--dry-run", status=1)
    assert "study.calibration.sampels: unknown key; expected samples (nearest)" in output
    assert "config.yaml: 2 problems" in output
    assert "Traceback" not in output
    (study.path / "config.yaml").rename(study.path / "studies" / "mine.yaml")
    study.edit("studies/mine.yaml", "name: smoke", "name: mine")
    (study.path / "config.yaml").write_text("study: {name: other}\n")
    mine = ("--config", "study=studies/mine.yaml")
    assert "studies/mine.yaml: 2 problems" in study.run("--dry-run", *mine, status=1)


def test_without_a_core_no_run_waits_for_ever(study):
    output = study.run("fetch", "--cores", "0", status=1)
    assert "--cores: no job can start without a core" in output and "Traceback" not in output


def test_results_are_not_replaced_by_those_of_another_study_file(study):
    (study.path / "studies" / "mine.yaml").write_text((study.path / "config.yaml").read_text())
    mine = ("--config", "study=studies/mine.yaml")
    output = study.run("--dry-run", *mine, status=1)
    assert "results/smoke has the results of another study file" in output
    (study.path / "config.yaml").unlink()
    # Tables and the audit name the file.
    shown = {"build_tables", "draw_figure", "audit_study", "all", "total"}
    assert study.planned(*mine).keys() <= shown


def test_failing_job_says_what_to_do_and_keeps_the_rest(study):
    positions = '"max_position_embeddings": '
    study.edit("tests/fixtures/tiny-llama/config.json", f"{positions}256", f"{positions}10000")
    study.edit("config.yaml", "length: 32}\n  evaluation", "length: 6000}\n  evaluation")
    output = study.run(status=1)
    assert "no document is longer than one calibration sequence" in output
    assert "more than study.calibration.length = 6000" in output
    assert "Traceback" not in output
    end = output.split("1 job failed:")[1]
    assert "  started   " not in end and "  finished  " not in end
    assert "sample_calibration tiny/seed0\n" in end
    assert "no document is longer than one calibration sequence" in end and "to do: " in end
    assert "Finished steps are kept" in end and "snakemake --cores 2\n" in end
    log = study.path / "results/smoke/logs/sample_calibration/tiny_seed0.log"
    assert "Traceback" in log.read_text()


def test_implausible_dense_model_stops_the_study_before_anything_is_pruned(study):
    study.edit("config.yaml", "dense_limit: 5000", "dense_limit: 100")
    output = study.run("--forceall", "--cores", "1", status=1)
    assert "the dense model's perplexity is implausible" in output
    assert "study.dense_limit = 100" in output
    assert "  started   prune_model" not in output


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


def test_report_is_made_without_a_network(study):
    study.run("--report", "report.zip")
    with zipfile.ZipFile(study.path / "report.zip") as archive:
        names = archive.namelist()
    assert any(name.endswith("criteria.png") for name in names), names
    assert any(name.endswith("index.html") for name in names), names


def test_a_plan_imports_nothing_slow(finished):
    code = (
        "import sys; sys.argv = ['freelunch', 'plan', 'config.yaml']\n"
        "from freelunch.cli.main import main\n"
        "assert main() == 0\n"
        "slow = {'torch', 'transformers', 'pandas', 'scipy', 'rocrate'}\n"
        "assert not slow & sys.modules.keys()\n"
    )
    environment = {**finished.environment, "PYTHONPATH": str(finished.path / "workflow/scripts")}
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=finished.path,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "reconstruct_window" in done.stdout


def test_every_profile_that_is_named_exists():
    """Snakemake ignores a misspelled profile, with exit status 0, so names are checked here."""
    root = Path(__file__).resolve().parents[2]
    named = [
        word
        for line in (root / "Makefile").read_text().splitlines()
        for word in line.split()
        if re.fullmatch(r"workflow/profiles/\w+", word)
    ]
    assert named
    for name in [*named, "profiles/default"]:
        assert (root / name / "profile.yaml").is_file(), name
