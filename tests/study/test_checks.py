"""Configs whose values are each valid and do not go together."""

from pathlib import Path
from typing import Any

import pytest

from configs import ASKED, TASK, changed, checked, config, problems, with_adaptations
from freelunch.audit.claims import load_claims
from freelunch.study.checks import CLAIMS, claim_ids
from repository import ROOT

GRID = config()["study"]["grids"][0]
IDS = {"source": "tokens", "path": str(ROOT / "README.md")}
JOINED = {"study.evaluation.perplexity.cut": "joined"}
FULL = {"adaptations.full": {"method": "full"}}
ALONE = {**GRID, "criteria": ["dense"], "adaptations": ["full"]}
AFTER_TWO = {"adaptations.recon_block.after": "recon_two"}
BOTH = {"study.grids.0.adaptations": ["recon_two", "recon_block"]}
TASKS = {"tasks": {"rte": TASK}}
OWL = {"criteria.wanda.allocation": {"by": "owl"}}
SPARSEGPT = {
    "study.grids.0.criteria": ["sparsegpt"],
    "criteria": {"sparsegpt": {"score": "sparsegpt", "column_block": 6}},
}


def test_all_contradictions_are_told_at_once_undefined_names_first() -> None:
    undefined = {
        "study.calibration.text": "c44",
        "study.evaluation.perplexity.text": "wikki",
        "study.grids.0.models": ["oen"],
        "study.grids.0.criteria": ["wnada", "magnitude"],
        "study.grids.0.adaptations": ["recon_blok"],
        "study.grids.0.claims": ["C1", "C11"],
        "adaptations.recon_two.samples": 1,
    }
    lines = problems(changed(undefined))
    assert [line.partition(": ")[0] for line in lines] == sorted([*undefined][:-1])
    assert "expected recon_block (nearest) out of: recon_block, recon_two" in " ".join(lines)
    others = {
        "adaptations.recon_two.samples": 1,
        "study.evaluation.perplexity.stride": 9,
        "models.mine": {"source": "path", "path": "no"},
    }
    assert len(problems(changed(others))) == 4


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        # Names.
        ({"criteria.dense": {"score": "wanda"}}, "criteria.dense: this name is reserved"),
        ({"criteria.none": {"score": "wanda"}}, "criteria.none: this name is reserved"),
        ({"adaptations.dense": {"method": "norms"}}, "adaptations.dense: this name is reserved"),
        ({"adaptations.none": {"method": "norms"}}, "adaptations.none: this name is reserved"),
        # Controls.
        ({"study.grids.0.criteria": ["wanda", "dense"]}, "study.grids.0.criteria: with 'recon_"),
        (FULL | {"study.grids": [GRID, ALONE]}, "study.grids.1.criteria: no grid has a"),
        ({"study.grids.0.claims": ["C11"]}, f"study.grids.0.claims: 'C11' is not in {CLAIMS}"),
        ({"study.grids.0.seeds": [*range(100_000)]}, "study.grids: found "),
        # Chains.
        ({"adaptations.recon_two.after": "recon"}, "adaptations.recon_two.after: 'recon'"),
        ({"adaptations.recon_two.after": "recon_two"}, "adaptations.recon_two.after: recon_two"),
        ({"adaptations.recon_two.skip": 2}, "adaptations.recon_two.skip: nothing has seen"),
        (AFTER_TWO, "adaptations.recon_block.after: no grid has one/magnitude-u50/recon_two/seed0"),
        (
            AFTER_TWO | BOTH | {"adaptations.recon_two.trains": "lora"},
            "adaptations.recon_block.after: found recon_two; expected an adaptation of windows",
        ),
        # Ready token ids.
        ({"texts.c4": IDS, "study.evaluation.drift": {}}, "study.evaluation.drift: a `tokens`"),
        (
            {"texts.c4": IDS, "adaptations.recon_block.samples": 5},
            "adaptations.recon_block: 5 sequences are more",
        ),
        (
            {"texts.c4": IDS, "adaptations.recon_block.epochs": [1, 2]},
            "adaptations.recon_block.select_on: candidates are compared on documents",
        ),
        (
            {"texts.c4": IDS, "study.grids": [GRID, {**GRID, "models": ["two"]}]},
            "study.calibration.text: 'c4' is a `tokens` source, whose ids are those of one",
        ),
        (
            {"texts.c4": IDS, "study.grids": [{**GRID, "seeds": [0, 2]}]},
            "study.calibration.text: 'c4' is a `tokens` source, of which every seed",
        ),
        ({"texts.wiki": IDS}, "study.evaluation.perplexity.text: 'wiki' is a tokens source"),
        # Measurements.
        ({**TASKS, **ASKED, "study.evaluation.tasks": {"names": ["rt"]}}, "study.evaluation.tasks"),
        ({"study.grids.0.tasks": True}, "study.grids.0.tasks: there is no `evaluation.tasks`"),
        ({**ASKED, "study.grids.0.tasks": False}, "study.evaluation.tasks: no grid asks for it"),
        (JOINED | {"study.evaluation.perplexity.stride": 9}, "study.evaluation.perplexity.stride"),
        ({"study.evaluation.perplexity.stride": 4}, "study.evaluation.perplexity.stride: found 4"),
        # Pruning.
        ({"models.one.dtype": "float16"}, "models.one.dtype: gradients vanish in float16"),
        (
            {"criteria.flap": {"score": "flap", "statistics": "sparse"}},
            "criteria.flap: scope `model`",
        ),
        (
            {**SPARSEGPT, "study.grids.0.patterns": ["2of4"]},
            "criteria.sparsegpt.column_block: found 6; expected a multiple of 4, for 2of4, such as",
        ),
        (OWL | {"study.grids.0.patterns": ["2of4"]}, "criteria.wanda.allocation: found 2of4"),
        (OWL | {"study.grids.0.patterns": ["u10"]}, "criteria.wanda.allocation.spread: found 0.08"),
        (
            OWL | {"criteria.wanda.statistics": "sparse"},
            "criteria.wanda.allocation: found statistics: sparse",
        ),
        ({"study.grids.0.patterns": ["u50", "u00"]}, "study.grids.0.patterns.1: found"),
        ({"study.grids.0.patterns": ["4of4"]}, "study.grids.0.patterns.0: found"),
        ({"study.grids.0.patterns": ["u100"]}, "study.grids.0.patterns.0: found"),
    ],
    ids=str,
)
def test_one_contradiction(changes: dict[str, Any], problem: str) -> None:
    (line,) = problems(changed(changes))
    assert line.startswith(problem)


@pytest.mark.parametrize(
    "changes",
    [
        {"texts.c4": IDS},
        {"texts.ids": IDS, "study.grids": [GRID, {**GRID, "models": ["two"], "seeds": [2]}]},
        {"models.two.dtype": "float16"},
        {"models.one.dtype": "float16", "study.grids.0.adaptations": ["none"]},
        {"models.one.dtype": "float16", "adaptations.recon_block": {"method": "least_squares"}},
        JOINED | {"study.evaluation.perplexity.stride": 8},
        {**SPARSEGPT, "study.grids.0.patterns": ["u50", "1of3"]},
    ],
    ids=str,
)
def test_what_looks_like_a_contradiction_and_is_none(changes: dict[str, Any]) -> None:
    checked(changes)


def test_a_path_where_nothing_is() -> None:
    entry = {"source": "path", "path": "no/such/model"}
    text = {**entry, "path": "no/such/text", "format": "lines"}
    lines = problems(changed({"models.mine": entry, "texts.mine": text}))
    for line, registry, name, kind in zip(
        lines, ("models", "texts"), ("model", "text"), ("folder", "file"), strict=True
    ):
        looked = f"nothing at no/such/{name}, looked for at {Path.cwd()}/no/such/{name}"
        assert line.startswith(f"{registry}.mine.path: there is {looked}; expected a {kind}")
    problems(changed({"models.mine": {**entry, "path": "x" * 9999}}))


@pytest.mark.parametrize("name", ["a{b}.txt", "open{.txt", "shut}.txt"])
def test_braces_in_a_path_which_snakemake_reads_as_wildcards(tmp_path: Path, name: str) -> None:
    (tmp_path / name).touch()
    entry = {"source": "path", "path": str(tmp_path / name)}
    task = {**entry, "format": "jsonl", "documents": 1}
    (text, task) = problems(
        changed({"texts.mine": {**entry, "format": "lines"}, "tasks": {"mine": task}})
    )[::-1]
    assert text.startswith(f"texts.mine.path: found {tmp_path / name};")
    assert str(task).startswith(f"tasks.mine.path: found {tmp_path / name};")
    # The files in a model's folder are inputs of the workflow, too.
    (line,) = problems(changed({"models.one": {**entry, "path": str(tmp_path)}}))
    assert line.startswith(f"models.one.path: found {tmp_path / name};")


def test_claims_are_those_of_the_audit() -> None:
    assert claim_ids() == [claim.id for claim in load_claims()]


@pytest.mark.parametrize(
    ("settings", "key", "expected"),
    [
        ({"rank": 3}, "rank", "no such key"),
        ({"trains": "full", "alpha": 3}, "alpha", "no such key"),
        ({"trains": "scalelora", "alpha": 3}, "alpha", "no such key"),
        ({"trains": "norms", "train_norms": False}, "train_norms", "expected true"),
        ({"trains": "biases", "train_biases": False}, "train_biases", "expected true"),
        ({"trains": "norms", "window": "matrix"}, "trains", "holds no norm"),
        ({"window": "matrix"}, "train_norms", "holds no norm; expected false"),
        ({"window": "auto"}, "memory_gb", "expected one, in GB"),
        ({"memory_gb": 3}, "memory_gb", "no such key"),
        ({"targets": "local"}, "targets", "expected dense, or inputs: sparse"),
        ({"method": "least_squares", "targets": "local"}, "targets", "expected dense, or inputs"),
        ({"targets": "behind_sparse"}, "targets", "expected dense or local, or that window"),
        ({"lost_residual": True}, "lost_residual", "or targets: behind_sparse"),
        ({"method": "least_squares", "lost_residual": True}, "lost_residual", "or targets: behind"),
        ({"window": "attention_mlp", "model_dropout": True}, "model_dropout", "such as 1 or all"),
        ({"window": "auto", "memory_gb": 4, "model_dropout": True}, "model_dropout", "no such key"),
        ({"method": "full", "micro_batch": 3}, "micro_batch", "at most the batch, 2"),
        ({"method": "full", "residency": "model", "memory_gb": 3}, "memory_gb", "no such key"),
        ({"trains": "lor"}, "trains", "lora (nearest)"),
    ],
    ids=str,
)
def test_settings_of_an_adaptation_that_do_not_go_together(
    settings: dict[str, Any], key: str, expected: str
) -> None:
    (line,) = problems(with_adaptations(x={"method": "reconstruction", **settings}))
    assert line.startswith(f"adaptations.x.{key}: ") and expected in line


@pytest.mark.parametrize(
    ("part", "problem"),
    [
        ({"models": ["tow"]}, "study.part.models: no grid is for 'tow'; expected two (nearest)"),
        ({"seeds": [3]}, "study.part.seeds: no grid is for 3; expected one of: 0, 1"),
        ({"claims": ["C5"]}, "study.part.claims: no grid is for 'C5'; expected one of: C1"),
        ({"models": ["two"], "claims": ["C1"]}, "study.part: no grid is for all of CLAIMS=C1"),
    ],
)
def test_a_part_that_no_grid_has(part: dict[str, Any], problem: str) -> None:
    grids = [{**GRID, "claims": ["C1"]}, {**GRID, "models": ["two"], "seeds": [1]}]
    (line,) = problems(changed({"study.grids": grids, "study.part": part}))
    assert line.startswith(problem)
    if "claims" in part:
        (line,) = problems(changed({"study.part": {"claims": ["C1"]}}))
        assert line.startswith("study.part.claims: no grid says which claims it is for")
