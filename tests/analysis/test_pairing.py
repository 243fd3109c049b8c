"""The independent units of a measurement: windows, or the documents that windows lie in."""

import math
import statistics
from itertools import combinations

import numpy as np
import pytest
from scipy.special import stdtrit

from freelunch.analysis.intervals import half_width, told_apart
from freelunch.analysis.pairing import standard_error, unit_losses
from records_for_tests import make_records, make_study


def test_the_error_is_clustered_by_document() -> None:
    """Against the textbook's sum over clusters: the squares of their summed deviations."""
    losses, documents = [3.5, 2.0, 4.25, 1.5, 2.5, 3.0], [1, 0, 1, 2, 0, 2]
    units = unit_losses({"window_losses": losses, "documents": documents})
    mean = statistics.fmean(losses)
    assert statistics.fmean(units) == pytest.approx(mean)
    sums = [
        sum(loss - mean for loss, of in zip(losses, documents, strict=True) if of == document)
        for document in set(documents)
    ]
    # With the customary correction for few clusters.
    expected = math.sqrt(sum(each**2 for each in sums) * 3 / 2) / len(losses)
    assert standard_error(units) == pytest.approx(expected)


@pytest.mark.parametrize("windows", [[40, 1, 1], [45, 1, 1, 1], [20, 1, 1, 1]], ids=str)
def test_one_document_that_dominates_has_no_error(windows: list[int]) -> None:
    """Two units of very different size would have intervals that contain the truth in 70 to 90 % of
    studies.
    """
    documents = [document for document, count in enumerate(windows) for _ in range(count)]
    losses = [float(at) for at in range(len(documents))]
    units = unit_losses({"window_losses": losses, "documents": documents})
    assert units == pytest.approx([statistics.fmean(losses)])
    assert math.isnan(standard_error(units)) and math.isnan(half_width(np.array(units), False))


def test_a_loss_that_is_not_finite() -> None:
    units = unit_losses({"window_losses": [1.0, None, 2.0], "documents": [0, 0, 1]})
    assert all(map(math.isnan, units))


def test_how_small_a_difference_the_text_can_show() -> None:
    """The median over pairs of half the t interval of their paired difference."""
    two = {"recon_two": {"method": "reconstruction", "window": 2}}
    study = make_study(two, criteria=["wanda"], adaptations=["none", "recon_block", "recon_two"])
    records = make_records(study, {})
    generator = np.random.default_rng(0)
    for record in records.values():
        perplexity = record["metrics"]["perplexity"]
        perplexity["window_losses"] = list(3 + 0.1 * generator.standard_normal(24))
    losses = [
        np.array(records[cell]["metrics"]["perplexity"]["window_losses"])
        for cell in study.cells
        if not cell.is_dense
    ]
    assert len(losses) == 3
    widths = [
        stdtrit(23, 0.975) * float((one - other).std(ddof=1)) / math.sqrt(24)
        for one, other in combinations(losses, 2)
    ]
    assert told_apart(records, neighbours=False) == pytest.approx(statistics.median(widths))
    (last, *_) = (record for cell, record in records.items() if cell.adaptation == "recon_two")
    last["metrics"]["perplexity"]["window_losses"][0] = None
    assert told_apart(records, neighbours=False) == pytest.approx(widths[0])
    alone = make_study(criteria=["wanda"], adaptations=["none"])
    assert told_apart(make_records(alone, {}), neighbours=False) is None


@pytest.mark.parametrize(
    "windows",
    [
        [1, 2, 3] * 5,
        [1, 1, 2, 6],
        [1, 2, 2, 3, 3, 5, 8, 20],
        [24] + [1] * 23,
        [1, 1, 2, 2, 3, 4, 7, 12] * 6,
        [4, 5],
        [3, 3, 4],
        [1, 2, 2],
    ],
    ids=str,
)
def test_intervals_over_documents_cover(windows: list[int]) -> None:
    """Windows of one document share most of their deviation; taken as independent, they mislead,
    and so do documents of different length if they are taken as alike.
    """
    generator = np.random.default_rng(0)
    documents = [document for document, count in enumerate(windows) for _ in range(count)]
    clustered = naive = 0
    trials = 2000
    for _ in range(trials):
        own = generator.standard_normal(len(windows))
        losses = [own[document] + 0.5 * generator.standard_normal() for document in documents]
        units = unit_losses({"window_losses": losses, "documents": documents})
        mean = abs(statistics.fmean(losses))
        clustered += mean < stdtrit(len(units) - 1, 0.975) * standard_error(units)
        naive += mean < stdtrit(len(losses) - 1, 0.975) * standard_error(losses)
    assert clustered / trials >= 0.93 > 0.9 > naive / trials
