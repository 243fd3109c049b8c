"""What every script of the workflow does around its one library call.

A job writes a log, shows its progress on the terminal, turns an error into one message, and leaves
`run.json`: what it cost and on what machine. The terminal shows an error's message only; its
traceback goes to the log.
"""

import ctypes
import logging
import os
import platform
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from freelunch.core.artifact import Artifact, manifest_digest
from freelunch.core.devices import CUDA, claim_device
from freelunch.core.digest import sealed
from freelunch.core.errors import UserError, disk_error
from freelunch.core.files import write_json
from freelunch.core.job_cost import Spent, begin_work
from freelunch.core.lock import remove_lock, wait_for_lock, waited_s

PACKAGES = (
    *("torch", "transformers", "safetensors", "tokenizers", "numpy", "gguf", "snakemake"),
    *("lm-eval", "datasets"),
)
# How the last message of a job begins that was interrupted.
_TOLD_TO_STOP = "interrupted"
# Seconds between two progress lines of a job.
QUIET_S = 5.0
# Bytes of freed memory that a job keeps for its next batch, and the size from which an array is
# given back at once (no larger one is possible). By itself, glibc may give back what one block has
# freed and take it again for the next: 12 % of the processor time that blocks of SmolLM2-135M took
# for the windows of a perplexity (10.4 s and 9.1 s, one thread).
KEPT_BYTES, MAPPED_BYTES = 2**28, 2**25
# Their names in malloc.h.
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3

log = logging.getLogger("freelunch")


@dataclass(frozen=True)
class JobSettings:
    """What the workflow tells a job about itself.

    Attributes:
        log: Its log file, in a folder with the name of the rule.
        name: What its progress lines begin with.
        threads: How many threads it may use.
        device: "cuda" if the profile gives the rule a GPU, else "cpu".
        run: The file for its run facts, if it leaves any.
        requested: Memory (bytes) and time (seconds) that it asked for, as run facts name them.
    """

    log: Path
    name: str
    threads: int
    device: str
    run: Path | None
    requested: dict[str, int]


class Job:
    """A running job.

    Attributes:
        device: As in `JobSettings`.
        counts: What the script counted: `tokens` that passed, and whatever else `freelunch.costs`
            counts operations from.
        shared: By step, run facts of earlier jobs whose own folders need not be kept.
    """

    def __init__(self, settings: JobSettings) -> None:
        self._settings, self.device = settings, settings.device
        self.counts: dict[str, Any] = {}
        self.shared: dict[str, Any] = {}
        self._earlier, self._lent = Spent(), Spent()
        self._first: tuple[int, float] | None = None

    def begin(self) -> None:
        """Configure the libraries that are imported by now, and count time and memory from here.
        UserError if the job is to compute on a GPU that torch does not see.
        """
        self._said = self._started = time.perf_counter()
        self._cpu_started, self._waited_s = time.process_time(), waited_s()
        _configure_libraries(self._settings)
        begin_work()

    def report(self, done: int, total: int, note: str) -> None:
        """Show how far the job is and how long it will still take, at most every few seconds."""
        now = time.perf_counter()
        # The first unit comes after work that is done once, so the rate is that of the later units.
        if self._first is None:
            self._first = (done, now)
        if now - self._said < QUIET_S and done < total:
            return
        self._said = now
        begun, since = self._first
        left = "done"
        if done < total:
            rate = (now - since) / (done - begun) if done > begun else now - self._started
            left = f"{rate * (total - done):.0f} s left"
        self.say(f"{done}/{total} {note}, {now - self._started:.0f} s gone, {left}")

    def made(self, artifact: Artifact) -> None:
        """Add what earlier attempts at an artifact spent on the files that were kept."""
        self._earlier += artifact.spent

    def lend(self, spent: Spent) -> None:
        """Do not count what this job spent on folders that it left: whoever finishes them does."""
        self._lent += spent

    def say(self, text: str) -> None:
        """Write a line to the terminal and to the log."""
        log.info(text)
        print(f"[{self._settings.name}] {text}", file=sys.stderr, flush=True)  # noqa: T201

    def run_facts(self) -> dict[str, Any]:
        """Return what the job has cost so far, where it runs, and the time."""
        # Counted from the end of the imports, which take a process a few seconds. While this job
        # waited, another one worked for it.
        total = self._earlier + Spent.now(
            time.perf_counter() - self._started - waited_s() + self._waited_s - self._lent.wall_s,
            time.process_time() - self._cpu_started - self._lent.cpu_s,
        )
        peaks = {"peak_bytes": total.host_bytes}
        if self.device == CUDA:
            # Torch counts only what it allocates, so all of it is the work's.
            peaks = dict.fromkeys(("peak_bytes", "peak_work_bytes"), total.device_bytes)
            peaks["peak_host_bytes"] = total.host_bytes
        elif total.work_bytes is not None:
            peaks["peak_work_bytes"] = total.work_bytes
        return {
            # Not the rule's own name, which differs where another workflow imports the rule.
            "rule": self._settings.log.parent.name,
            "cost": {
                "wall_s": round(total.wall_s, 3),
                "cpu_s": round(total.cpu_s, 3),
                "attempts": 1 + total.attempts,
                **peaks,
                **self._settings.requested,
            },
            "counts": self.counts,
            "environment": environment(self.device, self._settings.threads),
            "finished": datetime.now(UTC).isoformat(timespec="seconds"),
            "shared": self.shared,
        }


def lock_of_job(log: Path) -> Path:
    """Return the file that a job locks until its end, by its log."""
    return log.with_name(f".{log.name}.lock")


@contextmanager
def running(settings: JobSettings) -> Iterator[Job]:
    """Run a script's one library call as a job of the workflow; end the process if it fails.

    A job that outlived its killed Snakemake may still be at work on the same files: this waits for
    its end.
    """
    terminal = logging.StreamHandler()
    terminal.setLevel(logging.WARNING)
    logging.getLogger("freelunch.core.lock").addHandler(terminal)
    job = Job(settings)
    # A cluster stops a job by SIGTERM; temporary files are then removed as after an interrupt.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    lock = None
    try:
        # A log that cannot be written stops no job; filelock would wait for its folder for ever.
        with suppress(OSError):
            settings.log.parent.mkdir(parents=True, exist_ok=True)
            lock_of_job(settings.log).touch()
            lock = wait_for_lock(lock_of_job(settings.log))
        _log_to(settings.log)
        job.begin()
        yield job
        if path := settings.run:
            write_json(path, sealed({**job.run_facts(), "manifest": manifest_digest(path.parent)}))
    except KeyboardInterrupt:
        log.exception("interrupted")
        _stop(settings, f"{_TOLD_TO_STOP}; finished files are kept: run the same command to resume")
    except Exception as error:  # The process ends here: the traceback belongs in the log.
        log.exception("stopped")
        known = error if isinstance(error, UserError) else disk_error(error)
        said = known or f"{type(error).__name__}: {error} (traceback in {settings.log})"
        _stop(settings, f"error: {said}")
    finally:
        if lock is not None:
            remove_lock(lock)
    logging.shutdown()


def was_told_to_stop(path: Path) -> bool:
    """Return whether the last job that wrote this log was interrupted, as by SIGTERM."""
    said = path.read_text(encoding="utf-8", errors="replace") if path.is_file() else ""
    return f" ERROR freelunch: {_TOLD_TO_STOP}; " in said


def _log_to(path: Path) -> None:
    # A full disk stops the job by itself; logging would print a traceback for each line.
    logging.raiseExceptions = False
    handler: logging.Handler = logging.NullHandler()
    try:
        handler = logging.FileHandler(path, mode="w", encoding="utf-8")
    except OSError as error:
        print(f"the log {path} cannot be written: {error}", file=sys.stderr)  # noqa: T201
    logging.basicConfig(
        handlers=[handler],
        level=logging.INFO,
        format="%(asctime)s %(levelname)s %(name)s: %(message)s",
        force=True,
    )


def _stop(settings: JobSettings, message: str) -> None:
    # The message is the last thing in the log, where the logger at the terminal looks for it.
    log.error(message)
    logging.shutdown()
    sys.stdout.flush()
    print(f"[{settings.name}] {message}", file=sys.stderr, flush=True)  # noqa: T201
    raise SystemExit(1)


def _configure_libraries(settings: JobSettings) -> None:
    if "torch" not in sys.modules:
        return
    import torch

    keep_freed_memory()
    torch.set_num_threads(settings.threads)
    if settings.device == CUDA:
        claim_device()
        if not torch.cuda.is_available():
            raise UserError(
                "this job computes on a GPU, but torch sees none",
                where=settings.name,
                found=f"torch {torch.__version__}",
                todo="say `device=cpu` in the profile's default-resources, or install a CUDA build "
                "of torch",
            )
    if "transformers" in sys.modules:
        import transformers

        transformers.logging.set_verbosity_error()  # type: ignore[no-untyped-call]
        transformers.logging.disable_progress_bar()  # type: ignore[no-untyped-call]


def keep_freed_memory() -> None:
    """Have glibc keep a bounded amount of freed memory; another C library is left as it is."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_M_TRIM_THRESHOLD, KEPT_BYTES)
        mallopt(_M_MMAP_THRESHOLD, MAPPED_BYTES)


def environment(device: str, threads: int) -> dict[str, Any]:
    """Return the code and machine that a number was computed with."""
    changes = _git("status", "--porcelain", "--untracked-files=no")
    facts: dict[str, Any] = {
        "commit": _git("rev-parse", "HEAD"),
        "uncommitted_changes": None if changes is None else bool(changes),
        "python": platform.python_version(),
        "packages": {name: _version(name) for name in PACKAGES},
        "platform": platform.platform(),
        "processor": processor_name(),
        "cores": os.cpu_count(),
        "threads": threads,
        "device": device,
    }
    if device == CUDA:
        # A job may get here without having computed.
        claim_device()
        import torch

        facts["device_name"] = torch.cuda.get_device_name()
    return facts


def _git(*arguments: str) -> str | None:
    """Return git's output for the repository of this file; None outside a repository."""
    command = ["git", "-C", str(Path(__file__).parent), *arguments]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def processor_name() -> str:
    """Return the model of this machine's processor."""
    path = Path("/proc/cpuinfo")
    lines = path.read_text().splitlines() if path.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()
