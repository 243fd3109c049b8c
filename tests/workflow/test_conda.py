"""`--sdm conda`: jobs run in the environment of envs/freelunch.yaml, which Snakemake makes.

No channel can be reached in tests. A stand-in for `conda` answers what Snakemake asks, and makes an
environment with a Python of its own, which finds the packages of the one that runs the tests.
"""

import os
import sys
import sysconfig
from pathlib import Path

import pytest
import yaml

from study_folder import Folder

STAND_IN = """\
#!{python}
import json, subprocess, sys
from pathlib import Path

asked = sys.argv[1:]
if asked == ["--version"]:
    print("conda 25.1.0")
elif asked == ["info", "--json"]:
    print(json.dumps({{"conda_prefix": "{prefix}", "platform": "linux-64"}}))
elif asked == ["config", "--get", "channel_priority", "--json"]:
    print(json.dumps({{"get": {{"channel_priority": "strict"}}}}))
elif asked[:2] == ["env", "create"]:
    given = dict(zip(asked[-4::2], asked[-3::2]))
    folder = Path(given["--prefix"])
    subprocess.run(["{python}", "-m", "venv", "--without-pip", folder], check=True)
    (packages,) = folder.glob("lib/python*/site-packages")
    noted = f"import os; open({{str(folder / 'used')!r}}, 'a').write('once')"
    (packages / "packages.pth").write_text("{packages}" + chr(10) + noted + chr(10))
    (folder / "asked.yaml").write_text(Path(given["--file"]).read_text())
elif asked[0] != "clean":
    sys.exit(f"the stand-in for conda does not know {{asked}}")
"""


def test_jobs_run_in_the_environment_that_conda_makes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tools = tmp_path / "conda" / "bin"
    tools.mkdir(parents=True)
    packages = sysconfig.get_path("purelib")
    conda = STAND_IN.format(python=sys.executable, prefix=tools.parent, packages=packages)
    (tools / "conda").write_text(conda)
    (tools / "conda").chmod(0o755)
    (tools / "activate").write_text('export PATH="$1/bin:$PATH" CONDA_PREFIX="$1"\n')
    study = Folder.new(tmp_path / "study")
    monkeypatch.setenv("PATH", f"{tools}{os.pathsep}{os.environ['PATH']}")
    sample = "results/smoke/calibration/tiny/seed0/manifest.json"
    study.run("--software-deployment-method", "conda", "--", sample)
    (made,) = (study.path / ".snakemake" / "conda").glob("*/asked.yaml")
    pins = yaml.safe_load(made.read_text())
    assert pins == yaml.safe_load((study.path / "envs" / "freelunch.yaml").read_text())
    # The model, the text and the sample.
    assert (made.parent / "used").read_text().count("once") >= 3
    assert (study.path / sample).is_file()
