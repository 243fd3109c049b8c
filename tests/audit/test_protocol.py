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
from freelunch.core.errors import UserError
from freelunch.core.files import write_json
from freelunch.study.study import Study
from records_for_tests import make_study
from repository import ROOT


def setting(**more: Any) -> dict[str, Any]:
    base = {"id": "x", "group": "g", "setting": "s", "paper": "p", "matters": "no", "why": "w"}
    return base | more


@pytest.mark.parametrize(
    ("more", "status", "shown"),
    [
        ({"ours": {"study": "calibration.length"}, "same_as": [256]}, SAME, ["256"]),
        ({"ours": {"study": "calibration.length"}, "same_as": [4096]}, DIFFERENT, ["256"]),
        ({"ours": {"study": "calibration.length"}, "paper": None}, UNKNOWN, ["256"]),
        ({"ours": {"study": "evaluation.tasks.names"}, "same_as": ["rte"]}, ABSENT, []),
        (
            {
                "ours": {"study": "evaluation.perplexity.stride"},
                "same_as": [None],
                "null_reads": "no overlap",
            },
            SAME,
            ["no overlap"],
        ),
        ({"ours": {"text": "so"}, "same": True}, SAME, ["so"]),
        ({"ours": {"text": "so"}, "same": False}, DIFFERENT, ["so"]),
        ({"ours": {"grids": "criteria"}, "same_as": ["wanda"]}, PARTLY, ["magnitude", "wanda"]),
        ({"ours": {"grids": "seeds"}, "same_as": [0]}, SAME, ["0"]),
        ({"ours": {"criteria": "scope"}, "same_as": ["row"]}, PARTLY, ["matrix", "row"]),
        (
            {"ours": {"adaptations": "reconstruction", "key": "train_norms"}, "same_as": [True]},
            SAME,
            ["yes"],
        ),
        (
            {"ours": {"adaptations": "retraining", "key": "method"}, "same_as": ["lora"]},
            ABSENT,
            [],
        ),
        (
            {
                "ours": {"text_source": "calibration"},
                "same_as": ["some-package: c4.utf8"],
            },
            SAME,
            ["some-package: c4.utf8"],
        ),
    ],
)
def test_a_setting_beside_the_papers(more: dict[str, Any], status: str, shown: list[str]) -> None:
    (row,) = audit_protocol(make_study(), [ProtocolSetting(**setting(**more))])
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
    assert all(row.why and row.setting for row in rows)


MATRIX = {"method": "reconstruction", "window": "matrix", "train_norms": False}
BEHIND = {**MATRIX, "targets": "behind_sparse"}


@pytest.mark.parametrize(
    ("adaptation", "expected"),
    [
        ({"method": "reconstruction"}, {"dropout": (DIFFERENT, ["no"])}),
        ({"method": "reconstruction", "model_dropout": True}, {"dropout": (SAME, ["yes"])}),
        ({"method": "reconstruction", "window": "attention_mlp"}, {}),
        (
            MATRIX,
            {"matrix_targets": (DIFFERENT, ["dense"]), "lost_residual": (DIFFERENT, ["no"])},
        ),
        (
            {**BEHIND, "lost_residual": True},
            {"matrix_targets": (SAME, ["behind_sparse"]), "lost_residual": (SAME, ["yes"])},
        ),
        (
            {"method": "least_squares", "targets": "behind_sparse"},
            {"matrix_targets": (SAME, ["behind_sparse"]), "lost_residual": (DIFFERENT, ["no"])},
        ),
        (
            {**MATRIX, "inputs": "sparse", "targets": "local"},
            {"matrix_targets": (SAME, ["local"]), "lost_residual": (ABSENT, [])},
        ),
        (
            {"method": "reconstruction", "learning_rate": [0.1, 0.2], "select_on": "evaluation"},
            {"selection": (SAME, ["evaluation"]), "dropout": (DIFFERENT, ["no"])},
        ),
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
    assert {name: found[name] for name in names} == {
        **dict.fromkeys(names, (ABSENT, [])),
        **expected,
    }


def test_masks_behind_unreconstructed_blocks_are_the_papers_too() -> None:
    for statistics in ("dense", "sparse"):
        more = {"y": {"score": "wanda", "statistics": statistics}}
        study = make_study(more_criteria=more, criteria=["y"])
        rows = {row.id: row for row in audit_protocol(study, load_protocol())}
        assert rows["mask_statistics"].status == SAME
        assert rows["mask_statistics"].ours == [statistics]


def test_a_setting_that_cannot_be_compared_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "protocol.yaml"
    write_json(path, {"settings": [setting(ours={"study": "name"})]})
    with pytest.raises(UserError, match="does not say which of ours") as error:
        load_protocol(path)
    assert f"{path}: x" in str(error.value)
