"""The story of a run: from Snakemake's events to lines, and how far the run is."""

import logging
import os
import re
import shlex
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from snakemake_logger_plugin_freelunch.job_log import JobLog, Now

# The variable that holds the command which started Snakemake, such as `make study`.
COMMAND = "FREELUNCH_COMMAND"
# This workflow's own events: the plan at the start, and the summary or the error at the end.
PLAN, SUMMARY, STOPPED = "freelunch_plan", "freelunch_summary", "freelunch_stopped"
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
# The share of the planned work that must be done before its rate says anything.
_LEAST_SHARE = 0.02


@dataclass(frozen=True)
class RunningJob:
    """A job that Snakemake started, or gave to a scheduler.

    Attributes:
        name: Its rule and its cell.
        planned_s: Seconds that the plan predicts; 1 if there is no plan.
        log: Its log.
        began: When it started, by a monotonic clock.
        waits: Whether it may wait in a scheduler's queue.
    """

    name: str
    planned_s: float
    log: JobLog
    began: float
    waits: bool

    def now(self) -> Now:
        """Return how far the job is."""
        if self.waits and not self.log.has_begun:
            return Now("in the queue", 0.0)
        return self.log.now() or Now(f"{self.age()} gone", 0.0)

    def age(self) -> str:
        """Return how long ago the job started."""
        return duration(time.monotonic() - self.began)


@dataclass(frozen=True)
class Failure:
    """A job that failed.

    Attributes:
        name: Its rule and its cell.
        error: Its message, in full.
        logs: The logs that say more.
        by_signal: Whether a signal ended it, which is no failure if the run was interrupted.
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
        self.has_bar = False
        self.is_over = False
        self._dry_run, self._started, self._interrupted, self._queues = dry_run, False, False, False
        self._weights: Mapping[int, float] = {}
        self._jobs, self._attempts, self._finished = 0, dict[int, int](), dict[int, float]()
        self._targets: set[int] = set()
        self._script_ends: dict[str, str] = {}
        self._began: float | None = None

    def tell(self, record: logging.LogRecord) -> Iterator[str]:
        """Yield the lines that an event adds to the story."""
        event = getattr(record, "event", None)
        tells = {
            "run_info": self._run_info,
            PLAN: self._plan,
            "job_info": self._job_info,
            "job_finished": self._job_finished,
            "job_error": self._job_error,
            "group_error": self._group_error,
            SUMMARY: self._end,
            STOPPED: self._end,
        }
        if event == "workflow_started":
            self._started = True
        elif event in tells:
            yield from tells[event](record)
        elif event in (None, "error"):
            yield from self._message(record)

    def _run_info(self, record: logging.LogRecord) -> Iterator[str]:
        stats = {rule: count for rule, count in record.__dict__["stats"].items() if rule != "total"}
        if self._dry_run and not self._jobs:
            yield "Jobs that would run, and why. Nothing runs now; `VERBOSE=1` shows more."
        self._jobs = sum(stats.values())

    def _plan(self, record: logging.LogRecord) -> Iterator[str]:
        facts = record.__dict__
        self._weights, self._queues = facts["planned_s"], facts["queues"]
        self._jobs = len(self._weights)
        yield f"\n{record.getMessage()}\n"

    def _job_info(self, record: logging.LogRecord) -> Iterator[str]:
        facts = record.__dict__
        number, logs = facts["jobid"], facts["log"]
        if not logs:
            # This job only names what the others make.
            self._targets.add(number)
            return
        name = _name_of(facts["rule_name"], facts["wildcards"])
        why = _reasons_in(facts["reason"])
        if self._dry_run:
            yield f"  {name}: {why}"
            return
        # An earlier attempt says nothing of this one.
        self.failures.pop(number, None)
        now = time.monotonic()
        self._began = self._began or now
        attempt = self._attempts[number] = self._attempts.get(number, 0) + 1
        waits = self._queues and not facts["local"]
        weight = self._weights.get(number, 1.0)
        self.running[number] = RunningJob(name, weight, JobLog(Path(logs[0])), now, waits)
        more = "" if why in (_FIRST, _FOLLOWS) else f" ({why})"
        more = f", attempt {attempt}" if attempt > 1 else more
        yield _line("queued" if waits else "started", f"{name}{more}")

    def _job_finished(self, record: logging.LogRecord) -> Iterator[str]:
        number = record.__dict__["job_id"]
        job = self.running.pop(number, None)
        if job is None:
            return
        self.failures.pop(number, None)
        self._finished[number] = job.planned_s
        progress = "" if self.has_bar else f" [{self.progress()}]"
        yield _line("finished", f"{job.name}, {job.age()}{progress}")

    def _job_error(self, record: logging.LogRecord) -> Iterator[str]:
        facts = record.__dict__
        # The jobs of a group have been removed by the group's own error, which comes first.
        if job := self.running.pop(facts["jobid"], None):
            yield self._failed(facts["jobid"], job, facts["rule_msg"], facts["log"])

    def _group_error(self, record: logging.LogRecord) -> Iterator[str]:
        """Tell which job of a group failed. The jobs of a group run one after another; if none has
        begun, the one with the most work stands for them.
        """
        infos = record.__dict__["job_error_info"]
        jobs = [(info, job) for info in infos if (job := self.running.pop(info["jobid"], None))]
        begun = [(info, job) for info, job in jobs if job.log.has_begun]
        stopped = [(info, job) for info, job in begun if job.log.error() is not None]
        jobs.sort(key=lambda pair: pair[1].planned_s, reverse=True)
        for info, job in stopped or begun[-1:] or jobs[:1]:
            logs = [*info["log"], *record.__dict__["aux_logs"]]
            yield self._failed(info["jobid"], job, None, logs)

    def _failed(self, number: int, job: RunningJob, said: str | None, logs: Sequence[str]) -> str:
        error, by_signal = job.log.error(), False
        # What libraries make of an interruption may look like an error of their own.
        if self._interrupted or (error is not None and error.startswith("interrupted")):
            return _line("stopped", f"{job.name}, {job.age()}: interrupted")
        # If the job wrote no log, the log that is there is from an earlier run.
        logs = [log for log in logs if Path(log) != job.log.path or job.log.has_begun]
        if error is None:
            end = self._script_ends.pop(job.name.partition(" ")[0], "ended")
            by_signal = _BY_SIGNAL.search(end) is not None
            # The system ends the process that takes the most memory when memory is short.
            end = end.replace("<Signals.SIGKILL: 9>", "SIGKILL, perhaps since memory was short")
            error = said or f"its process {end}, without a message of its own"
            logs = [*logs, *([str(self.said)] if self.said else [])]
        self.failures[number] = Failure(job.name, error, logs, by_signal)
        if by_signal:
            # The message that the whole run was interrupted may come after this event.
            return _line("stopped", f"{job.name}, {job.age()}: interrupted")
        return _line("FAILED", f"{job.name}, {job.age()}: {error.splitlines()[0]}")

    def _end(self, record: logging.LogRecord) -> Iterator[str]:
        self.is_over = True
        yield from self.errors()
        yield f"\n{record.getMessage()}\n"

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

    def errors(self) -> Iterator[str]:
        """Yield each error once, in full, with the jobs that it ended, such as those of seeds."""
        failures = [
            failure
            for failure in self.failures.values()
            if not (self._interrupted and failure.by_signal)
        ]
        self.failures = {}
        if not failures:
            return
        yield f"\n{_number_of(len(failures))} failed:"
        alike: dict[str, list[Failure]] = {}
        for failure in failures:
            alike.setdefault(failure.error, []).append(failure)
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
        running = list(self.running.values())
        inside = sum(job.planned_s * job.now().share for job in running)
        done = sum(self._finished.values()) + inside
        known = sum(self._weights.values())
        return done, known if known else float(max(self._jobs - len(self._targets), 1))

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
    return "1 job" if jobs == 1 else f"{jobs} jobs"


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
    """Return Snakemake's reasons without the files and settings that they list.

    That another job makes the inputs is left out if there is another reason.
    """
    reasons = _REASONS.findall(text) or [text]
    told = [reason for reason in reasons if reason != _FOLLOWS] or reasons
    # Snakemake gives the same reason for what an earlier run left unfinished.
    forced = "Forced, or left unfinished by an earlier run"
    return "; ".join(forced if reason == _FORCED else reason for reason in told)
