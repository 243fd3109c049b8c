"""The settings of a study beside those of the paper's protocol."""

from pathlib import Path
from typing import Any

import pytest

from freelunch.audit.protocol import (
    ABSENT,
    DIFFERENT,
    PARTLY,
    SAME,
    UNKNOWN,
    ProtocolSetting,
    audit_protocol,
    load_protocol,
    values,
)
from freelunch.core.files import write_json
from freelunch.study.study import Study
from records_for_tests import make_study
from refusals import refused
from repository import ROOT


def setting(**more: Any) -> dict[str, Any]:
    base = {"id": "x", "group": "g", "setting": "s", "paper": "p", "matters": "no", "why": "w"}
    return base | more


TRAINS_NORMS = {"adaptations": "reconstruction", "key": "train_norms"}
METHODS = {"adaptations": "retraining", "key": "method"}
STRIDE = {"study": "evaluation.perplexity.stride"}
TEXT = {"text_source": "calibration"}


@pytest.mark.parametrize(
    ("ours", "more", "status", "shown"),
    [
        ({"study": "calibration.length"}, {"same_as": [256]}, SAME, ["256"]),
        ({"study": "calibration.length"}, {"same_as": [4096]}, DIFFERENT, ["256"]),
        ({"study": "calibration.length"}, {"paper": None}, UNKNOWN, ["256"]),
        ({"study": "evaluation.tasks.names"}, {"same_as": ["rte"]}, ABSENT, []),
        (STRIDE, {"same_as": [None], "null_reads": "no overlap"}, SAME, ["no overlap"]),
        ({"text": "so"}, {"same": True}, SAME, ["so"]),
        ({"text": "so"}, {"same": False}, DIFFERENT, ["so"]),
        ({"grids": "criteria"}, {"same_as": ["wanda"]}, PARTLY, ["magnitude", "wanda"]),
        ({"grids": "seeds"}, {"same_as": [0]}, SAME, ["0"]),
        ({"criteria": "scope"}, {"same_as": ["row"]}, PARTLY, ["matrix", "row"]),
        (TRAINS_NORMS, {"same_as": [True]}, SAME, ["yes"]),
        (METHODS, {"same_as": ["lora"]}, ABSENT, []),
        (TEXT, {"same_as": ["some-package: c4.utf8"]}, SAME, ["some-package: c4.utf8"]),
    ],
)
def test_a_setting_beside_the_papers(
    ours: dict[str, Any], more: dict[str, Any], status: str, shown: list[str]
) -> None:
    (row,) = audit_protocol(make_study(), [ProtocolSetting(**setting(ours=ours, **more))])
    assert (row.status, row.ours) == (status, shown)


def test_only_what_is_used_is_shown() -> None:
    """Registries may hold more than the grids run."""
    more = {"full": {"method": "full", "budget": {"times": 3, "of": "recon_block"}}}
    ours = {"adaptations": "retraining", "key": "samples"}
    assert values(ours, make_study(more)) == []
    assert values(ours, make_study(more, adaptations=["none", "recon_block", "full"])) == [96]


def test_the_protocol_of_the_paper() -> None:
    rows = audit_protocol(Study.load(Path("studies/full.yaml"), ROOT), load_protocol())
    status = {row.id: row.status for row in rows}
    assert len(status) == len(rows), "an id is there twice"
    assert status["calibration_samples"] == status["models"] == DIFFERENT
    assert status["retraining_budgets"] == status["sparsity"] == UNKNOWN
    assert status["damping"] == SAME


BLOCK = {"method": "reconstruction"}
MATRIX = {**BLOCK, "window": "matrix", "train_norms": False}
BEHIND = {"targets": "behind_sparse"}
SEARCHED = {"learning_rate": [0.1, 0.2], "select_on": "evaluation"}
NO_DROPOUT = {"dropout": (DIFFERENT, ["no"])}
NO_LOSS = {"lost_residual": (DIFFERENT, ["no"])}


@pytest.mark.parametrize(
    ("adaptation", "expected"),
    [
        (BLOCK, NO_DROPOUT),
        ({**BLOCK, "model_dropout": True}, {"dropout": (SAME, ["yes"])}),
        ({**BLOCK, "window": "attention_mlp"}, {}),
        (MATRIX, {"matrix_targets": (DIFFERENT, ["dense"]), **NO_LOSS}),
        (
            {**MATRIX, **BEHIND, "lost_residual": True},
            {"matrix_targets": (SAME, ["behind_sparse"]), "lost_residual": (SAME, ["yes"])},
        ),
        (
            {"method": "least_squares", **BEHIND},
            {"matrix_targets": (SAME, ["behind_sparse"]), **NO_LOSS},
        ),
        (
            {**MATRIX, "inputs": "sparse", "targets": "local"},
            {"matrix_targets": (SAME, ["local"]), "lost_residual": (ABSENT, [])},
        ),
        ({**BLOCK, **SEARCHED}, {"selection": (SAME, ["evaluation"]), **NO_DROPOUT}),
    ],
    ids=str,
)
def test_quirks_of_the_papers_code(
    adaptation: dict[str, Any], expected: dict[str, tuple[str, list[str]]]
) -> None:
    """What a run switches on is the paper's, and only settings of its own windows count."""
    rows = audit_protocol(make_study({"x": adaptation}, adaptations=["x"]), load_protocol())
    found = {row.id: (row.status, row.ours) for row in rows}
    names = ("dropout", "matrix_targets", "lost_residual", "selection")
    others = dict.fromkeys(names, (ABSENT, []))
    assert {name: found[name] for name in names} == {**others, **expected}


def test_a_setting_that_cannot_be_compared_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "protocol.yaml"
    write_json(path, {"settings": [setting(ours={"study": "name"})]})
    with refused(where=f"{path}: x", expected="`same_as`"):
        load_protocol(path)
