"""docs/recipes/loss.md, followed to the letter."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import yaml

from recipes import files_of, follow

ROOT = Path(__file__).resolve().parents[2]
TEST = "adaptation/test_reconstruction.py"


def test_the_recipe_touches_few_files() -> None:
    assert len(files_of("loss")) <= 3


def test_a_loss_made_by_the_recipe(study):
    shutil.copytree(ROOT / "tests" / "support", study.path / "tests" / "support")
    (study.path / "tests" / TEST).parent.mkdir()
    shutil.copy(ROOT / "tests" / TEST, study.path / "tests" / TEST)
    follow("loss", study.path)

    # The test of all losses takes it up by itself.
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-v", "-k", "huber", TEST],
        cwd=study.path / "tests",
        env=study.environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout
    assert "-huber] PASSED" in done.stdout

    # A study has it by its name.
    path = study.path / "config.yaml"
    config = yaml.safe_load(path.read_text())
    config["adaptations"]["recon_block"]["loss"] = "huber"
    path.write_text(yaml.safe_dump(config))
    study.run()
    records = study.path / "results" / "smoke" / "records"
    record = json.loads((records / "tiny__wanda-u50__recon_block__seed0.json").read_text())
    assert "huber" in json.dumps(record["spec"])
    for loss in record["adaptation"]["losses"].values():
        assert 0 < loss["after"] < loss["before"]
