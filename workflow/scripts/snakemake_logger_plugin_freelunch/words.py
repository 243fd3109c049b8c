"""The words of a run's story: Snakemake's messages, names of jobs, reasons, times."""

import re
import sys
import textwrap
import time
from collections.abc import Mapping

# Snakemake's messages at the end of a run in which jobs failed. The story says which, and why.
POINTERS = (
    "Exiting because a job execution failed. Look above for error messages",
    "At least one job did not complete successfully.",
)
# Snakemake's message that a script failed, which comes before the event that names the job.
SCRIPT_ENDED = re.compile(r"CalledProcessError in file .*\.(\w+)\.py' (.+?)\.?\s*$", re.S)
# How a process ends that is interrupted or terminated; a shell reports it of its own processes.
BY_SIGNAL = re.compile(r"<Signals\.SIG(?:INT|TERM): \d+>|exit status (?:130|143)\b")
# Snakemake's messages when Ctrl-C ends a run, and when SIGTERM does by its own handler.
INTERRUPTED = ("Terminating processes on user request", "Will exit after finishing")
# Snakemake's message if another run makes some of the same files, and ours. No option is needed
# against the locks of a killed run, which are removed at the start.
LOCKED = "Directory cannot be locked."
ALREADY_RUNS = (
    "Another run in this folder makes some of the same files.\n"
    "  to do:    wait for its end or stop it, and run the same command again"
)
# Snakemake's message during a run that people need to see.
TOLD = "Nothing to be done"
# Messages of every run or report, which nobody needs.
USUAL = (
    *("Building DAG of jobs", "Assuming unrestricted shared filesystem"),
    *("Creating report", "Adding ", "Loading script code", "Loading wrapper code"),
    # The executor for Slurm: how it asks for jobs, and that no account was chosen.
    *("MinJobAge ", "No SLURM account given", "No account was given", "Unable to guess SLURM"),
)
FOLLOWS, FIRST = "Input files updated by another job", "Missing output files"
# Snakemake's reasons. Behind some of them, it lists files or settings, which may contain anything.
_REASONS = re.compile(
    r"(?:^|; )(Forced execution|Missing output files|Incomplete output files|Updated input files"
    r"|Input files updated by another job|(?:Set of input files has|Code has|Params have"
    r"|Software environment definition has) changed since last execution)"
)
# Snakemake's reason for jobs that its options force, and for those that an earlier run left
# unfinished.
_FORCED = "Forced execution"
_FORCING = {"-f", "--force", "-F", "--forceall", "-R", "--forcerun"}
_UNFINISHED = "left unfinished by an earlier run"
_SIGNAL = re.compile(r"died with <Signals\.(\w+): \d+>")
# The time of a line, and what happened, as `line_of` writes them.
_JOB_LINE = re.compile(r"\d\d-\d\d \d\d:\d\d:\d\d  \w+ +")
_KILLED = " (the system does so when memory is short)"


def duration(seconds: float) -> str:
    """Return a time with the unit that suits it."""
    for size, unit in ((86400, "d"), (3600, "h"), (60, "min")):
        if seconds >= 1.5 * size:
            return f"{seconds / size:.{int(size > 60)}f} {unit}"
    return f"{seconds:.0f} s"


def fitted(line: str, width: int) -> str:
    """Return a job's line, broken between words where it exceeds a width: what follows goes below
    the job's name. Other lines stay as they are.
    """
    head = _JOB_LINE.match(line)
    if head is None or len(line) <= width:
        return line
    # A name that is longer than the room below it needs the whole line.
    indent = " " * (head.end() if width > 2 * head.end() else 2)
    return textwrap.fill(
        line,
        width,
        subsequent_indent=indent,
        break_long_words=False,
        break_on_hyphens=False,
    )


def line_of(what: str, text: str) -> str:
    """Return a line with the time, what happened, and to which job."""
    return f"{time.strftime('%m-%d %H:%M:%S')}  {what:<8}  {text}"


def name_of(rule: str, wildcards: Mapping[str, str]) -> str:
    """Return a job's rule and what it is about, such as `prune_model tiny/wanda-u50/seed0`."""
    given = {key: value for key, value in wildcards.items() if value != "1-of-1"}
    if "pattern" in given:
        given["criterion"] += f"-{given.pop('pattern')}"
    parts = [f"seed{value}" if key == "seed" else str(value) for key, value in given.items()]
    return f"{rule} {'/'.join(parts)}".strip()


def signals_in(text: str) -> str:
    """Return how a process ended, with Python's names of signals in words."""
    return _SIGNAL.sub(_signal, text)


def _signal(found: re.Match[str]) -> str:
    return f"was ended by {found[1]}{_KILLED if found[1] == 'SIGKILL' else ''}"


def reasons_in(text: str) -> str:
    """Return Snakemake's reasons without the files and settings that they list.

    That another job makes the inputs is left out if there is another reason.
    """
    reasons = _REASONS.findall(text) or [text]
    told = [reason for reason in reasons if reason != FOLLOWS] or reasons
    given = {word.partition("=")[0] for word in sys.argv}
    unfinished = f"Forced, or {_UNFINISHED}" if given & _FORCING else _UNFINISHED.capitalize()
    return "; ".join(unfinished if reason == _FORCED else reason for reason in told)
