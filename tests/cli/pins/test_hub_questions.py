"""What a check asks the hub, and what is read without it."""

import subprocess
import sys
from pathlib import Path

import pytest
from huggingface_hub import constants

from artifacts import write_facts
from freelunch.study.open_study import open_study
from freelunch.study.study import Study
from hub_standin import HubStandIn, use_endpoint
from pinned_studies import STUDY, Said
from repository import ROOT


def test_a_check_asks_for_what_is_not_here_yet(
    hub: HubStandIn, did: Said, refused: Said, monkeypatch: pytest.MonkeyPatch
) -> None:
    did("pin", str(STUDY))
    hub.requests.clear()
    did("check", str(STUDY))
    assert len(hub.requests) == 5, "one request for each, and for each model its files"
    hub.requests.clear()
    did("check", "--elsewhere", str(STUDY))
    study = open_study(STUDY)
    fetched = study.paths.model("one")
    settings = study.model("one").deciding()
    # Another commit was fetched, perhaps for another study.
    write_facts(fetched, settings={**settings, "revision": 40 * "0"})
    did("check", str(STUDY))
    assert len(hub.requests) == 5
    hub.requests.clear()
    write_facts(fetched, settings=settings)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    did("check", str(STUDY))
    assert not hub.requests
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    did("check", str(STUDY))
    assert len(hub.requests) == 3
    use_endpoint(monkeypatch, "http://127.0.0.1:9")
    assert "team/two cannot be read from http://127.0.0.1:9" in refused("check", str(STUDY))


def test_pins_are_read_without_the_library_of_the_hub(hub: HubStandIn, did: Said) -> None:
    did("pin", str(STUDY))
    program = (
        "import sys\nfrom pathlib import Path\nfrom freelunch.study.open_study import open_study\n"
        f"open_study(Path('{STUDY}'))\nassert 'huggingface_hub' not in sys.modules"
    )
    environment = {"PYTHONPATH": str(ROOT / "workflow" / "scripts")}
    subprocess.run([sys.executable, "-c", program], env=environment, check=True)


def test_a_study_of_the_repository_names_no_commit_that_nobody_made() -> None:
    """Such as forty zeros: what is not known yet is a branch, for `make pin`."""
    for path in (ROOT / "config" / "registry.yaml", *(ROOT / "studies").glob("*.yaml")):
        assert "0" * 40 not in path.read_text(), path


def test_a_study_on_the_hub_is_planned_as_it_is() -> None:
    assert not (ROOT / "studies" / "large.yaml.pins").exists()
    study = Study.load(Path("studies/large.yaml"), ROOT)
    assert study.model("qwen2.5-72b").fetched()["revision"] == "main"
