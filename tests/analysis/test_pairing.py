"""The independent units of a measurement: windows, or the documents that windows lie in."""

import math
import statistics

import numpy as np
import pytest
from scipy.special import stdtrit

from freelunch.analysis.pairing import standard_error, unit_losses


def test_windows_of_documents_of_their_own_are_units() -> None:
    losses = [3.5, 2.0, 4.25, 1.5]
    expected = pytest.approx(losses)
    assert unit_losses({"window_losses": losses, "documents": [7, 1, 0, 3]}) == expected
    # So are windows of joined documents, and sequences that were drawn at random.
    assert unit_losses({"window_losses": losses}) == losses


def test_the_error_is_clustered_by_document() -> None:
    """Against the textbook's sum over clusters: the squares of their summed deviations."""
    losses, documents = [3.5, 2.0, 4.25, 1.5, 2.5, 3.0], [1, 0, 1, 2, 0, 1]
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


def test_a_loss_that_is_not_finite() -> None:
    units = unit_losses({"window_losses": [1.0, None, 2.0], "documents": [0, 0, 1]})
    assert all(map(math.isnan, units))


def test_intervals_over_documents_cover() -> None:
    """Windows of one document share most of their deviation; taken as independent, they mislead."""
    generator = np.random.default_rng(0)
    documents = [document for document in range(16) for _ in range(1 + document % 3)]
    clustered = naive = 0
    trials = 2000
    for _ in range(trials):
        own = generator.standard_normal(16)
        losses = [own[document] + 0.5 * generator.standard_normal() for document in documents]
        units = unit_losses({"window_losses": losses, "documents": documents})
        mean = abs(statistics.fmean(losses))
        clustered += mean < stdtrit(15, 0.975) * standard_error(units)
        naive += mean < stdtrit(len(losses) - 1, 0.975) * standard_error(losses)
    assert clustered / trials > 0.93 > 0.9 > naive / trials
