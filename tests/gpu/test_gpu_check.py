"""`make gpu-check` on a processor, whose speed has no bound: what it measures, it can measure."""

import pytest

from gpu_check import SMALL, Case, Report, measure


def test_a_processor_is_measured(capsys: pytest.CaptureFixture[str]) -> None:
    report = Report()
    measure(report, Case("cpu", {**SMALL, "num_hidden_layers": 1}, length=64, sequences=2))
    lines = capsys.readouterr().out.splitlines()
    assert report.missed == 0 and sum("step of" in line for line in lines) == 6, lines
