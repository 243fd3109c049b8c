"""The artifact appendix: each tested claim with its command, its cost and what to expect."""

import re
from dataclasses import replace

import pytest

from audits_for_tests import Audited, make_audited
from freelunch.audit.page import page_text
from freelunch.audit.verdicts import UNTESTED
from freelunch.study.cell import NONE, Cell


@pytest.fixture(scope="module")
def audited(tmp_path_factory: pytest.TempPathFactory) -> Audited:
    return make_audited(tmp_path_factory.mktemp("results") / "made-up", figures=False)


def test_every_claim_with_a_number_has_its_cells_and_numbers_and_no_other(
    audited: Audited,
) -> None:
    """The command makes every cell of the claim, and its dense model."""
    tested = [claim for claim in audited.audit.claims if claim.verdict != UNTESTED]
    assert len(tested) < len(audited.audit.claims)
    for entry, claim in zip(audited.audit.appendix, tested, strict=True):
        numbers, cells = [], {"tiny/dense/none/seed0"}
        for part in claim.parts:
            for finding in part.findings:
                if finding.text:
                    numbers.append((part.says, finding.text, finding.verdict))
                    cells |= {*finding.cells}
        assert entry.id == claim.id
        assert [(it.says, it.text, it.verdict) for it in entry.expected] == numbers
        targets = re.findall(r"records/(\S+)\.json", entry.command)
        assert {name.replace("__", "/") for name in targets} == cells
        assert len(targets) == entry.cells
        assert f"--config study={audited.study.source} -- results/" in entry.command


def test_steps_that_cells_share_count_once(audited: Audited) -> None:
    for entry in audited.audit.appendix:
        names = re.findall(r"records/(\S+)\.json", entry.command)
        cells = [Cell.parse(name.replace("__", "/")) for name in names]
        pruned = [cell for cell in cells if not cell.is_dense]
        adapted = [cell for cell in pruned if cell.adaptation != NONE]
        prunings = {(cell.pruning, cell.seed) for cell in pruned}
        samples = {cell.seed for cell in pruned}
        # One job draws each sample, and another captures activations on it.
        jobs = len(cells) + len(adapted) + len(prunings) + 2 * len(samples)
        assert entry.jobs == jobs
        whole = sum(step.wall_s for step in audited.audit.costs)
        assert 0 < entry.wall_s <= whole + 1e-6


def test_the_same_stands_in_the_file_and_on_the_page(audited: Audited) -> None:
    text = audited.audit.appendix_text
    page = page_text(audited.results, audited.audit, audited.root)
    for entry in audited.audit.appendix:
        assert f"## {entry.id}: {entry.title}" in text
        assert entry.command in text and entry.command in page
        assert f"{entry.cells} cells, {entry.jobs:,} jobs: " in text
        for each in entry.expected:
            assert f"| {each.subject} | {each.text} | {each.threshold} |" in text
    assert not re.search(r"\d{4}-\d\d-\d\d|/tmp/", text)


def test_a_study_that_asks_about_no_claim(audited: Audited) -> None:
    audit = replace(audited.audit, appendix=[])
    assert audit.appendix_text.endswith("This study asks about none of the paper's claims.\n")
    assert "Claim by claim" not in page_text(audited.results, audit, audited.root)
