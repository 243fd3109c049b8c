"""The plan: jobs against the cells, and what makes a job cost more."""

from collections import Counter
from pathlib import Path

import pytest

from configs import ARCHITECTURE, ASKED, checked, smoke
from freelunch.costs.checks import checked_plan
from freelunch.costs.job_requests import UNKNOWN_MB, request
from freelunch.costs.jobs import PlannedJob, jobs_of
from freelunch.costs.plan import Plan
from freelunch.costs.plan_text import plan_brief, plan_text
from freelunch.costs.retraining_costs import retrain
from freelunch.study.cell import Cell
from freelunch.study.retraining import read_adaptation
from freelunch.study.steps import EVALUATE_CELL, RETRAIN_MODEL
from freelunch.study.study import Study
from planned import CELL, MACHINE, cost_of
from repository import ROOT


def pruned(criterion: str) -> str:
    return f"tiny/{criterion}-u50/none/seed0"


def test_jobs_are_those_of_the_cells() -> None:
    assert Counter(job.rule for job in jobs_of(smoke())) == {
        "capture_dense": 1,
        "decide_bos": 1,
        "evaluate_cell": 5,
        "fetch_model": 1,
        "prune_model": 2,
        "reconstruct_window": 2,
    }


def test_a_search_has_a_job_for_each_candidate_and_can_be_tidied() -> None:
    study = Study.load(Path("studies/paper_tiny.yaml"))
    cells = [cell for cell in study.cells if cell.adaptation == "full_rates"]
    count = len(study.candidate_names("full_rates"))
    assert cells and count > 1
    jobs = [job for job in jobs_of(study) if job.cell.adaptation.startswith("full_rates")]
    expected = {RETRAIN_MODEL: count * len(cells), EVALUATE_CELL: (count + 1) * len(cells)}
    assert Counter(job.rule for job in jobs) == expected
    said = plan_text(Plan.of(study), MACHINE)
    assert "`make tidy STUDY=studies/paper_tiny.yaml` removes the candidates" in said
    # A study without a search has nothing to tidy.
    assert "make tidy" not in plan_text(Plan.of(smoke()), MACHINE)


def test_candidates_are_priced_by_what_makes_a_difference() -> None:
    """Learning rates make none, and the paper's study has tens of thousands of jobs."""
    entry = {"method": "reconstruction", "learning_rate": [0.1, 0.2], "epochs": [1, 3]}
    plan = Plan.of(smoke({"adaptations.recon_block": entry}))
    names = [f"recon_block.lr{rate}.epochs{epochs}" for epochs in (1, 3) for rate in (0.1, 0.2)]
    costs = [cost_of(plan, "reconstruct_window", f"tiny/wanda-u50/{name}/seed0") for name in names]
    assert costs[0] is costs[1] and costs[2] is costs[3]
    assert costs[0].flops < costs[2].flops
    seeds = (cost_of(plan, "prune_model", f"tiny/wanda-u50/none/seed{seed}") for seed in (0, 1))
    assert len(set(map(id, seeds))) == 1


@pytest.mark.parametrize(
    ("entry", "keep"),
    [
        ({"method": "reconstruction"}, "all"),
        ({"method": "reconstruction", "window": "all", "inputs": "sparse"}, "all"),
        ({"method": "full"}, "none"),
        ({"method": "masklora", "epochs": 3, "loss": "distillation"}, "none"),
    ],
)
def test_finding_a_rate_costs_at_most_another_run(entry: dict[str, object], keep: str) -> None:
    changes = {"study.calibration.samples": 32, "study.keep_hidden_states": keep}
    entry = {**entry, "learning_rate": "auto"}
    study = smoke({**changes, "adaptations.recon_block": entry})
    settings = study.adaptation("recon_block")
    assert settings is not None
    rules = Counter(job.rule for job in jobs_of(study))
    assert rules["find_rate"] == rules[settings.rule] == 2
    plan = Plan.of(study)
    finding, adapting = (cost_of(plan, rule) for rule in ("find_rate", settings.rule))
    # What a run does once, such as merging, a probe does, too.
    assert 0 < finding.flops <= 1.01 * adapting.flops
    assert finding.memory_bytes <= adapting.memory_bytes and finding.disk_bytes == 0
    assert " find_rate " in plan_text(plan, MACHINE)


def test_solving_depends_on_how_much_is_kept() -> None:
    plan = Plan.of(smoke({"adaptations.recon_block": {"method": "least_squares"}}))
    half, most = (
        cost_of(plan, "reconstruct_window", f"tiny/wanda-{pattern}/recon_block/seed0")
        for pattern in ("u50", "u80")
    )
    assert most.flops < half.flops


@pytest.mark.parametrize(
    ("rule", "factor"),
    [
        ("capture_dense", 2),
        ("evaluate_cell", 2),
        # Three forwards an epoch, and eight sequences that are checked before and after.
        ("reconstruct_window", (3 * 2 * 16 + 16) / (3 * 8 + 16)),
    ],
)
def test_more_work_costs_more(rule: str, factor: float) -> None:
    more = {
        "study.calibration.samples": 16,
        "adaptations.recon_block.epochs": 2,
        "study.evaluation.perplexity.windows": 32,
    }
    one, two = (cost_of(Plan.of(smoke(changes)), rule) for changes in ({}, more))
    assert two.flops == pytest.approx(factor * one.flops)


def test_what_a_criterion_does_is_in_its_cost() -> None:
    criteria = {
        "swapped": {"score": "wanda", "swaps": 5},
        "sparse": {"score": "wanda", "statistics": "sparse"},
        "obs": {"score": "sparsegpt"},
    }
    plan = Plan.of(smoke({f"criteria.{name}": entry for name, entry in criteria.items()}))
    costs = {name: cost_of(plan, "prune_model", pruned(name)) for name in ("wanda", *criteria)}
    assert costs["wanda"].flops == 0
    shapes = plan.shapes["tiny"]
    pairs = list(zip(shapes.inputs, shapes.weights, strict=True))
    grams = sum(2 * width**3 // 3 for width, _ in pairs)
    assert costs["obs"].flops == shapes.blocks * (grams + sum(c * w for c, w in pairs))
    assert costs["swapped"].flops == shapes.blocks * sum((4 * c + 600) * w for c, w in pairs)
    passed = cost_of(plan, "capture_dense").flops
    # A forward pass more than the dense pass.
    assert passed < costs["sparse"].flops <= 2 * passed
    for name in criteria:
        assert costs[name].memory_bytes > costs["wanda"].memory_bytes
    assert costs["obs"].disk_bytes > costs["swapped"].disk_bytes == costs["wanda"].disk_bytes


def test_drift_passes_both_models() -> None:
    drift = {"study.evaluation.drift": {"samples": 4}}
    without, measured = (cost_of(Plan.of(smoke(each)), "evaluate_cell") for each in ({}, drift))
    shapes, tokens = Plan.of(smoke()).shapes["tiny"], 4 * 32
    # The checkpoint twice, the dense model once, and the heads of both.
    passed = 3 * shapes.forward_flops(tokens, 32) + 2 * shapes.head_flops(tokens)
    assert measured.flops - without.flops == passed
    # A second model and its next block are in memory.
    second = shapes.outer_bytes + 2 * shapes.block_bytes
    assert measured.memory_bytes - without.memory_bytes >= second


def test_disk_is_what_is_written_and_kept() -> None:
    plan = Plan.of(smoke())
    # Only a checkpoint that is not adapted is written.
    written, linked = (cost_of(plan, "evaluate_cell", cell) for cell in (pruned("wanda"), CELL))
    assert written.flops == linked.flops > 0
    assert written.disk_bytes > linked.disk_bytes == 0
    all_states, none, some = (
        cost_of(Plan.of(smoke({"study.keep_hidden_states": keep})), "capture_dense").disk_bytes
        for keep in ("all", "none", "every_2")
    )
    one = 8 * 32 * 4 * plan.shapes["tiny"].hidden
    assert (all_states - none, some - none) == (5 * one, 3 * one)


def test_hidden_states_of_another_sample_are_made_again() -> None:
    """The dense pass left only those of the calibration sample."""
    same, other = (
        cost_of(Plan.of(smoke({key: 16})), "reconstruct_window")
        for key in ("study.calibration.samples", "adaptations.recon_block.samples")
    )
    assert other.flops > same.flops and other.scratch_bytes > same.scratch_bytes == 0
    # So does a distillation, if nothing is kept; a plain training reads none.
    shapes = Plan.of(smoke()).shapes["tiny"]
    for entry, passed in ({"loss": "distillation"}, 1), ({}, 0):
        settings = read_adaptation({"method": "norms", **entry})
        kept, made = (retrain(shapes, 4, 128, settings, keep) for keep in ("every_4", "none"))
        assert made.flops - kept.flops == passed * shapes.forward_flops(4 * 128, 128)


@pytest.mark.parametrize(("keep", "passed"), [("all", 0), ("every_4", 3), ("none", 30)])
def test_each_job_recomputes_what_is_not_kept(keep: str, passed: int) -> None:
    """The last of thirty jobs passes all blocks if nothing is kept, and that is not divided."""
    config = Study.load(Path("config.yaml")).as_json()
    config["study"]["keep_hidden_states"] = keep
    plan = Plan.of(Study.check(config, "changed.yaml"))
    job = PlannedJob.of(
        "reconstruct_window", Cell.parse("smollm2-135m/wanda-u50/recon_block/seed0")
    )
    whole, one = Plan.of(Study.load(Path("config.yaml"))).cost(job), plan.cost(job, groups=30)
    assert one is not None and whole is not None
    shapes, tokens, length = plan.shapes["smollm2-135m"], 8192, 256
    more = one.flops - whole.flops // 30
    assert more == pytest.approx(shapes.forward_flops(tokens, length, passed), rel=0.01, abs=100)


def test_a_limit_of_documents_is_what_a_plan_counts() -> None:
    ours = {**ASKED, "models.one.architecture": ARCHITECTURE}
    studies = (
        checked({**ours, "study.evaluation.tasks": {"names": ["rte"], "limit": limit}})
        for limit in (3, None)
    )
    cell = "one/wanda-u50/none/seed0"
    few, every = (cost_of(Plan.of(study), "evaluate_cell", cell).flops for study in studies)
    assert few < every


# --- Models whose shapes are not known


def test_a_plan_without_shapes_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = Study.load(ROOT / "config.yaml").as_json()
    del config["models"]["smollm2-135m"]["architecture"]
    monkeypatch.chdir(tmp_path)
    plan = checked_plan(Study.check(config, "config.yaml"))
    job = PlannedJob.of("capture_dense", Cell.dense("smollm2-135m"))
    assert plan.shapes == {} and plan.cost(job) is None
    assert request(plan, MACHINE, job).mem_mb == UNKNOWN_MB
    said = "Cost is unknown until the model is fetched: smollm2-135m"
    assert said in plan_text(plan) and said in plan_brief(plan, MACHINE, 1)


def test_announced_shapes_serve_before_the_model_is_here(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = Study.load(ROOT / "config.yaml")
    monkeypatch.chdir(tmp_path)
    assert Plan.of(study).shapes["smollm2-135m"].model_bytes / 4 == pytest.approx(134.5e6, rel=1e-3)


@pytest.mark.parametrize(
    "text",
    [
        # As Gemma 3 with images has it, with defaults left out.
        '{"model_type": "gemma3", "text_config": {"hidden_size": 2560, "num_hidden_layers": 34}}',
        '{"hidden_size": 8}',
        "no JSON",
    ],
)
def test_a_config_file_that_says_too_little(tmp_path: Path, text: str) -> None:
    """No traceback from a plan: the cost is not known before transformers has read the model."""
    (tmp_path / "config.json").write_text(text)
    plan = checked_plan(smoke({"models.tiny.path": str(tmp_path)}))
    assert "Cost is unknown" in plan_text(plan, MACHINE)
