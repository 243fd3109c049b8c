"""A plan as text: steps, models, claims and adaptations, whole and in brief; times in words."""

import re
from dataclasses import replace
from pathlib import Path

import pytest

from configs import ARCHITECTURE, checked, config, smoke
from freelunch.cli.main import main
from freelunch.core.units import duration
from freelunch.costs.checks import checked_plan
from freelunch.costs.cost import together
from freelunch.costs.jobs import jobs_of
from freelunch.costs.machine import Machine
from freelunch.costs.plan import Plan
from freelunch.costs.plan_text import plan_brief, plan_text
from freelunch.study.config import Part
from freelunch.study.study import Study
from planned import MACHINE, line_of
from repository import ROOT

LARGE = Path("studies/large.yaml")
GB = 10**9
GPU = Machine(4e14, 2e9, 1e8, None, 80 * GB, rates=("all as given",))


def rows_below(text: str, head: str) -> dict[str, list[str]]:
    """Return the words of each row of the table whose head begins with a word."""
    table = re.search(rf"^  {head} +(?:cells|jobs) .*\n((?:  \S.*\n)+)", text, re.M)
    assert table, f"no table of {head}"
    return {line.split()[0]: line.split()[1:] for line in table[1].splitlines()}


def test_the_text_of_a_plan() -> None:
    plan = Plan.of(smoke(), device="a GPU")
    text = plan_text(plan, MACHINE)
    assert "The study `smoke`" in text and "5 cells" in text
    assert "tiny/wanda-u50/recon_block/seed0" in text and "device: a GPU" in text
    assert "a matrix product at 1 TFLOP/s as given" in text
    rows = rows_below(text, "step")
    assert list(rows) == [
        *("fetch_model", "decide_bos", "capture_dense", "prune_model", "reconstruct_window"),
        "evaluate_cell",
        "total",
    ]
    # In TFLOP and GB, the table of a tiny model would be one of zeros.
    assert "GFLOP" in line_of(text, "step").split()
    assert float(rows["total"][1]) > 0 and "MB" in rows["total"]
    assert f"From scratch: {rows['total'][1]} GFLOP, about " in plan_brief(plan, MACHINE, 1)
    # Each seed counts.
    plan = Plan.of(Study.load(Path("studies/full.yaml")))
    total = rows_below(plan_text(plan, MACHINE), "step")["total"]
    assert f"From scratch: {total[1]} TFLOP, about " in plan_brief(plan, MACHINE, 1)


@pytest.mark.parametrize(
    ("asked", "fast", "told"),
    [
        ("auto", "bfloat16", ["`precision: auto` is bfloat16"]),
        ("auto", "float32", ["`precision: auto` is float32"]),
        ("bfloat16", "float32", ["slower"]),
        ("bfloat16", "bfloat16", []),
        ("model", "bfloat16", []),
    ],
)
def test_the_plan_says_what_the_machine_decides(asked: str, fast: str, told: list[str]) -> None:
    plan = checked_plan(smoke({"study.precision": asked}), fast=fast)
    assert plan.precision("recon_block") == (fast if asked == "auto" else asked)
    lines = [line for line in plan_text(plan, MACHINE).splitlines() if "precision: auto" in line]
    assert len(lines) == len(told) and all(map(str.__contains__, lines, told))


def test_the_plan_in_brief_has_the_sums_of_the_plan_and_what_does_not_fit() -> None:
    plan = Plan.of(Study.load(Path("studies/qwen72b.yaml")), 8 * GB)
    machine = Machine.of(400e12, 2e9, None, 8 * GB)
    brief, whole = plan_brief(plan, machine, 23, submitted=7), plan_text(plan, machine)
    assert brief.splitlines()[0] == whole.splitlines()[0]
    assert "  23 jobs run now; the scheduler gets 7 jobs. The whole plan: `make plan" in brief
    assert "  1 job runs now. " in plan_brief(plan, machine, 1)
    total = rows_below(whole, "step")["total"]
    assert f"From scratch: {total[1]} TFLOP, about {total[2]} {total[3]} job after job" in brief
    assert "recon_block of qwen2.5-72b does not fit: needs 23.6 GB, the device has 8 GB;" in brief
    # A model or a claim alone would repeat the total.
    assert not re.search(r"^  (?:model|claim) +cells", whole, re.M)
    found = line_of(whole, "qwen2.5-72b", "recon_block")
    assert "does not fit: needs 23.6 GB, the device has 8 GB; a smaller" in found
    assert re.search(r"^  evaluate_cell of qwen2\.5-72b does not fit: .* has 8 GB\.$", whole, re.M)


def test_host_and_device_have_columns_of_their_own() -> None:
    large = Study.load(LARGE)
    without = replace(GPU, device_bytes=None)
    heads = line_of(plan_text(Plan.of(large), without), "step").split()
    assert "memory" in heads and "device" not in heads
    heads = line_of(plan_text(Plan.of(large, 80 * GB), GPU), "step").split()
    assert "memory" not in heads and {"host", "device"} < set(heads)


# --- Models and claims


def test_each_model_and_each_claim_costs_what_it_costs_alone() -> None:
    part = Part(models=["opt-125m", "qwen2.5-72b"], claims=["C3", "C4"])
    paper = Study.load(Path("studies/paper.yaml"), ROOT)
    text = plan_text(Plan.of(paper.of_part(part), 80 * GB), GPU)
    for head, names in (("model", part.models), ("claim", part.claims)):
        rows = rows_below(text, head)
        # The grids of C3 are those of C3b, which this part does not ask for.
        assert list(rows) == names
        for name in rows:
            alone = Plan.of(paper.of_part(part.model_copy(update={f"{head}s": [name]})), 80 * GB)
            costs = [cost for job in jobs_of(alone.study) if (cost := alone.cost(job))]
            cells, jobs = (int(count.replace(",", "")) for count in rows[name][:2])
            assert (cells, jobs) == (len(alone.study.cells), len(costs))
            disk = f"{together(costs).disk_bytes / 1e9:,.1f}"
            seconds = sum(cost.seconds(GPU) for cost in costs)
            assert disk in rows[name] and duration(seconds) in " ".join(rows[name])


def test_a_claim_whose_models_are_not_known_yet_has_no_cost() -> None:
    (grid,) = config()["study"]["grids"]
    unknown = {**grid, "models": ["two"], "claims": ["C4"]}
    grids = [{**grid, "claims": ["C1"]}, {**grid, "models": ["one", "two"], "claims": ["C3"]}]
    study = checked({"models.one.architecture": ARCHITECTURE, "study.grids": [*grids, unknown]})
    text = plan_text(Plan.of(study), MACHINE)
    assert set(rows_below(text, "claim")) == {"C1", "C3"}
    assert "Cost is unknown until the model is fetched: two" in text


def test_the_papers_study_is_planned_from_few_costs() -> None:
    plan = checked_plan(Study.load(Path("studies/paper.yaml"), ROOT), 80 * GB)
    text = plan_text(plan, GPU)
    assert len(plan.costs) < len(jobs_of(plan.study)) / 2
    assert "adaptations of models; `make plan STUDY=studies/paper.yaml MODELS=...`" in text


def test_options_of_the_command(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["--tflops", "400", "--disk", "2GB/s", "--network", "1GB/s", "--device-memory", "80"]
    monkeypatch.setattr("sys.argv", ["freelunch", "plan", str(LARGE), *options])
    assert main() == 0
    text = capsys.readouterr().out
    for words in (
        "a matrix product at 400 TFLOP/s as given",
        "reading and writing at 2.0 GB/s as given",
        "downloads at 1.0 GB/s as given",
        "the device has 80 GB",
    ):
        assert words in text
    monkeypatch.setattr("sys.argv", ["freelunch", "plan", str(LARGE), "--device-memory", "much"])
    assert main() == 1
    assert "--device-memory: the memory of a device is a number of GB" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (89, "89 s"),
        (90, "2 min"),
        (5400, "1.5 h"),
        (72 * 3600, "3.0 d"),
        (500 * 86400, "500.0 d"),
        (642_454 * 86400, "1,758.9 y"),
    ],
)
def test_times_in_words(seconds: float, words: str) -> None:
    assert duration(seconds) == words
