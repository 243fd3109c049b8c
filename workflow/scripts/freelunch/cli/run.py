"""Running Snakemake on a study, and what guards a run."""

import os
import shlex
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Collection, Sequence
from itertools import takewhile
from pathlib import Path
from typing import Any

from freelunch.core.errors import UserError
from freelunch.core.files import remove_path
from snakemake_logger_plugin_freelunch.story import COMMAND, INTERRUPTED, resume, version_of

# Seconds between two looks at jobs of an earlier run, or at the records of a first finding.
POLL_S = 2.0
# Seconds of planned work that are worth a first finding, and between two looks at all findings.
WORTH_S = LOOK_S = 600.0


def check_options(options: Sequence[str]) -> None:
    """Refuse options for Snakemake, those after `--`, that would replace the choice of the study:
    it keeps only the last `--config`, and without ours it would run the default study.
    """
    # After another `--`, there are only targets.
    for option in takewhile(lambda word: word != "--", options):
        # No other options begin like these: `--config`, `--configfile` and `--configfiles`.
        if option.startswith(("--conf", "-C")):
            raise UserError(
                "Snakemake's config is set already: it chooses the study",
                where="freelunch run",
                found=option,
                expected="options of `freelunch run` before `--`: --models, --claims, --seeds, "
                "--tflops or --device-memory",
                todo="name the study as the first argument, and its settings in its file",
            )


def run_snakemake(command: Sequence[str], summary: bool) -> int:
    """Run Snakemake and wait for its end; return its exit status. The workflow shows a summary only
    if it is told to. UserError: Snakemake cannot start, or something killed it.
    """
    # `make` says what the user typed; without it, this is the command.
    environment = {COMMAND: shlex.join(["freelunch", *sys.argv[1:]]), **os.environ}
    environment |= {} if summary else {"MAKELEVEL": "1"}
    # While Snakemake is imported, an interrupt would be a traceback: it waits for the Snakefile.
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        with subprocess.Popen(command, env=environment) as process:
            # The terminal also interrupts Snakemake, which ends its jobs in order.
            interrupted = signal.signal(signal.SIGINT, signal.SIG_IGN)
            ended = signal.signal(signal.SIGTERM, lambda number, frame: process.terminate())
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)
            try:
                status = process.wait()
            finally:
                signal.signal(signal.SIGINT, interrupted)
                signal.signal(signal.SIGTERM, ended)
    except FileNotFoundError as error:
        raise UserError(
            "Snakemake is not installed",
            found=command[0],
            todo="make the environment (`make env`) and activate it: source .venv/bin/activate",
        ) from error
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
    if status == -signal.SIGKILL:
        problem = "something killed Snakemake, perhaps the system since memory was short"
        todo = f"free memory, and go on with: {environment[COMMAND]}"
        raise UserError(problem, found="SIGKILL", todo=todo)
    # As shells count an end by a signal.
    return status if status >= 0 else 128 - status


# --- In the Snakefile


def check_start(arguments: Sequence[str], cores: int | None, alone: bool) -> None:
    """Refuse a run without a core, which could start no job; and `--unlock` on the command line
    while another run is alive here, whose locks it would take away.
    """
    if "--unlock" in arguments and not alone:
        raise UserError(
            "another run is alive in this folder, so its locks are not stale",
            where="--unlock",
            todo="wait for its end or stop it; the locks of a killed run are removed without this",
        )
    if cores is not None and cores < 1:
        raise UserError(
            "no job can start without a core of this machine",
            where="--cores",
            found=cores,
            expected="a positive number or all",
        )


def remove_broken_notes(folder: Path) -> list[Path]:
    """Remove the notes in `.snakemake/metadata` that would stop Snakemake with a traceback at each
    run, and return them. An output without a note counts as made by today's rule.
    """
    from snakemake.persistence import MetadataRecord  # type: ignore[import-untyped]

    broken = []
    for path in sorted(folder.glob("**/*")):
        # The name of a long path is divided among folders.
        if (path.is_dir() and path.name.startswith("@")) or not os.path.lexists(path):
            continue
        try:
            MetadataRecord.model_validate_json(path.read_bytes())
        except (OSError, ValueError):
            remove_path(path)
            broken.append(path)
    return broken


def wait_for_earlier_jobs(
    find: Callable[[], Collection[str]],
    end: str,
    tell: Callable[[str], object],
    pause: Callable[[float], object] = time.sleep,
) -> None:
    """Wait for the jobs that outlived an earlier run, since they write what this run's jobs would.

    Args:
        find: Returns what is left of them, by numbers.
        end: The command that ends them by their numbers.
        tell: Shows a warning.
    """
    # Snakemake's handler would wait for the end of the start.
    handler = signal.signal(signal.SIGTERM, signal.default_int_handler)
    told: set[str] = set()
    try:
        while found := find():
            if not told.issuperset(found):
                tell(
                    "Waiting for jobs of an earlier run, which lived on when it was killed; what "
                    f"they make is kept.\n  to end them instead: {end} {' '.join(sorted(found))}"
                )
                told.update(found)
            pause(POLL_S)
    except KeyboardInterrupt:
        tell("Interrupted before anything was started.")
        raise SystemExit(1) from None
    signal.signal(signal.SIGTERM, handler)


class EarlyFindings(threading.Thread):
    """A thread that tells what a run found each time that some records are there, while it goes on,
    and then keeps the page of what has finished up to date.

    Args:
        records: The records that the run makes for each of its first findings.
        command: The command that writes the page and says what was found.
        tell: Shows a text.
        look_s: Seconds between two looks at all that has finished.
    """

    def __init__(
        self,
        records: Sequence[Sequence[Path]],
        command: Sequence[str],
        tell: Callable[[str], object],
        look_s: float = LOOK_S,
    ) -> None:
        super().__init__(daemon=True)
        self._missing = [{path: version_of(path) for path in paths} for paths in records if paths]
        self._command, self._tell, self._look_s = command, tell, look_s
        self._over = threading.Event()

    def run(self) -> None:
        for missing in self._missing:
            while any(version_of(path) in (None, old) for path, old in missing.items()):
                if self._over.wait(min(POLL_S, self._look_s)):
                    return
            self._tell(self._look())
        while not self._over.wait(self._look_s):
            self._look()

    def _look(self) -> str:
        # An interrupt of the terminal would end it, too.
        found = subprocess.run(
            self._command, capture_output=True, text=True, check=False, start_new_session=True
        )
        return (found.stderr if found.returncode else found.stdout).strip()

    def end(self) -> None:
        """Wait until nothing is written any more."""
        self._over.set()
        self.join()


def handle_sigterm_in_thread(then: Callable[[], object]) -> None:
    """Run Snakemake's handler of SIGTERM, which ends a run when its jobs have ended, and then a
    function, in a thread.

    It waits for a lock that the interrupted main thread may hold, and there would wait for ever.
    """
    handler = signal.getsignal(signal.SIGTERM)

    def handle(*arguments: Any) -> None:
        if callable(handler):
            handler(*arguments)
        then()

    def start(*arguments: object) -> None:
        threading.Thread(target=handle, args=arguments, daemon=True).start()

    signal.signal(signal.SIGTERM, start)


def stopped_text(logs: Sequence[str]) -> str:
    """Return what to do after a run that failed or was interrupted, by Snakemake's logs of it."""
    said = "".join(Path(log).read_text(encoding="utf-8") for log in logs)
    why = (
        "The study was interrupted. Nothing is lost.\nThe same command goes on where it stopped:"
        if any(words in said for words in INTERRUPTED)
        else "The study stopped. Finished steps are kept.\n"
        "Fix any error above, then run the same command to resume:"
    )
    return "\n".join([why, f"    {resume()}", *(f"Snakemake's log: {log}" for log in logs)])
