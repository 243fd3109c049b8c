"""What of a config decides a cell's numbers, and what does not."""

import copy
from pathlib import Path
from typing import Any

import pytest

from configs import ARCHITECTURE, ASKED, DRIFT, changed, checked
from freelunch.study.adaptations import Reconstruction
from freelunch.study.cell import Cell
from freelunch.study.study import Study

RECON = "one/wanda-u50/recon_block/seed0"
PRUNED = "one/wanda-u50/none/seed0"
DENSE = "one/dense/none/seed0"
EVERYONE = {RECON, PRUNED, DENSE}
CHANGES: list[tuple[str, Any, set[str]]] = [
    ("models.one.version", "2", EVERYONE),
    ("models.one.sha256", "1" * 64, EVERYONE),
    ("models.one.dtype", "bfloat16", EVERYONE),
    ("models.one.bos", "never", EVERYONE),
    ("models.one.bos", "auto", set()),
    ("models.one.licence", "MIT", set()),
    ("models.one.architecture", dict(ARCHITECTURE), set()),
    ("models.two.version", "2", set()),
    ("texts.c4.member", "other", {RECON, PRUNED}),
    ("texts.c4.licence", "MIT", set()),
    ("texts.wiki.field", "body", EVERYONE),
    ("texts.unused.member", "other", set()),
    ("criteria.wanda.scope", "matrix", {RECON, PRUNED}),
    ("criteria.magnitude.scope", "row", set()),
    ("adaptations.recon_block.learning_rate", 0.1, {RECON}),
    ("adaptations.recon_block.window", 2, {RECON}),
    ("adaptations.recon_block.window", "all", {RECON}),
    ("adaptations.recon_block.inputs", "sparse", {RECON}),
    ("adaptations.recon_block.loss", "negative_cosine", {RECON}),
    ("adaptations.recon_block.optimiser", "sgd", {RECON}),
    ("adaptations.recon_block.schedule", "cosine", {RECON}),
    ("adaptations.recon_block.precision", "bfloat16", {RECON}),
    ("adaptations.recon_block.precision", "model", set()),
    ("study.precision", "auto", {RECON}),
    ("study.precision", "model", set()),
    ("adaptations.recon_block.select_on", "evaluation", {RECON}),
    ("adaptations.recon_block.learning_rate", [0.1, 0.2], {RECON}),
    ("adaptations.recon_two.targets", "dense", set()),
    ("study.keep_hidden_states", "none", set()),
    ("study.selection", {"samples": 3}, set()),
    ("adaptations.recon_block.warmup", 0.5, {RECON}),
    ("adaptations.recon_block.epochs", 2, {RECON}),
    ("adaptations.recon_block.batch", 3, {RECON}),
    ("adaptations.recon_block.shuffle", False, {RECON}),
    ("adaptations.recon_block.train_norms", False, {RECON}),
    ("adaptations.recon_block.model_dropout", True, {RECON}),
    ("adaptations.recon_block.train_biases", False, {RECON}),
    ("adaptations.recon_block.samples", 5, {RECON}),
    ("adaptations.recon_block.samples", 4, set()),
    ("adaptations.recon_block.budget", {"tokens": 64}, {RECON}),
    ("adaptations.recon_block.budget", {"tokens": 32}, set()),
    ("adaptations.recon_block.trains", "norms", {RECON}),
    ("adaptations.recon_two.epochs", 2, set()),
    ("study.name", "other", set()),
    ("study.dense_limit", 5, set()),
    ("study.calibration.samples", 5, {RECON, PRUNED}),
    ("study.calibration.length", 9, {RECON, PRUNED}),
    ("study.calibration.text", "unused", {RECON, PRUNED}),
    ("study.evaluation.perplexity.length", 9, EVERYONE),
    ("study.evaluation.perplexity.windows", 2, EVERYONE),
    ("study.evaluation.perplexity.text", "unused", EVERYONE),
    ("study.grids.0.seeds", [0, 1], set()),
    ("study.grids.0.patterns", ["u50", "u60"], set()),
]


@pytest.mark.parametrize(("key", "value", "concerned"), CHANGES, ids=[key for key, *_ in CHANGES])
def test_a_spec_changes_with_what_decides_the_number(
    key: str, value: object, concerned: set[str]
) -> None:
    before, after = checked(), checked({key: value})
    cells = [Cell.parse(cell) for cell in sorted(EVERYONE)]
    found = {str(cell) for cell in cells if before.spec(cell) != after.spec(cell)}
    assert found == concerned


@pytest.mark.parametrize(
    ("key", "value", "concerned"),
    [
        ("tasks.rte.member", "other", {DENSE, PRUNED, RECON}),
        ("tasks.rte.documents", 8, {DENSE, PRUNED, RECON}),
        ("tasks.rte.licence", "MIT", set()),
        ("tasks.boolq.member", "other", set()),
        ("study.evaluation.tasks.limit", 3, {DENSE, PRUNED, RECON}),
        ("study.evaluation.tasks.seed", 1, {DENSE, PRUNED, RECON}),
        ("study.evaluation.tasks.names", ["boolq"], {DENSE, PRUNED, RECON}),
        ("study.evaluation.drift", {"samples": 2}, {PRUNED, RECON}),
        ("study.selection", {"samples": 9}, {PRUNED, RECON}),
    ],
)
def test_what_is_measured_is_part_of_the_spec(key: str, value: object, concerned: set[str]) -> None:
    given = changed(ASKED | DRIFT)
    before = Study.check(copy.deepcopy(given), "config.yaml")
    after = Study.check(changed({key: value}, given), "config.yaml")
    cells = [Cell.parse(cell) for cell in (DENSE, PRUNED, RECON)]
    assert {str(it) for it in cells if before.spec(it) != after.spec(it)} == concerned


def test_what_a_spec_holds() -> None:
    found = checked()
    dense, pruned, recon = (found.spec(Cell.parse(cell)) for cell in (DENSE, PRUNED, RECON))
    assert dense.keys() == {"cell", "model", "evaluation"}
    more = {"calibration", "criterion", "pattern", "adaptation", "seed"}
    assert pruned.keys() == recon.keys() == dense.keys() | more
    assert (recon["cell"], recon["pattern"], recon["seed"]) == (RECON, "u50", 0)
    assert recon["criterion"] == {
        "score": "wanda",
        "scope": "row",
        "statistics": "dense",
        "swaps": 0,
    }
    assert pruned["adaptation"] is None and recon["adaptation"]["epochs"] == 1
    assert recon["calibration"]["text"]["name"] == "c4"
    assert recon["evaluation"]["perplexity"]["text"]["name"] == "wiki"


def test_every_setting_of_a_reconstruction_was_changed_above() -> None:
    settings = Reconstruction.model_fields
    # Those that go with one value of another setting only have tests of their own.
    depending = {"memory_gb", "targets", "lost_residual", "rank", "alpha", "after", "skip"}
    changeable = settings.keys() - {"method", *depending}
    assert changeable == {
        key.rpartition(".")[2] for key, *_ in CHANGES if key.startswith("adaptations.recon_block")
    }


def test_a_quirk_that_is_off_is_not_written() -> None:
    """Records from before there was such a setting stay valid."""
    off = {"lost_residual": False, "model_dropout": False}
    spec = checked({"adaptations.recon_block": {"method": "reconstruction", **off}}).spec
    found = spec(Cell.parse(RECON))["adaptation"]
    assert not off.keys() & found.keys() and found["targets"] == "dense"
    assert found == checked().spec(Cell.parse(RECON))["adaptation"]
    on = {"model_dropout": True}
    spec = checked({"adaptations.recon_block": {"method": "reconstruction", **on}}).spec
    assert spec(Cell.parse(RECON))["adaptation"] == {**found, **on}


def test_the_users_own_files_are_inputs(tmp_path: Path) -> None:
    for name in ("config.json", "model.safetensors", "text.txt"):
        (tmp_path / name).touch()
    (tmp_path / "folder").mkdir()
    text = {"source": "path", "path": str(tmp_path / "text.txt"), "format": "plain"}
    model = {"source": "path", "path": str(tmp_path)}
    found = checked({"models.mine": model, "texts.mine": text})
    names = ["config.json", "model.safetensors", "text.txt"]
    assert found.source_files("models", "mine") == [str(tmp_path / name) for name in names]
    assert found.source_files("texts", "mine") == [str(tmp_path / "text.txt")]
    assert found.source_files("models", "one") == []
