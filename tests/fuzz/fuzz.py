"""Do to a study what happens to studies, at random, until the time is over; nothing may be silent.

    make fuzz SECONDS=60 SEED=0

Each trial does one of these things to a copy of a finished study and counts what came of it:

    damage    flip, cut, empty or delete any file: the check must name it
    swap      put two files or folders of one kind in each other's place: the check must name one
    repair    damage or swap files and run the command that the message names: all must be as before
    kill      remove some results, run, kill everything at a random moment, run again: as before
    resume    the same, and damage what was half done

The last line of each trial says what was done, so that `SEED` and the number repeat it. The exit
status is 1 if anything was silent, raised a traceback or was not mended.
"""

import argparse
import os
import random
import re
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import yaml

from damage import DAMAGES, RESULTS, metrics, study_digests
from freelunch.cli.verify import check_intact
from freelunch.core.errors import UserError
from freelunch.study.open_study import open_study
from study_folder import Folder

# What no number, table or message is made from: locks, logs, caches, notes of who owns the folder.
HARMLESS = re.compile(
    r"(^|/)(\.[^/]*|(journal|finished)\.jsonl|kept\.json|study\.txt)$|/logs/|^results/smoke/tasks/"
)
FATES = ("tried", "detected", "harmless", "mended", "silent", "failed")


class Fuzzer:
    """Trials on copies of one finished study.

    Attributes:
        counts: How often each thing was tried, and what came of it.
    """

    def __init__(self, seed: int, scratch: Path) -> None:
        self.random, self.scratch = random.Random(seed), scratch
        self.counts: dict[str, Counter[str]] = {}
        self.failures: list[str] = []
        self.base = Folder.new(scratch / "base").warm()
        config = yaml.safe_load((self.base.path / "config.yaml").read_text())
        # Few cells, and one whose windows depend on each other.
        config["adaptations"]["recon_block"] |= {"inputs": "sparse", "epochs": 3}
        config["study"]["grids"][0]["criteria"] = ["wanda"]
        self.config = config
        (self.base.path / "config.yaml").write_text(yaml.safe_dump(config))
        self.base.run()
        self.digests, self.metrics = study_digests(self.base.path), metrics(self.base.path)

    def trial(self, what: str) -> str:
        """Do one thing and return what came of it, in words."""
        counts = self.counts.setdefault(what, Counter())
        counts["tried"] += 1
        fate, said = getattr(self, f"_{what}")()
        counts[fate] += 1
        if fate in ("silent", "failed"):
            self.failures.append(f"{what}: {said}")
        return f"{what:<8} {fate}: {said}"

    # --- Damage

    def _damage(self) -> tuple[str, str]:
        root = self._copy()
        return self._check(root, self._damage_(root, 1))

    def _swap(self) -> tuple[str, str]:
        root = self._copy()
        return self._check(root, self._swap_(root))

    def _check(self, root: Path, said: str) -> tuple[str, str]:
        """Return whether the check at the end of a run finds what was done."""
        os.chdir(root)
        try:
            check_intact(open_study(Path("config.yaml")))
        except UserError as error:
            return ("detected" if "make repair" in str(error) else "failed"), said
        except Exception as error:  # Whatever it is, it is a failure.
            return "failed", f"{said}: {type(error).__name__}: {error}"
        finally:
            os.chdir(self.scratch)
            shutil.rmtree(root)
        harmless = HARMLESS.search(said.split(" ")[1])
        return ("harmless" if harmless else "silent"), said

    def _damage_(self, root: Path, count: int) -> str:
        """Damage files in place; return what was done."""
        files = [path for part in ("resources", RESULTS) for path in (root / part).rglob("*")]
        files = sorted(path for path in files if path.is_file() and path.stat().st_size)
        return ", ".join(self._damage_one(root, path) for path in self.random.sample(files, count))

    def _damage_one(self, root: Path, path: Path) -> str:
        way = self.random.choice(list(DAMAGES))
        DAMAGES[way](path)
        return f"{way.partition(' ')[0]} {path.relative_to(root)}"

    def _swap_(self, root: Path) -> str:
        """Put two unlike files of one name, or their folders, in each other's place."""
        while True:
            files = [path for path in (root / RESULTS).rglob("*") if path.is_file()]
            one = self.random.choice(sorted(files))
            part = root / RESULTS / one.relative_to(root / RESULTS).parts[0]
            others = [
                path
                for path in sorted(part.rglob(one.name))
                if len(path.parts) == len(one.parts) and path.read_bytes() != one.read_bytes()
            ]
            if not others:
                continue
            other = self.random.choice(others)
            if self.random.random() < 0.5:
                one, other = one.parent, other.parent
            aside = root / "aside"
            one.rename(aside)
            other.rename(one)
            aside.rename(other)
            return f"swap {one.relative_to(root)} and {other.relative_to(root)}"

    def _repair(self) -> tuple[str, str]:
        root, is_damage = self._copy(), self.random.random() < 0.5
        said = self._damage_(root, self.random.randint(1, 3)) if is_damage else self._swap_(root)
        return self._end(root, said, ["make", "repair", "STUDY=config.yaml"])

    # --- Kills

    def _kill(self) -> tuple[str, str]:
        root = self._copy()
        return self._end(root, self._run_and_kill(root))

    def _resume(self) -> tuple[str, str]:
        root = self._copy()
        said = self._run_and_kill(root)
        half = sorted(
            path
            for journal in (root / RESULTS).rglob("journal.jsonl")
            if not (journal.parent / "manifest.json").exists()
            for path in journal.parent.iterdir()
            if path.is_file() and path.stat().st_size
        )
        return self._end(
            root, ", ".join([said, *(self._damage_one(root, path) for path in half[:2])])
        )

    def _remove_(self, root: Path) -> str:
        """Remove some results, as if they were not made yet; the last phases more often."""
        cell = "tiny/wanda-u50/recon_block/seed0"
        late = [f"records/{cell.replace('/', '__')}.json", "tables/summary.csv"]
        late += ["figures/criteria.png", "audit/audit.json", "audit.sha256"]
        parts = [late[-1], *self.random.sample(late, self.random.randint(1, 3))]
        if self.random.random() < 0.6:
            parts += [late[0], f"metrics/{cell}/manifest.json"]
            parts += [f"windows/{cell}/1-of-1/{name}" for name in ("manifest.json", "run.json")]
        for part in dict.fromkeys(parts):
            (root / RESULTS / part).unlink()
        return f"without {len(set(parts))} files from {min(parts)}"

    def _run_and_kill(self, root: Path) -> str:
        removed = self._remove_(root)
        process = Folder(root).start()
        seconds = self.random.uniform(1.0, 14.0)
        try:
            process.communicate(timeout=seconds)
        except subprocess.TimeoutExpired:
            kill = self.random.choice([signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
            os.killpg(process.pid, kill)
            process.communicate()
            # A job that got a signal may still clean up.
            return f"{removed}, {kill.name} after {seconds:.1f} s"
        return f"{removed}, not killed"

    # --- The end

    def _end(self, root: Path, said: str, command: list[str] | None = None) -> tuple[str, str]:
        """Mend or resume, run once more, and compare with the undamaged study."""
        try:
            if command is not None:
                status, output = self._run(root, [*command, "--old-file=.venv/.ready", "CORES=2"])
                if status:
                    return "failed", f"{said}: {output[-600:]}"
            status, output = self._run(root, ["snakemake", "--cores", "2"])
            if status and (named := re.search(r"`(make repair [^`]*)`", output)):
                repair = [*shlex.split(named[1]), "--old-file=.venv/.ready", "CORES=2"]
                status, output = self._run(root, repair)
            if status or "Traceback" in output:
                return "failed", f"{said}: {output[-600:]}"
            os.chdir(root)
            try:
                check_intact(open_study(Path("config.yaml")))
            except UserError as error:
                return "failed", f"{said}: {error}"
            # Hidden states are a cache.
            after = study_digests(root)
            wrong = [name for name, sha in self.digests.items() if after.get(name) != sha]
            if wrong or metrics(root) != self.metrics:
                return "silent", f"{said}: other content in {wrong[:3]}"
            return "mended", said
        finally:
            os.chdir(self.scratch)
            shutil.rmtree(root)

    def _run(self, root: Path, command: list[str]) -> tuple[int, str]:
        environment = Folder(root).environment
        done = subprocess.run(
            command, cwd=root, env=environment, capture_output=True, text=True, check=False
        )
        return done.returncode, done.stdout + done.stderr

    def _copy(self) -> Path:
        root = Path(tempfile.mkdtemp(dir=self.scratch)) / "study"
        # Hard links within a study must stay hard links.
        subprocess.run(["cp", "-a", str(self.base.path), str(root)], check=True)
        return root


# How many trials of each kind come before the next of the slowest.
_TURN = {"damage": 40, "swap": 20, "repair": 1, "kill": 1, "resume": 1}


def table(counts: dict[str, Counter[str]]) -> str:
    """Return the counts as a table in Markdown."""
    lines = ["| trial | " + " | ".join(FATES) + " |", "|---" * (len(FATES) + 1) + "|"]
    for what, of in counts.items():
        lines.append(f"| {what} | " + " | ".join(f"{of[fate]:,}" for fate in FATES) + " |")
    return "\n".join(lines)


def main() -> int:
    """Run trials until the time is over; return the exit status."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", nargs="+", choices=_TURN, default=list(_TURN))
    options = parser.parse_args()
    scratch = Path(tempfile.mkdtemp(prefix="fuzz-"))
    try:
        fuzzer = Fuzzer(options.seed, scratch)
        end = time.monotonic() + options.seconds
        while time.monotonic() < end:
            for what in options.only:
                for _ in range(_TURN[what]):
                    said = fuzzer.trial(what)
                    if _TURN[what] == 1:
                        print(said, flush=True)
                    if time.monotonic() > end:
                        break
        print(f"\nseed {options.seed}, {options.seconds:.0f} s\n\n{table(fuzzer.counts)}")
        for failure in fuzzer.failures:
            print(f"FAILED {failure}")
        return 1 if fuzzer.failures else 0
    finally:
        os.chdir("/")
        shutil.rmtree(scratch, ignore_errors=True)


if __name__ == "__main__":
    sys.exit(main())
