"""docs/recipes/loss.md, followed to the letter."""

import json
import shutil
from pathlib import Path

import yaml

from recipes import files_of, follow, succeed

ROOT = Path(__file__).resolve().parents[2]
TEST = "adaptation/test_reconstruction.py"
FIXTURES = "adaptation/conftest.py"


def test_the_recipe_touches_few_files() -> None:
    assert len(files_of("loss")) <= 3


def test_a_loss_made_by_the_recipe(study):
    shutil.copytree(ROOT / "tests" / "support", study.path / "tests" / "support")
    (study.path / "tests" / TEST).parent.mkdir()
    for name in (TEST, FIXTURES):
        shutil.copy(ROOT / "tests" / name, study.path / "tests" / name)
    follow("loss", study.path)

    # The test of all losses takes it up by itself.
    command = ("pytest", "-v", "-k", "huber", TEST)
    printed = succeed(*command, folder=study.path / "tests", environment=study.environment)
    assert "-huber] PASSED" in printed

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
