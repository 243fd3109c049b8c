"""A study by running it: what it leaves, what it shows, what it says when it cannot go on."""

import csv
import json
import re
import shutil
import zipfile
from importlib.metadata import version

import torch
from huggingface_hub import ModelCard
from transformers import AutoModelForCausalLM

from study_folder import RECONSTRUCTED, SHOWN

MASKS = "results/smoke/pruned/tiny/wanda-u50/seed0/masks-001.safetensors"


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
    assert record["cell"] in card.text and record["sha256"] in card.text
    assert record["identity"]["sparsity"] == 0.5
    assert record["provenance"]["bos"]["used"] is False
    assert set(record["cost"]) >= {"capture_dense", "reconstruct_window", "evaluate_cell"}
    assert "decide_bos" in record["cost"]
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
    assert "not testable here" in (results / "audit" / "index.html").read_text()
    evidence = (results / "audit" / "evidence.html").read_text()
    assert "tiny__wanda-u50__recon_block__seed0.json" in evidence


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
    assert jobs == 24 == said.count("  finished  ")
    assert "  finished  reconstruct_window tiny/wanda-u50/recon_block/seed0, " in said
    # What the first finding needs, which is about the first of two pruned models, comes first. The
    # second is evaluated only where a core would wait for the first's.
    begun = re.findall(r"  started   evaluate_cell tiny/(dense|\w+-u50)", said)
    assert sorted(begun) == ["dense", *2 * ["magnitude-u50"], *2 * ["wanda-u50"]]
    assert (begun[0], begun[-1]) == ("dense", "wanda-u50")
    assert re.search(r"\[11 of 24 jobs, \d+ %, about .+ left\]\n", said)
    summary = said.split("[24 of 24 jobs, 100 %]\n")[1].strip().splitlines()
    assert len(summary) <= 15
    assert "tables       results/smoke/tables/summary.md, and more beside it" in summary
    # The default study has 61 jobs, its target included, and may print 150 lines.
    others = said.count("\n") - 2 * jobs - len(summary)
    assert 2 * 60 + 15 + others <= 150
    (words,) = (finished.path / ".snakemake/log").glob("*.jobs.log")
    assert (
        "[reconstruct_window tiny/wanda-u50/recon_block/0/1-of-1] 4/4 windows" in words.read_text()
    )


def test_a_look_at_the_unfinished_study_goes_when_it_finishes(study):
    record = next(study.path.glob("results/smoke/records/*recon*.json"))
    record.unlink()
    shutil.rmtree(study.path / "results/smoke/audit")
    assert study.freelunch("interim", "config.yaml").returncode == 0
    look = study.path / "results/smoke/interim"
    assert "unfinished" in (look / "audit/index.html").read_text()
    study.run("--", str(record.relative_to(study.path)))
    assert look.exists()
    study.run()
    assert not look.exists()


def test_what_cannot_run_is_one_clear_error_at_once(study):
    output = study.run("fetch", "--cores", "0", status=1)
    assert "--cores: no job can start without a core" in output and "Traceback" not in output
    mine = ("--config", "study=studies/mine.yaml")
    path = study.path / "studies" / "mine.yaml"
    path.write_text((study.path / "config.yaml").read_text())
    output = study.run("--dry-run", *mine, status=1)
    assert "results/smoke has the results of another study file" in output
    study.edit("studies/mine.yaml", "criteria: [magnitude, wanda]", "criteria: [magnitude]")
    study.edit("studies/mine.yaml", "name: smoke", "name: mine")
    study.edit("studies/mine.yaml", "patterns: [u50]", "patterns: [3of5]")
    output = study.run("--dry-run", *mine, status=1)
    assert "a linear layer has 32 inputs; expected a multiple of 5" in output
    study.edit("studies/mine.yaml", "samples: 8", "sampels: 8")
    output = study.run("--dry-run", *mine, status=1)
    assert "study.calibration.sampels: unknown key; expected samples (nearest)" in output
    assert "studies/mine.yaml: 2 problems" in output and "Traceback" not in output
    # Where the other file is no longer there, its results are this one's.
    (study.path / "config.yaml").rename(path)
    # Tables and the audit name the file.
    assert study.planned(*mine).keys() <= SHOWN


def test_failing_job_says_what_to_do_and_keeps_the_rest(study):
    positions = '"max_position_embeddings": '
    study.edit("tests/fixtures/tiny-llama/config.json", f"{positions}256", f"{positions}10000")
    study.edit("config.yaml", "length: 32}\n  evaluation", "length: 6000}\n  evaluation")
    output = study.run(status=1)
    assert "no sequence is left to draw" in output
    assert "more than study.calibration.length = 6000" in output
    assert "Traceback" not in output
    end = output.split("1 job failed:")[1]
    assert "  started   " not in end and "  finished  " not in end
    assert "sample_calibration tiny/seed0\n" in end
    assert "no sequence is left to draw" in end and "to do: " in end
    assert "Finished steps are kept" in end and "snakemake --cores 2\n" in end
    log = study.path / "results/smoke/logs/sample_calibration/tiny_seed0.log"
    assert "Traceback" in log.read_text()


def test_implausible_dense_model_stops_the_study_before_anything_is_pruned(study):
    study.edit("config.yaml", "dense_limit: 5000", "dense_limit: 100")
    output = study.run("--forceall", "--cores", "1", status=1)
    assert "the dense model's perplexity is implausible" in output
    assert "study.dense_limit = 100" in output
    assert "  started   prune_model" not in output


def test_report_is_made_without_a_network(study):
    study.run("--report", "report.zip")
    with zipfile.ZipFile(study.path / "report.zip") as archive:
        names = archive.namelist()
    for shown in ("criteria.png", "index.html", "evidence.html"):
        assert any(name.endswith(shown) for name in names), names
