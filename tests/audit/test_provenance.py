"""What the numbers cost and how to repeat them: the appendix has a command for each claim."""

import re
from dataclasses import replace

from freelunch.audit.page import page_text
from freelunch.audit.verdicts import UNTESTED
from freelunch.study.cell import NONE, Cell


def test_the_appendix_has_every_claim_with_a_number_and_no_other(made):
    """The command makes every cell of the claim, and its dense model; steps that cells share count
    once.
    """
    tested = [claim for claim in made.audit.claims if claim.verdict != UNTESTED]
    assert len(tested) < len(made.audit.claims)
    whole = sum(step.wall_s for step in made.audit.costs)
    for entry, claim in zip(made.audit.appendix, tested, strict=True):
        numbers, cells = [], {Cell.dense("smollm2-135m")}
        for part in claim.parts:
            for finding in part.findings:
                if finding.text:
                    numbers.append((part.says, finding.text, finding.verdict))
                    cells |= {*map(Cell.parse, finding.cells)}
        assert entry.id == claim.id
        assert [(it.says, it.text, it.verdict) for it in entry.expected] == numbers
        targets = re.findall(r"records/(\S+)\.json", entry.command)
        assert {Cell.parse(name.replace("__", "/")) for name in targets} == cells
        assert len(targets) == entry.cells
        assert f"--config study={made.study.source} -- results/" in entry.command
        pruned = [cell for cell in cells if not cell.is_dense]
        adapted = [cell for cell in pruned if cell.adaptation != NONE]
        prunings = {(cell.pruning, cell.seed) for cell in pruned}
        samples = {cell.seed for cell in pruned}
        # Two jobs draw a sample and held-out text, and two capture activations on them.
        assert entry.jobs == len(cells) + len(adapted) + len(prunings) + 4 * len(samples)
        assert 0 < entry.wall_s <= whole + 1e-6


def test_the_same_stands_in_the_appendix_and_on_the_page(made):
    text, page = made.audit.appendix_text, page_text(made.results, made.audit, made.root)
    for entry in made.audit.appendix:
        for said in (entry.command, f"{entry.cells} cells, {entry.jobs:,} jobs: "):
            assert said in text and said in page
        for each in entry.expected:
            assert f"| {each.subject} | {each.text} | {each.threshold} |" in text
    assert not re.search(r"\d{4}-\d\d-\d\d|/tmp/", text)
    nothing = replace(made.audit, appendix=[])
    assert nothing.appendix_text.endswith("This study asks about none of the paper's claims.\n")
    assert "Claim by claim" not in page_text(made.results, nothing, made.root)
