"""DVC around the workflow: run, share, compare, and never an old number under a new config."""

import base64
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
from functools import reduce
from pathlib import Path

import pytest
import yaml

from repository import ROOT, shell_environment

pytestmark = pytest.mark.long

METRICS = "perplexity.json"
PARTS = (
    *("calibration", "dense", "checkpoints", "metrics", "records", "figures", "tables", "audit"),
    *(METRICS, "audit.sha256"),
)
TRACKED = ("resources", ".snakemake/metadata", *(f"results/laptop/{part}" for part in PARTS))
RECONSTRUCTED = "tiny__wanda-u50__recon_block__seed0"
PRUNED = "tiny__wanda-u50__none__seed0"

DVC_FOLDERS = ("SITE_CACHE_DIR", "GLOBAL_CONFIG_DIR", "SYSTEM_CONFIG_DIR")
# As on a machine where nothing is activated.
FOLDERS = [each for each in os.environ["PATH"].split(":") if not Path(each, "snakemake").exists()]


class Clone:
    """A repository whose default study is the smoke study, with an environment but not in it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.bin = path / ".venv" / "bin"

    def try_(self, *command: object) -> subprocess.CompletedProcess[str]:
        """Run a command and return what it said, stderr included."""
        environment = {
            **shell_environment("STUDY", "CORES", "PYTHONPATH", "VIRTUAL_ENV"),
            "PATH": ":".join(FOLDERS),
            "DVC_NO_ANALYTICS": "1",
            "VERBOSE": "1",
            # Nobody's own settings of DVC and git, and no cache of file states but the clone's.
            **{f"DVC_{kind}": str(self.path / ".dvc" / "tmp" / kind) for kind in DVC_FOLDERS},
            "GIT_CONFIG_GLOBAL": os.devnull,
            **{f"GIT_{who}_NAME": "test" for who in ("AUTHOR", "COMMITTER")},
            **{f"GIT_{who}_EMAIL": "test@example.org" for who in ("AUTHOR", "COMMITTER")},
        }
        return subprocess.run(
            [str(word) for word in command],
            cwd=self.path,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=600,
        )

    def run(self, *command: object) -> str:
        done = self.try_(*command)
        said = f"{' '.join(map(str, command))}: exit status {done.returncode}\n{done.stdout}"
        assert done.returncode == 0, said
        return done.stdout

    def dvc(self, *arguments: object) -> str:
        return self.run(self.bin / "dvc", *arguments)

    def status(self) -> dict[str, object]:
        found: dict[str, object] = json.loads(self.dvc("status", "--json"))
        return found

    def planned(self) -> list[str]:
        """Return the names of the rules that Snakemake would run."""
        said = self.run(self.bin / "snakemake", "--cores", 1, "--dry-run", "--quiet", "host")
        if "Nothing to be done" in said:
            return []
        # The steps of a cell are one group, whose rules are indented.
        rules = re.findall(r"^ *(?:local)?rule (\w+):$", said, re.MULTILINE)
        assert rules, said
        return rules

    def commit(self, message: str) -> None:
        self.run("git", "add", "--all")
        self.run("git", "commit", "--quiet", "--message", message)

    def clone(self, path: Path) -> "Clone":
        """Clone with git, give it an environment and the same remote; nothing is pulled."""
        subprocess.run(["git", "clone", "--quiet", self.path, path], check=True)
        other = Clone(path)
        other.add_environment()
        return other

    def add_environment(self) -> None:
        """Make a .venv that is this test's own environment, ready in the Makefile's eyes."""
        (self.path / ".venv").mkdir()
        for entry in Path(sys.prefix).iterdir():
            if entry.name != ".ready":
                (self.path / ".venv" / entry.name).symlink_to(entry)
        (self.path / ".venv" / ".ready").touch()

    def edit_config(self, old: str, new: str) -> None:
        config = self.path / "config.yaml"
        text = config.read_text()
        assert text.count(old) == 1, f"config.yaml does not have {old!r} once:\n{text}"
        config.write_text(text.replace(old, new))

    def record(self, name: str) -> dict[str, object]:
        path = self.path / "results" / "laptop" / "records" / f"{name}.json"
        found: dict[str, object] = json.loads(path.read_text())
        return found

    def digests(self) -> dict[str, str]:
        """Return the MD5 of each file that DVC tracks, as DVC names it in its cache."""
        return {
            str(path.relative_to(self.path)): hashlib.md5(path.read_bytes()).hexdigest()
            for part in TRACKED
            for path in [self.path / part, *sorted((self.path / part).rglob("*"))]
            # Known digests hold inodes, and .dvcignore leaves them out.
            if path.is_file() and path.suffix != ".checked"
        }


@pytest.fixture(scope="module")
def remote(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("remote")


@pytest.fixture(scope="module")
def origin(tmp_path_factory, remote) -> Clone:
    """The repository as it is, the smoke study as config.yaml, run once by DVC and pushed."""
    clone = Clone(tmp_path_factory.mktemp("dvc") / "origin")
    names = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    ).stdout.split("\0")
    for name in filter(None, names):
        source, target = ROOT / name, clone.path / name
        if source.exists() and not name.startswith("dvc.lock"):
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(source, target, follow_symlinks=False)
    smoke = yaml.safe_load((ROOT / "studies" / "smoke.yaml").read_text())
    smoke["study"]["name"] = "laptop"
    # A second window, a retraining and drift, so that every figure is drawn. Drift is measured on
    # documents that calibration does not touch: four are too few.
    smoke["study"]["evaluation"]["drift"] = {"samples": 2}
    smoke["study"]["selection"] = {"samples": 2}
    speeches = clone.path / smoke["texts"]["speeches"]["path"]
    texts = [json.loads(line)["text"] for line in speeches.read_text().splitlines()]
    parts = [text[at : at + 1500] for text in texts for at in range(0, len(text), 1500)]
    speeches.write_text("".join(json.dumps({"text": part}) + "\n" for part in parts))
    smoke["adaptations"]["recon_all"] = {"method": "reconstruction", "window": "all"}
    # Not of the final norm: what is outside the blocks stays one file for all.
    smoke["adaptations"]["full"] = {"method": "full", "train_norms": False}
    grid = {"models": ["tiny"], "criteria": ["wanda"], "patterns": ["u50"]}
    smoke["study"]["grids"].append({**grid, "adaptations": ["recon_all", "full"]})
    (clone.path / "config.yaml").write_text(yaml.safe_dump(smoke, sort_keys=False))
    clone.add_environment()
    clone.run("git", "init", "--quiet")
    clone.dvc("remote", "add", "--default", "--force", "folder", remote)
    clone.commit("Start")
    clone.dvc("repro")
    clone.commit("Run")
    clone.dvc("push")
    return clone


@pytest.fixture
def pulled(origin, tmp_path) -> Clone:
    """A fresh clone with everything pulled."""
    clone = origin.clone(tmp_path / "clone")
    clone.dvc("pull")
    return clone


def test_second_run_has_nothing_to_do(origin):
    assert origin.status() == {}
    assert "didn't change" in origin.dvc("repro")
    assert origin.planned() == []
    assert origin.run("git", "status", "--porcelain") == "", "a run leaves files that git sees"
    # Snakemake writes its metadata in place, which would change a linked file in the cache.
    assert origin.dvc("config", "cache.type").strip() == "reflink,copy"
    metadata = [path for path in (origin.path / ".snakemake/metadata").rglob("*") if path.is_file()]
    assert {path.stat().st_nlink for path in metadata} == {1}
    # DVC keeps the metadata of this study, and of no other.
    for path, kept in {
        "results/laptop/records/some.json": True,
        "resources/texts/speeches/manifest.json": True,
        "results/smoke/records/some.json": False,
    }.items():
        name = base64.urlsafe_b64encode(path.encode()).decode()
        ignored = origin.try_(origin.bin / "dvc", "check-ignore", f".snakemake/metadata/{name}")
        assert (ignored.returncode == 0) is not kept, ignored.stdout


def test_pulled_clone_is_equal_and_has_nothing_to_do(origin, pulled):
    assert pulled.digests() == origin.digests()
    assert pulled.status() == {}
    assert "didn't change" in pulled.dvc("repro")
    assert pulled.planned() == []
    for part in ("hidden", "pruned", "windows"):
        assert not (pulled.path / "results" / "laptop" / part).exists()
    # Neither caches nor comments nor other studies mark the stage.
    cache = pulled.path / "workflow" / "scripts" / "freelunch" / "__pycache__"
    cache.mkdir(exist_ok=True)
    (cache / "anything.cpython-311.pyc").write_bytes(b"anything")
    config = pulled.path / "config.yaml"
    config.write_text("# A comment.\n" + config.read_text())
    other = base64.urlsafe_b64encode(b"results/full/records/some.json").decode()
    (pulled.path / ".snakemake" / "metadata" / other).write_text("{}")
    assert pulled.status() == {}


def test_finished_study_is_taken_over_without_a_job(origin, tmp_path):
    """DVC runs its stage once, and Snakemake has nothing to do in it."""
    clone = origin.clone(tmp_path / "clone")
    # Without a remote, nothing is pulled, and all can run.
    clone.dvc("remote", "remove", "folder")
    pull = clone.try_(clone.bin / "dvc", "pull")
    assert pull.returncode != 0 and "No remote provided" in pull.stdout, pull.stdout
    assert "Running stage 'study'" in clone.dvc("repro", "--dry")
    assert "evaluate_cell" in clone.planned()
    for part in ("resources", "results", ".snakemake"):
        shutil.copytree(origin.path / part, clone.path / part, symlinks=True, dirs_exist_ok=True)
    (clone.path / "dvc.lock").unlink()
    assert clone.planned() == []
    said = clone.dvc("repro")
    assert "Nothing to be done" in said and "rule build_tables" not in said, said
    assert "didn't change" in clone.dvc("repro")


def test_equal_shards_are_stored_and_pushed_once(origin, remote):
    files = origin.digests()
    shards = {name: md5 for name, md5 in files.items() if name.endswith(".safetensors")}
    assert len(set(shards.values())) < len(shards), "no shard is shared: this test shows nothing"
    assert len({md5 for name, md5 in shards.items() if name.endswith("outer.safetensors")}) == 1
    for store in (origin.path / ".dvc" / "cache", remote):
        stored = {
            path.parent.name + path.name: path.stat().st_size
            for path in (store / "files" / "md5").glob("*/*")
            if path.suffix != ".dir"
        }
        assert stored == {md5: (origin.path / name).stat().st_size for name, md5 in files.items()}


def test_edit_after_pull_computes_again(origin, pulled):
    before = {name: pulled.record(name) for name in (RECONSTRUCTED, PRUNED)}
    pulled.edit_config("recon_block:\n", "recon_block:\n    learning_rate: 0.002\n")
    assert list(pulled.status()) == ["study"]
    # Hidden states are not pulled; the reconstruction makes what it needs of them.
    planned = set(pulled.planned())
    assert {"reconstruct_window", "collect_records"} <= planned and "capture_dense" not in planned
    pulled.dvc("repro")
    after = {name: pulled.record(name) for name in (RECONSTRUCTED, PRUNED)}
    assert after[RECONSTRUCTED]["spec"]["adaptation"]["learning_rate"] == 0.002
    assert perplexity(after[RECONSTRUCTED]) != perplexity(before[RECONSTRUCTED])
    # What does not depend on the edit is what it was, to the last bit, also where it ran again.
    assert after[PRUNED]["spec"] == before[PRUNED]["spec"]
    assert perplexity(after[PRUNED]) == perplexity(before[PRUNED])
    assert pulled.status() == {}
    assert pulled.planned() == []
    changes = json.loads(pulled.dvc("metrics", "diff", "--json"))
    changed = changes[f"results/laptop/{METRICS}"]
    assert list(changed) == ["recon_block"]
    assert changed["recon_block"]["old"] == perplexity(before[RECONSTRUCTED])
    assert changed["recon_block"]["new"] == perplexity(after[RECONSTRUCTED])


@pytest.mark.parametrize(
    ("old", "new", "keys"),
    [
        ("windows: 16", "windows: 12", ("evaluation", "perplexity", "windows")),
        ("samples: 8", "samples: 4", ("calibration", "samples")),
    ],
)
def test_edit_without_snakemakes_metadata_is_refused_or_computed_again(pulled, old, new, keys):
    shutil.rmtree(pulled.path / ".snakemake" / "metadata")
    # Pulled files are of about the same moment, in any order; here they are of exactly one moment.
    for part in ("resources", "results", "tests", "workflow", "Snakefile", "CITATION.cff"):
        for path in [pulled.path / part, *(pulled.path / part).rglob("*")]:
            os.utime(path, (1e9, 1e9))
    pulled.edit_config(old, new)
    assert pulled.planned() == [], "Snakemake sees the edit by itself: this test shows nothing"
    done = pulled.try_(pulled.bin / "dvc", "repro")
    if done.returncode:
        assert "was computed with other settings than the config asks for" in done.stdout
        # Nothing was committed: what the lock and the table say belongs together.
        assert pulled.run("git", "status", "--porcelain", "dvc.lock") == ""
        assert not (pulled.path / "results/laptop" / METRICS).exists()
    else:
        spec = reduce(dict.__getitem__, keys, pulled.record(RECONSTRUCTED)["spec"])
        assert spec == int(new.split()[1])


def test_metrics_and_plots_show_the_study(pulled):
    shown = json.loads(pulled.dvc("metrics", "show", "--json"))
    metrics = shown[""]["data"][f"results/laptop/{METRICS}"]["data"]
    assert list(metrics) == ["dense", "none", "recon_block", "full"]
    assert metrics["recon_block"] == perplexity(pulled.record(RECONSTRUCTED))
    assert max(map(len, pulled.dvc("metrics", "show").splitlines())) <= 80
    assert pulled.dvc("metrics", "diff", "--json").strip() in ("", "{}")
    page = Path(pulled.dvc("plots", "show").strip().removeprefix("file://"))
    assert "http" not in page.read_text(), "the page needs a network"
    images = [path for path in (page.parent / "static").iterdir() if path.suffix == ".png"]
    figures = (pulled.path / "results" / "laptop" / "figures").glob("*.png")
    drawn = sorted(figure.read_bytes() for figure in figures)
    assert len(drawn) == 4 and sorted(image.read_bytes() for image in images) == drawn


def perplexity(record: dict) -> float:
    return record["metrics"]["perplexity"]["perplexity"]
