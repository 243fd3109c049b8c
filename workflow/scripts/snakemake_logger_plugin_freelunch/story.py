"""The story of a run: from Snakemake's events to lines, and how far the run is."""

import ast
import logging
import os
import re
import shlex
import sys
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

# The variable that holds the command which started Snakemake, such as `make study`.
COMMAND = "FREELUNCH_COMMAND"
# This workflow's own events: the plan at the start, the first finding, and the summary or the error
# at the end.
_EVENTS = ("plan", "found", "summary", "stopped")
PLAN, FOUND, SUMMARY, STOPPED = (f"freelunch_{name}" for name in _EVENTS)
# Snakemake's messages when Ctrl-C ends a run, and when SIGTERM does by its own handler.
INTERRUPTED = ("Terminating processes on user request", "Will exit after finishing")
_STOPPING = (
    "Stopping: no further job starts, and the run ends when no job runs any more. Run the same "
    "command again to resume."
)
# Snakemake's messages at the end of a run in which jobs failed. The story says which, and why.
_POINTERS = (
    "Exiting because a job execution failed. Look above for error messages",
    "At least one job did not complete successfully.",
)
# Snakemake's message that a script failed, which comes before the event that names the job.
_SCRIPT_ENDED = re.compile(r"CalledProcessError in file .*\.(\w+)\.py' (.+?)\.?\s*$", re.S)
# How a process ends that is interrupted or terminated; a shell reports it of its own processes.
_BY_SIGNAL = re.compile(r"<Signals\.SIG(?:INT|TERM): \d+>|exit status (?:130|143)\b")
# Snakemake's message if another run makes some of the same files, and ours. No option is needed
# against the locks of a killed run, which are removed at the start.
_LOCKED = "Directory cannot be locked."
_ALREADY_RUNS = (
    "Another run in this folder makes some of the same files.\n"
    "  to do:    wait for its end or stop it, and run the same command again"
)
# Snakemake's message during a run that people need to see.
_TOLD = "Nothing to be done"
# Messages before a run or a report which nobody needs.
_USUAL = (
    "Building DAG of jobs",
    "Assuming unrestricted shared filesystem",
    "Creating report",
    "Adding ",
    "Loading script code",
    "Loading wrapper code",
    # The executor for Slurm: how it asks for jobs, and that no account was chosen.
    "MinJobAge ",
    "No SLURM account given",
    "No account was given",
    "Unable to guess SLURM",
)
_FOLLOWS, _FIRST = "Input files updated by another job", "Missing output files"
_FORCED = "Forced execution"
# Snakemake's reasons. Behind some of them, it lists files or settings, which may contain anything.
_REASONS = re.compile(
    rf"(?:^|; )({_FORCED}|{_FIRST}|Incomplete output files|Updated input files|{_FOLLOWS}"
    r"|(?:Set of input files has|Code has|Params have|Software environment definition has) changed "
    r"since last execution)"
)
# Behind the reason that params have changed.
_BEFORE_AND_NOW = re.compile(
    r".*?before: (?:<nothing exclusive>)?(.*) now: (?:<nothing exclusive>)?(.*?)\s*", re.S
)
# The digest of a job's code, which is one of its params, and what it is called.
_DIGEST, _CODE = re.compile(r"[0-9a-f]{16}"), "code"
_MOST_CHANGES, _VALUE_WIDTH = 3, 40
# How many jobs of a rule a dry run names for each reason.
_MOST_ALIKE = 20
# The share of the planned work that must be done before its rate says anything.
_LEAST_SHARE = 0.02
# How much of a log's end is read for its last line.
_TAIL_BYTES = 4096
# A line of a log as `freelunch.core.job` writes it, and the part that says how far the job is.
_LINE = re.compile(r"^[\d-]+ [\d:,]+ (?:INFO|WARNING) freelunch[\w.]*: (.+)$", re.M)
_DONE = re.compile(r"(\d+)/(\d+) ")
# The last lines of a job that stopped: its message, which may have several lines.
_ERROR = re.compile(
    r"^[\d-]+ [\d:,]+ ERROR freelunch: ((?:error: |interrupted; ).*)\Z", re.M | re.S
)


class RunningJob:
    """A job that Snakemake started, or gave to a scheduler, and its log. What an earlier job wrote
    there does not count.

    Args:
        name: Its rule and its cell.
        log: Its log.
        planned_s: Seconds that the plan predicts; 1 if there is no plan.
        waits: Whether it may wait in a scheduler's queue.
    """

    def __init__(self, name: str, log: Path, planned_s: float = 1.0, waits: bool = False) -> None:
        self.name, self.log, self.planned_s, self._waits = name, log, planned_s, waits
        self.began, self._before = time.monotonic(), version_of(log)

    @property
    def has_begun(self) -> bool:
        """Whether the job has written to its log."""
        return version_of(self.log) not in (None, self._before)

    def last_line(self) -> tuple[str, float]:
        """Return what the job said last, and the share of its work that is done; "" if nothing."""
        lines = _LINE.findall(_text(self.log, _TAIL_BYTES)) if self.has_begun else []
        counted = [match for line in lines if (match := _DONE.match(line))]
        share = int(counted[-1][1]) / int(counted[-1][2]) if counted else 0.0
        return lines[-1] if lines else "", min(share, 1.0)

    def now(self) -> str:
        """Return how far the job is, in words."""
        if self._waits and not self.has_begun:
            return "in the queue"
        return self.last_line()[0] or f"{self.age()} gone"

    def error(self) -> str | None:
        """Return the message with which the job stopped; None if it stopped without one."""
        found = _ERROR.search(_text(self.log)) if self.has_begun else None
        return found[1].rstrip().removeprefix("error: ") if found else None

    def age(self) -> str:
        """Return how long ago the job started."""
        return duration(time.monotonic() - self.began)


class Failure(NamedTuple):
    """A job that failed: its message in full, the logs that say more, and whether a signal ended
    it, which is no failure if the run was interrupted.
    """

    name: str
    error: str
    logs: Sequence[str]
    by_signal: bool


class Story:
    """A run, told in lines.

    Attributes:
        running: The jobs that run now, by Snakemake's number.
        failures: The jobs whose last attempt failed, by Snakemake's number.
        said: The file with the output of the jobs' processes; None if nothing is captured.
        has_bar: Whether a bar shows how far the run is, so that lines need not.
        is_over: Whether the end of the run has been told, or is being told.
    """

    def __init__(self, dry_run: bool = False) -> None:
        self.running: dict[int, RunningJob] = {}
        self.failures: dict[int, Failure] = {}
        self.said: Path | None = None
        self.has_bar = self.is_over = False
        self._dry_run = dry_run
        self._started = self._interrupted = self._queues = False
        self._planned_s: Mapping[int, float] = {}
        self._jobs, self._attempts, self._finished = 0, Counter[int](), dict[int, float]()
        self._targets: set[int] = set()
        # The jobs of a dry run, by their rule and reason.
        self._would_run: dict[tuple[str, str], list[str]] = {}
        self._script_ends: dict[str, str] = {}
        self._began: float | None = None

    def tell(self, record: logging.LogRecord) -> Iterator[str]:
        """Yield the lines that an event adds to the story."""
        event, facts = getattr(record, "event", None), vars(record)
        if event == "workflow_started":
            self._started = True
        elif event == "run_info":
            self._jobs = sum(count for rule, count in facts["stats"].items() if rule != "total")
        elif event == PLAN:
            self._planned_s, self._queues = facts["planned_s"], facts["queues"]
            self._jobs = len(self._planned_s)
            yield f"\n{record.getMessage()}\n"
        elif event == FOUND:
            yield f"\n{record.getMessage()}\n"
        elif event == "job_info":
            yield from self._job(facts)
        elif event == "job_finished":
            yield from self._job_finished(facts["job_id"])
        elif event == "job_error":
            # The jobs of a group have been removed by the group's own error, which comes first.
            if job := self.running.pop(facts["jobid"], None):
                yield self._failed(facts["jobid"], job, facts["rule_msg"], facts["log"])
        elif event == "group_error":
            yield from self._group_error(facts)
        elif event in (SUMMARY, STOPPED):
            self.is_over = True
            yield from self.errors()
            yield f"\n{record.getMessage()}\n"
        elif event in (None, "error"):
            yield from self._message(record)

    def _job(self, facts: Mapping[str, Any]) -> Iterator[str]:
        number, logs = facts["jobid"], facts["log"]
        if not logs:
            # This job only names what the others make.
            self._targets.add(number)
            return
        name = _name_of(facts["rule_name"], facts["wildcards"])
        why = _reasons_in(facts["reason"])
        if self._dry_run:
            self._would_run.setdefault((facts["rule_name"], why), []).append(name)
            return
        # An earlier attempt says nothing of this one.
        self.failures.pop(number, None)
        self._attempts[number] += 1
        waits = self._queues and not facts["local"]
        job = RunningJob(name, Path(logs[0]), self._planned_s.get(number, 1.0), waits)
        self.running[number] = job
        self._began = self._began or job.began
        more = "" if why in (_FIRST, _FOLLOWS) else f" ({why})"
        if self._attempts[number] > 1:
            more = f", attempt {self._attempts[number]}"
        yield _line("queued" if waits else "started", f"{name}{more}")

    def _job_finished(self, number: int) -> Iterator[str]:
        if job := self.running.pop(number, None):
            self._finished[number] = job.planned_s
            progress = "" if self.has_bar else f" [{self.progress()}]"
            yield _line("finished", f"{job.name}, {job.age()}{progress}")

    def _group_error(self, facts: Mapping[str, Any]) -> Iterator[str]:
        """Tell which job of a group failed. The jobs of a group run one after another; if none has
        begun, the one with the most work stands for them.
        """
        infos = {info["jobid"]: info for info in facts["job_error_info"]}
        jobs = {number: job for number in infos if (job := self.running.pop(number, None))}
        begun = [number for number, job in jobs.items() if job.has_begun]
        stopped = [number for number in begun if jobs[number].error() is not None]
        largest = sorted(jobs, key=lambda number: -jobs[number].planned_s)[:1]
        for number in stopped or begun[-1:] or largest:
            logs = [*infos[number]["log"], *facts["aux_logs"]]
            yield self._failed(number, jobs[number], None, logs)

    def _failed(self, number: int, job: RunningJob, said: str | None, logs: Sequence[str]) -> str:
        error, by_signal = job.error(), False
        # What libraries make of an interruption may look like an error of their own.
        if self._interrupted or (error is not None and error.startswith("interrupted")):
            return _line("stopped", f"{job.name}, {job.age()}: interrupted")
        # If the job wrote no log, the log that is there is from an earlier run.
        logs = [log for log in logs if Path(log) != job.log or job.has_begun]
        if error is None:
            end = self._script_ends.pop(job.name.partition(" ")[0], "ended")
            by_signal = _BY_SIGNAL.search(end) is not None
            # The system ends the process that takes the most memory when memory is short.
            end = end.replace("<Signals.SIGKILL: 9>", "SIGKILL, perhaps since memory was short")
            error = said or f"its process {end}, and its log has no message"
            logs = [*logs, *([str(self.said)] if self.said else [])]
        self.failures[number] = Failure(job.name, error, logs, by_signal)
        if by_signal:
            # The message that the whole run was interrupted may come after this event.
            return _line("stopped", f"{job.name}, {job.age()}: interrupted")
        return _line("FAILED", f"{job.name}, {job.age()}: {error.splitlines()[0]}")

    def _message(self, record: logging.LogRecord) -> Iterator[str]:
        """Yield Snakemake's own messages: warnings and errors, and before a run all others."""
        text = record.getMessage()
        if text.startswith(INTERRUPTED):
            # Snakemake may say it again and again.
            if not self._interrupted:
                yield _STOPPING
            self._interrupted = True
        elif text in ("", "None") or text.startswith(_USUAL):
            return
        elif record.levelno < logging.ERROR:
            is_warning = record.levelno >= logging.WARNING
            if is_warning or not self._started or text.startswith(_TOLD):
                yield text
        elif script := _SCRIPT_ENDED.search(text):
            self._script_ends[script[1]] = script[2]
        elif _LOCKED in text:
            yield _ALREADY_RUNS
        elif not any(pointer in text for pointer in _POINTERS):
            yield text

    def would_run(self) -> Iterator[str]:
        """Yield how many jobs a dry run found, and some of each rule and reason."""
        if self._would_run:
            jobs = _number_of(sum(map(len, self._would_run.values())))
            yield f"{jobs} would run. Nothing runs now; `VERBOSE=1` shows more.\n"
        for (rule, why), names in self._would_run.items():
            yield from (f"  {name}: {why}" for name in names[:_MOST_ALIKE])
            if len(names) > _MOST_ALIKE:
                yield f"  {rule}, {len(names) - _MOST_ALIKE:,} more: {why}"

    def errors(self) -> Iterator[str]:
        """Yield each error once, in full, with the jobs that it ended, such as those of seeds."""
        alike: dict[str, list[Failure]] = {}
        for failure in self.failures.values():
            if not (self._interrupted and failure.by_signal):
                alike.setdefault(failure.error, []).append(failure)
        self.failures = {}
        if alike:
            yield f"\n{_number_of(sum(map(len, alike.values())))} failed:"
        for said, jobs in alike.items():
            names = "".join(f"\n  {job.name}" for job in jobs)
            error = "\n".join(f"    {line}" for line in said.splitlines())
            paths = dict.fromkeys(log for job in jobs for log in job.logs)
            logs = "".join(f"\n    log:      {log}" for log in paths)
            yield f"{names}\n{error}{logs}"

    def done(self) -> tuple[float, float]:
        """Return the planned seconds of the work that is done, and of the whole run.

        Running jobs count by their share that is done.
        """
        running = sum(job.planned_s * job.last_line()[1] for job in [*self.running.values()])
        whole = sum(self._planned_s.values()) or float(max(self._jobs - len(self._targets), 1))
        return sum(self._finished.values()) + running, whole

    def progress(self) -> str:
        """Return how far the run is, and the time that is left by the rate so far."""
        done, whole = self.done()
        jobs = f"{len(self._finished)} of {_number_of(self._jobs)}, {100 * done / whole:.0f} %"
        over = len(self._finished) >= self._jobs
        if self._began is None or done < _LEAST_SHARE * whole or over:
            return jobs
        left = (whole - done) / done * (time.monotonic() - self._began)
        return f"{jobs}, about {duration(left)} left"


def resume() -> str:
    """Return the command that the user typed: `COMMAND`, or else that of this process."""
    return os.environ.get(COMMAND) or shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]])


def duration(seconds: float) -> str:
    """Return a time with the unit that suits it."""
    for size, unit in ((86400, "d"), (3600, "h"), (60, "min")):
        if seconds >= 1.5 * size:
            return f"{seconds / size:.{int(size > 60)}f} {unit}"
    return f"{seconds:.0f} s"


def _number_of(jobs: int) -> str:
    return "1 job" if jobs == 1 else f"{jobs:,} jobs"


def _line(what: str, text: str) -> str:
    """Return a line with the time, what happened, and to which job."""
    return f"{time.strftime('%m-%d %H:%M:%S')}  {what:<8}  {text}"


def _name_of(rule: str, wildcards: Mapping[str, str]) -> str:
    """Return a job's rule and what it is about, such as `prune_model tiny/wanda-u50/seed0`."""
    parts = {key: value for key, value in wildcards.items() if value != "1-of-1"}
    if "pattern" in parts:
        parts["criterion"] += f"-{parts.pop('pattern')}"
    words = [f"seed{value}" if key == "seed" else str(value) for key, value in parts.items()]
    return f"{rule} {'/'.join(words)}".strip()


def _reasons_in(text: str) -> str:
    """Return Snakemake's reasons without the files that they list, and which settings changed.

    That another job makes the inputs is left out if there is another reason.
    """
    begins = [*_REASONS.finditer(text)]
    ends = [*(match.start() for match in begins[1:]), len(text)]
    told = {match[1]: text[match.end() : end] for match, end in zip(begins, ends, strict=False)}
    if told.keys() != {_FOLLOWS}:
        told.pop(_FOLLOWS, None)
    # Snakemake gives the same reason for what an earlier run left unfinished.
    forced = "Forced, or left unfinished by an earlier run"
    reasons = (forced if reason == _FORCED else reason + _changes(told[reason]) for reason in told)
    return "; ".join(reasons) or text


def _changes(listed: str) -> str:
    """Return what of the params differs, such as `: epochs 1 -> 2, code`; "" if they are not known.
    Snakemake lists the values that were there before and are there now, as Python writes them.
    """
    match = _BEFORE_AND_NOW.fullmatch(listed)
    try:
        lists = [ast.literal_eval(f"[{part}]") for part in match.groups()] if match else []
    except (ValueError, SyntaxError):
        return ""
    if not lists:
        return ""
    before, now = (dict(pair for each in params for pair in _settings(each)) for params in lists)
    changed = [key for key in before | now if before.get(key) != now.get(key)]
    # A param that is no mapping has no name here.
    named = [key for key in changed if key] or changed
    said = [_CODE if key == _CODE else _change(key, before, now) for key in named[:_MOST_CHANGES]]
    more = [f"{len(named) - _MOST_CHANGES} more"] if len(named) > _MOST_CHANGES else []
    return f": {', '.join([*said, *more])}"


def _change(key: str, *settings: Mapping[str, Any]) -> str:
    before, now = (str(each.get(key, "none"))[:_VALUE_WIDTH] for each in settings)
    return f"{key} {before} -> {now}".strip()


def _settings(value: Any, key: str = "") -> Iterator[tuple[str, Any]]:
    """Yield the settings in a param by their dotted keys; those of digests are `_CODE`."""
    if isinstance(value, dict):
        for name, inner in value.items():
            yield from _settings(inner, f"{key}.{name}".removeprefix("."))
    else:
        yield _CODE if _DIGEST.fullmatch(str(value)) else key, value


def _text(path: Path, most_bytes: int | None = None) -> str:
    """Return the text of a file, or its end; "" if it cannot be read."""
    try:
        with path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            file.seek(max(0, size - (most_bytes or size)))
            return file.read().decode("utf-8", errors="replace")
    except OSError:
        return ""


def version_of(path: Path) -> tuple[int, int, int] | None:
    """Return what changes whenever a file is written; None if it is not there."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_ino, found.st_size, found.st_mtime_ns
