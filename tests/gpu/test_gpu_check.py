"""`make gpu-check` on a processor: what it compares can fail."""

import pytest

from freelunch.adaptation.retraining.state import TrainedState
from gpu_check import SMALL, Case, Report, compare_with_processor

CASE = Case("cpu", {**SMALL, "num_hidden_layers": 1}, length=64, sequences=8)


def test_a_processor_agrees_with_itself(capsys: pytest.CaptureFixture[str]) -> None:
    report = Report()
    compare_with_processor(report, CASE)
    assert report.missed == 0, capsys.readouterr().out


def test_a_device_that_does_not_train_is_noticed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its losses are near enough to those of the processor, which fall."""
    step_, trainings = TrainedState.step_, set[TrainedState]()

    def only_first_(self: TrainedState, rate: float, clip: float | None) -> None:
        trainings.add(self)
        # The processor trains in two ways by two methods.
        step_(self, rate if len(trainings) <= 4 else 0.0, clip)

    monkeypatch.setattr(TrainedState, "step_", only_first_)
    report = Report()
    compare_with_processor(report, CASE)
    lines = capsys.readouterr().out.splitlines()
    assert report.missed == 8, lines
    assert all("retraining" in line for line in lines if "MISSED" in line)
