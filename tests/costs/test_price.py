"""The prices of a study's models and claims."""

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from configs import ARCHITECTURE, checked, config
from freelunch.costs.jobs import jobs_of
from freelunch.costs.machine import Machine
from freelunch.costs.plan import Plan
from freelunch.costs.plan_text import plan_text
from freelunch.costs.price import Price, prices_of_claims, prices_of_models
from freelunch.costs.work import Cost
from freelunch.study.config import Part
from freelunch.study.study import Study
from repository import ROOT

MACHINE = Machine(4e14, 2e9, 2e9, 1e8, None, 80 * 10**9, rates=("all as given",))
PART = Part(models=["opt-125m", "qwen2.5-72b"], claims=["C3", "C4"])


@pytest.fixture(scope="module")
def plan() -> Plan:
    return Plan.of(Study.load(Path("studies/paper.yaml"), ROOT).of_part(PART), 80 * 10**9)


def by_name(prices: list[Price]) -> dict[str, Price]:
    return {price.name: price for price in prices}


def test_the_price_of_a_model_is_that_of_its_plan_alone(plan: Plan) -> None:
    prices = by_name(prices_of_models(plan, MACHINE))
    assert set(prices) == set(PART.models or ())
    alone = Plan.of(plan.study.of_part(Part(models=["opt-125m"], claims=PART.claims)), 80 * 10**9)
    (price,) = prices_of_models(alone, MACHINE)
    assert price == prices["opt-125m"]
    assert price.cells == len(alone.study.cells)
    assert sum(each.cells for each in prices.values()) == len(plan.study.cells)
    assert prices["qwen2.5-72b"].seconds > 10 * price.seconds


def test_the_price_of_a_claim_is_that_of_its_cells(plan: Plan) -> None:
    prices = by_name(prices_of_claims(plan, MACHINE))
    # The grids of C3 are those of C3b, which this part does not ask for.
    assert set(prices) == {"C3", "C4"}
    assert prices["C4"].cells < prices["C3"].cells == len(plan.study.cells)


def test_what_does_not_fit_is_counted_for_each_size_of_a_gpu(plan: Plan) -> None:
    """SparseGPT of 72 billion parameters needs 32.4 GB, and its windows of one block 23.6 GB. The
    memory of this machine does not count.
    """
    for memory in (None, 10**9):
        prices = by_name(prices_of_models(plan, replace(MACHINE, memory_bytes=memory)))
        assert prices["qwen2.5-72b"].unfitting == (2, 0, 0)
        assert prices["opt-125m"].unfitting == (0, 0, 0)


def test_the_plan_shows_prices_and_says_where_the_adaptations_are(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It computes fewer costs than there are jobs, although it asks for four sizes of a GPU."""
    study = Study.load(Path("studies/paper.yaml"), ROOT)
    compute, computed = Plan._step, []

    def count(plan: Plan, *job: Any) -> Cost | None:
        computed.append(job)
        return compute(plan, *job)

    monkeypatch.setattr(Plan, "_step", count)
    text = plan_text(Plan.of(study, 80 * 10**9), MACHINE)
    assert len(computed) < len(jobs_of(study))
    assert re.search(r"^  model +cells +jobs +scheduled +GPU hours .* fits 24 GB", text, re.M)
    assert re.search(r"^  claim +cells +jobs +scheduled +GPU hours", text, re.M)
    assert "adaptations of models; `make plan STUDY=studies/paper.yaml MODELS=...`" in text


def test_a_plan_without_a_gpu_that_takes_months_has_the_prices_on_one() -> None:
    """They are those of the command that it names, whatever this machine is."""
    study = Study.load(Path("studies/qwen72b.yaml"), ROOT)
    command = "`make plan STUDY=studies/qwen72b.yaml DEVICE_MEMORY=80 TFLOPS=400 DISK=2GB/s`"
    without = replace(MACHINE, device_bytes=None)
    assert "GPU" not in plan_text(Plan.of(study), without)
    slow = replace(without, flops_per_s=1e9, memory_bytes=10**9)
    text, on_gpu = plan_text(Plan.of(study), slow), plan_text(Plan.of(study, 80 * 10**9), MACHINE)
    (row,) = re.findall(r"^  qwen2\.5-72b +8 .*all$", text, re.M)
    assert command in text and command not in on_gpu and row in on_gpu.splitlines()


def test_a_claim_whose_models_are_not_known_yet_has_no_price() -> None:
    (grid,) = config()["study"]["grids"]
    unknown = {**grid, "models": ["two"], "claims": ["C4"]}
    grids = [{**grid, "claims": ["C1"]}, {**grid, "models": ["one", "two"], "claims": ["C3"]}]
    study = checked({"models.one.architecture": ARCHITECTURE, "study.grids": [*grids, unknown]})
    plan = Plan.of(study)
    assert by_name(prices_of_claims(plan, MACHINE)).keys() == {"C1", "C3"}
    assert "Cost is unknown until the model is fetched: two" in plan_text(plan, MACHINE)


def test_a_price_that_is_the_total_is_shown_with_a_gpu_alone() -> None:
    """There it says which GPUs the study fits; elsewhere it would repeat the line of the total."""
    study = Study.load(Path("studies/qwen72b.yaml"), ROOT)
    heads = r"^  (?:model|claim) +cells"
    assert not re.search(
        heads, plan_text(Plan.of(study), replace(MACHINE, device_bytes=None)), re.M
    )
    assert len(re.findall(heads, plan_text(Plan.of(study, 80 * 10**9), MACHINE), re.M)) == 1


def test_a_price_is_that_of_the_jobs() -> None:
    """The time leaves out downloads; memory is that of the largest job, disk that of all."""
    study = Study.load(Path("studies/paper.yaml"), ROOT).of_part(
        Part(models=["opt-125m"], claims=["C3"])
    )
    plan = Plan.of(study, 80 * 10**9)
    (price,) = prices_of_models(plan, MACHINE)
    costs = [(job.rule, plan.step(*job)) for job in jobs_of(study)]
    assert price.jobs == len(costs)
    assert price.seconds == pytest.approx(
        sum(it.seconds(MACHINE) for rule, it in costs if rule != "fetch_model")
    )
    memory = [it.memory(device=True) for _, it in costs]
    assert price.memory == (max(it.host for it in memory), max(it.device for it in memory))
    assert price.disk_bytes == sum(it.disk_bytes for _, it in costs)
