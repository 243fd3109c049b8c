"""Plans for a machine with a GPU, or with too little memory: what fits, and what would."""

import re
from pathlib import Path

import pytest

from configs import QWEN_72B, smoke
from freelunch.cli.main import main
from freelunch.core.errors import UserError
from freelunch.costs.device_table import device_table
from freelunch.costs.fits import decide_residency, decide_window
from freelunch.costs.jobs import Job
from freelunch.costs.machine import Machine
from freelunch.costs.plan import Plan
from freelunch.costs.plan_text import plan_text
from freelunch.costs.reconstruction import reconstruct
from freelunch.costs.requests import request
from freelunch.costs.retraining import retrain
from freelunch.costs.shapes import Shapes
from freelunch.study.retraining import read_adaptation
from freelunch.study.study import Study

LARGE = Path("studies/large.yaml")
GB = 10**9
SHAPES = Shapes.of(QWEN_72B, "bfloat16")
SAMPLE = 8, 256


def planned(study: Study, device_gb: int | None = None, memory_gb: int | None = None) -> str:
    """Return the text of a plan for a machine with a GPU or with so much memory."""
    device = None if device_gb is None else device_gb * GB
    memory = None if memory_gb is None else memory_gb * GB
    machine = Machine(4e14, 2e9, 2e9, 1e8, memory, device, rates=("all as given",))
    return plan_text(Plan.of(study, device), machine)


def line(text: str, *words: str) -> str:
    """Return the only line of a text that begins with these words."""
    (found,) = [it for it in text.splitlines() if it.split()[: len(words)] == list(words)]
    return found


def test_host_and_device_have_columns_of_their_own() -> None:
    large = Study.load(LARGE)
    heads = line(planned(large), "step").split()
    assert "memory" in heads and "device" not in heads
    heads = line(planned(large, device_gb=80), "step").split()
    assert "memory" not in heads and {"host", "device"} < set(heads)


def test_what_is_auto_fits_into_the_device() -> None:
    large = Study.load(LARGE)
    for size, window, residency in ((24, 3, "streamed"), (40, 6, "model"), (80, 13, "model")):
        plan = Plan.of(large, size * GB)
        assert plan.window("llama-3.1-8b", "recon_auto")[0] == window
        text = planned(large, size)
        found = line(text, "llama-3.1-8b", "masklora")
        assert found.split()[2] == residency
        assert f"of the device's {size}.0 GB" in found
    # Its own budget is smaller than this device.
    assert Plan.of(large, 800 * GB).window("llama-3.1-8b", "recon_auto")[0] == 13


def test_a_window_that_does_not_fit() -> None:
    found = line(planned(Study.load(LARGE), device_gb=80), "qwen2.5-72b", "recon_5")
    pattern = r"does not fit: needs [\d.]+ GB, the device has 80 GB; `window: 4` needs [\d.]+ GB$"
    assert re.search(pattern, found)
    assert "does not fit" not in line(planned(Study.load(LARGE), 100), "qwen2.5-72b", "recon_5")


def test_a_whole_model_that_does_not_fit() -> None:
    kept = {"method": "full", "residency": "model"}
    study = Study.load(LARGE)
    study.config.adaptations["full"] = read_adaptation(kept)
    found = line(planned(study, device_gb=80), "qwen2.5-72b", "full")
    assert re.search(
        r"does not fit: needs 1,\d{3} GB, the device has 80 GB; "
        r"`residency: streamed` needs [\d.]+ GB$",
        found,
    )


def test_a_step_that_does_not_fit() -> None:
    text = planned(Study.load(LARGE), device_gb=10)
    pattern = (
        r"^  evaluate_cell of qwen2\.5-72b does not fit: needs [\d.]+ GB, the device has 10 GB\.$"
    )
    assert re.search(pattern, text, re.M)
    assert "not even" not in text and "no window fits" not in text.split("recon_matrix")[0]


def test_no_window_fits_into_a_tiny_device() -> None:
    text = planned(Study.load(LARGE), device_gb=3)
    assert "does not fit" in line(text, "qwen2.5-72b", "recon_auto")
    assert line(text, "qwen2.5-72b", "recon_auto").endswith("no window fits")
    found = line(text, "qwen2.5-72b", "masklora")
    assert found.endswith("; no length of sequences fits")


@pytest.mark.parametrize(
    ("micro_batch", "device_gb", "expected"),
    [
        (8, 40, "`micro_batch: 1` needs 19.6 GB"),
        (8, 18, "`micro_batch: 1` with `study.calibration.length: LENGTH` needs SIZE GB"),
        (1, 18, "`study.calibration.length: LENGTH` needs SIZE GB"),
    ],
)
def test_a_streamed_retraining_may_fit_with_fewer_or_shorter_sequences(
    micro_batch: int, device_gb: int, expected: str
) -> None:
    study = Study.load(LARGE)
    entry = study.config.adaptations["masklora"].as_json() | {"micro_batch": micro_batch}
    study.config.adaptations["masklora"] = read_adaptation(entry)
    found = line(planned(study, device_gb=device_gb), "qwen2.5-72b", "masklora")
    pattern = re.escape(expected).replace("LENGTH", r"(\d+)").replace("SIZE", r"([\d.]+)")
    advised = re.search(rf"; {pattern}$", found)
    assert advised
    if "LENGTH" in expected:
        length, needs = int(advised[1]), float(advised[2])
        assert length < study.calibration.length and needs <= device_gb


def test_without_a_device_the_machines_own_memory_counts() -> None:
    study = Study.load(LARGE)
    found = line(planned(study, memory_gb=40), "qwen2.5-72b", "recon_5")
    assert "does not fit" in found and "this machine has 40 GB; `window: 1`" in found
    # Nothing is known of another machine's memory.
    assert "does not fit" not in line(planned(study), "qwen2.5-72b", "recon_5")


def test_the_smaller_of_budget_and_device_decides() -> None:
    settings = read_adaptation({"method": "reconstruction", "window": "auto", "memory_gb": 60})
    for device, name in ((None, " 60 GB"), (70 * GB, " 60 GB"), (30 * GB, " the device's 30 GB")):
        window, why = decide_window(SHAPES, *SAMPLE, settings, device)
        assert why is not None and f" of{name}" in why
        chosen = settings.model_copy(update={"window": window})
        larger = settings.model_copy(update={"window": int(window) + 1})
        fits, not_fits = (reconstruct(SHAPES, *SAMPLE, it) for it in (chosen, larger))
        if device == 30 * GB:
            assert fits.memory(device=True).device <= device < not_fits.memory(device=True).device
        else:
            assert fits.memory_bytes <= 60 * GB < not_fits.memory_bytes


def test_residency_follows_the_device() -> None:
    settings = read_adaptation({"method": "masklora"})
    whole = retrain(SHAPES, *SAMPLE, settings).memory(device=True).device
    for device, streamed in ((whole, False), (whole - 1, True), (1, True)):
        assert decide_residency(SHAPES, *SAMPLE, settings, device)[0] is streamed
    budget = settings.model_copy(update={"memory_gb": 1.0})
    with pytest.raises(UserError, match="not even block by block"):
        decide_residency(SHAPES, *SAMPLE, budget, whole)


def test_a_job_on_a_device_requests_the_hosts_memory() -> None:
    study = Study.load(LARGE)
    job = Job("retrain_model", "qwen2.5-72b", adaptation="masklora")
    machine = Machine.of(400e12, 2e9)
    asked = [request(plan, machine, job) for plan in (Plan.of(study, 400 * GB), Plan.of(study))]
    assert asked[0].mem_mb < asked[1].mem_mb


def test_a_row_for_each_adaptation_and_a_column_for_each_device() -> None:
    study = smoke()
    table = device_table(study, Machine.of(1e12, 1e9, 1e8), [GB, 2 * GB]).splitlines()
    assert table[0] == "| model | adaptation | 1 GB | 2 GB |"
    assert len(table) == 2 + 1 and table[2].startswith("| tiny | `recon_block` | window 1, ")


def test_options_of_the_command(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["--tflops", "400", "--disk", "2GB/s", "--network", "1GB/s", "--device-memory", "80"]
    monkeypatch.setattr("sys.argv", ["freelunch", "plan", str(LARGE), *options])
    assert main() == 0
    text = capsys.readouterr().out
    for words in (
        "a matrix product at 400 TFLOP/s as given",
        "reading at 2.0 GB/s, writing at 2.0 GB/s as given",
        "downloads at 1.0 GB/s as given",
        "the device has 80 GB",
    ):
        assert words in text
    monkeypatch.setattr("sys.argv", ["freelunch", "plan", str(LARGE), "--device-memory", "much"])
    assert main() == 1
    assert "--device-memory: the memory of a device is a number of GB" in capsys.readouterr().err
