"""The artifact appendix: each tested claim with its command, its cost and what to expect."""

import copy
import re

import pytest

from audits_for_tests import Audited, make_audited
from freelunch.audit.appendix import appendix_text
from freelunch.audit.page import page_text
from freelunch.audit.verdicts import UNTESTED
from freelunch.study.cell import NONE, Cell


@pytest.fixture(scope="module")
def audited(tmp_path_factory: pytest.TempPathFactory) -> Audited:
    return make_audited(tmp_path_factory.mktemp("results") / "made-up", figures=False)


def test_every_claim_with_a_number_is_told_and_no_other(audited: Audited) -> None:
    told = [entry["id"] for entry in audited.audit["appendix"]]
    asked = [claim["id"] for claim in audited.audit["claims"] if claim["verdict"] != UNTESTED]
    assert told == asked and len(told) < len(audited.audit["claims"])


def test_numbers_are_those_of_the_claim(audited: Audited) -> None:
    claims = {claim["id"]: claim for claim in audited.audit["claims"]}
    for entry in audited.audit["appendix"]:
        found = [
            (part["says"], finding["text"], finding["verdict"])
            for part in claims[entry["id"]]["parts"]
            for finding in part["findings"]
            if finding["text"]
        ]
        keys = ("says", "text", "verdict")
        assert [tuple(each[key] for key in keys) for each in entry["expected"]] == found


def test_the_command_makes_every_cell_of_the_claim_and_its_dense_model(audited: Audited) -> None:
    claims = {claim["id"]: claim for claim in audited.audit["claims"]}
    for entry in audited.audit["appendix"]:
        cells = {
            cell
            for part in claims[entry["id"]]["parts"]
            for finding in part["findings"]
            if finding["text"]
            for cell in finding["cells"]
        }
        targets = re.findall(r"records/(\S+)\.json", entry["command"])
        assert {name.replace("__", "/") for name in targets} == {*cells, "tiny/dense/none/seed0"}
        assert len(targets) == entry["cells"]
        assert f"--config study={audited.study.source} -- results/" in entry["command"]


def test_steps_that_cells_share_count_once(audited: Audited) -> None:
    for entry in audited.audit["appendix"]:
        names = re.findall(r"records/(\S+)\.json", entry["command"])
        cells = [Cell.parse(name.replace("__", "/")) for name in names]
        pruned = [cell for cell in cells if not cell.is_dense]
        adapted = [cell for cell in pruned if cell.adaptation != NONE]
        prunings = {(cell.pruning, cell.seed) for cell in pruned}
        samples = {cell.seed for cell in pruned}
        # Of each sample, one job draws it, and one captures activations.
        jobs = len(cells) + len(adapted) + len(prunings) + 2 * len(samples)
        assert entry["jobs"] == jobs
        whole = sum(row["wall_s"] for row in audited.audit["costs"])
        assert 0 < entry["wall_s"] <= whole + 1e-6


def test_the_same_stands_in_the_file_and_on_the_page(audited: Audited) -> None:
    text, page = appendix_text(audited.audit), page_text(audited.study, audited.audit, audited.root)
    for entry in audited.audit["appendix"]:
        assert f"## {entry['id']}: {entry['title']}" in text
        assert entry["command"] in text and entry["command"] in page
        assert f"{entry['cells']} cells, {entry['jobs']:,} jobs: " in text
        for each in entry["expected"]:
            assert f"| {each['subject']} | {each['text']} | {each['threshold']} |" in text
    assert not re.search(r"\d{4}-\d\d-\d\d|/tmp/", text)


def test_a_study_that_asks_about_no_claim(audited: Audited) -> None:
    audit = {**copy.deepcopy(audited.audit), "appendix": []}
    assert appendix_text(audit).endswith("This study asks about none of the paper's claims.\n")
    assert "Claim by claim" not in page_text(audited.study, audit, audited.root)
