"""A person's way from a clone to the page of a study of their own: one command, one file, no edit.

`tests/cli/test_new.py` writes studies of every family and every kind of text; this one runs.
"""

import json
import os
import subprocess
import sys

from freelunch.core.devices import fast_precision
from repository import ROOT
from study_folder import Folder
from tiny_models import save_tiny_model

# The smallest study: that of a machine on which a larger one would take over an hour.
NEW = """
from freelunch.cli.new import write_study
from own_models import machine
print(write_study("~/My Model (v1)", ["~/Notes of 2024.jsonl"], None, None, machine(1))[0])
"""


def test_a_study_of_ones_own_reaches_its_page(tmp_path):
    folder = Folder.new(tmp_path / "clone").warm()
    save_tiny_model(tmp_path / "My Model (v1)")
    paragraphs = ROOT / "tests" / "fixtures" / "paragraphs.jsonl"
    notes = tmp_path / "Notes of 2024.jsonl"
    notes.write_text(paragraphs.read_text().replace('"text"', '"story"'))
    library = folder.path / "workflow" / "scripts"
    support = os.pathsep.join([str(library), *[path for path in sys.path if path]])
    environment = {**folder.environment, "HOME": str(tmp_path), "PYTHONPATH": support}

    def run(*command: str) -> str:
        done = subprocess.run(
            ["python", *command],
            cwd=folder.path,
            env=environment,
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    study = run("-c", NEW).strip()
    assert study == "studies/my-model-v1-notes-of-2024.yaml"
    said = run("-m", "freelunch", "run", study, "--cores", "2")
    assert f"{study}: all is well" in said
    root = folder.path / "results" / "my-model-v1-notes-of-2024"
    shown = run("-m", "freelunch", "audit", study)
    assert shown.splitlines()[-1].endswith(f"{root.relative_to(folder.path)}/audit/index.html")
    assert (root / "audit" / "index.html").is_file()
    records = [json.loads(path.read_text()) for path in (root / "records").iterdir()]
    assert len(records) == 3
    # The new study leaves the precision to the machine.
    adapted = [record["adaptation"] for record in records if record["adaptation"]]
    assert {each["precision"] for each in adapted} == {fast_precision(False)}
