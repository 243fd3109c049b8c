"""The story of a run: from Snakemake's events to lines, and how far the run is."""

import logging
import os
import shlex
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from snakemake_logger_plugin_freelunch.job_log import JobLog, Now, written
from snakemake_logger_plugin_freelunch.words import (
    ALREADY_RUNS,
    BY_SIGNAL,
    FIRST,
    FOLLOWS,
    INTERRUPTED,
    LOCKED,
    POINTERS,
    SCRIPT_ENDED,
    TOLD,
    USUAL,
    duration,
    line_of,
    name_of,
    reasons_in,
    signals_in,
)

# The variable that holds the command which started Snakemake, such as `make study`.
COMMAND = "FREELUNCH_COMMAND"
# This workflow's own events: the plan at the start, the summary or the error at the end, and why a
# scheduler did not take a job or ended it.
PLAN, SUMMARY, STOPPED = "freelunch_plan", "freelunch_summary", "freelunch_stopped"
SCHEDULER = "freelunch_scheduler"
_STOPPING = (
    "Stopping: no further job starts, and the run ends when no job runs any more. Run the same "
    "command again to resume."
)
# The share of the planned work that must be done before its rate says anything.
_LEAST_SHARE = 0.02
# Lines of other processes that are shown for a job that stopped without a message.
_LAST_LINES = 12


@dataclass(frozen=True)
class RunningJob:
    """A job that Snakemake started, or gave to a scheduler.

    Attributes:
        name: Its rule and its cell.
        planned_s: Seconds that the plan predicts; 1 if there is no plan.
        log: Its log.
        began: When it started, by a monotonic clock.
        waits: Whether it may wait in a scheduler's queue.
        said: Where its process's output begins in the file with that of all jobs, in bytes.
    """

    name: str
    planned_s: float
    log: JobLog
    began: float
    waits: bool
    said: int

    def now(self) -> Now:
        """Return how far the job is."""
        if self.waits and not self.log.has_begun:
            return Now("in the queue", 0.0)
        return self.log.now() or Now(f"{duration(time.monotonic() - self.began)} gone", 0.0)


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
    """

    def __init__(self, dry_run: bool = False) -> None:
        self.running: dict[int, RunningJob] = {}
        self.failures: dict[int, Failure] = {}
        self.said: Path | None = None
        self.has_bar = False
        self._dry_run, self._started, self._over = dry_run, False, False
        self._interrupted = False
        self._weights: Mapping[int, float] = {}
        self._jobs, self._attempts, self._finished = 0, dict[int, int](), dict[int, float]()
        self._targets: set[int] = set()
        self._script_ends: dict[str, str] = {}
        self._by_scheduler: dict[int, str] = {}
        self._queues = False
        self._began: float | None = None

    @property
    def is_over(self) -> bool:
        """Whether the end of the run has been told, or is being told."""
        return self._over

    def tell(self, record: logging.LogRecord) -> Iterator[str]:
        """Yield the lines that an event adds to the story."""
        event = getattr(record, "event", None)
        tells = {
            "workflow_started": self._workflow_started,
            "run_info": self._run_info,
            PLAN: self._plan,
            "job_info": self._job_info,
            "job_finished": self._job_finished,
            "job_error": self._job_error,
            "group_error": self._group_error,
            SCHEDULER: self._scheduler,
            SUMMARY: self._end,
            STOPPED: self._end,
        }
        if event in tells:
            yield from tells[event](record)
        elif event in (None, "error"):
            yield from self._words(record)

    def _workflow_started(self, record: logging.LogRecord) -> Iterator[str]:
        self._started = True
        yield from ()

    def _run_info(self, record: logging.LogRecord) -> Iterator[str]:
        stats = {rule: count for rule, count in record.__dict__["stats"].items() if rule != "total"}
        if self._dry_run and not self._jobs:
            yield "Jobs that would run, and why. Nothing runs now; `VERBOSE=1` shows more."
        self._jobs = sum(stats.values())

    def _plan(self, record: logging.LogRecord) -> Iterator[str]:
        found = record.__dict__
        self._weights, self._queues = found["planned_s"], found["queues"]
        self._jobs = len(self._weights)
        yield from _own_words(record)

    def _job_info(self, record: logging.LogRecord) -> Iterator[str]:
        found = record.__dict__
        number, logs = found["jobid"], found["log"]
        if not logs:
            # This job only names what the others make.
            self._targets.add(number)
            return
        name = name_of(found["rule_name"], found["wildcards"])
        if self._dry_run:
            yield f"  {name}: {reasons_in(found['reason'])}"
            return
        self._by_scheduler.pop(number, None)
        # An earlier attempt says nothing of this one.
        self.failures.pop(number, None)
        now = time.monotonic()
        self._began = self._began or now
        self._attempts[number] = self._attempts.get(number, 0) + 1
        waits = self._queues and not found["local"]
        self.running[number] = RunningJob(
            name,
            self._weights.get(number, 1.0),
            JobLog(Path(logs[0])),
            now,
            waits,
            self.said.stat().st_size if self.said is not None else 0,
        )
        again = f", attempt {self._attempts[number]}" if self._attempts[number] > 1 else ""
        why = reasons_in(found["reason"])
        why = "" if why in (FIRST, FOLLOWS) or again else f" ({why})"
        yield line_of("queued" if waits else "started", f"{name}{again}{why}")

    def _job_finished(self, record: logging.LogRecord) -> Iterator[str]:
        number = record.__dict__["job_id"]
        job = self.running.pop(number, None)
        if job is None:
            return
        self.failures.pop(number, None)
        self._finished[number] = job.planned_s
        took = duration(time.monotonic() - job.began)
        progress = "" if self.has_bar else f" [{self.progress()}]"
        yield line_of("finished", f"{job.name}, {took}{progress}")

    def _job_error(self, record: logging.LogRecord) -> Iterator[str]:
        found = record.__dict__
        # The jobs of a group have been removed by the group's own error, which comes first.
        if job := self.running.pop(found["jobid"], None):
            yield self._failed(found["jobid"], job, found["rule_msg"], found["log"])

    def _group_error(self, record: logging.LogRecord) -> Iterator[str]:
        """Tell which job of a group failed. The jobs of a group run one after another; if none has
        begun, the one with the most work stands for them.
        """
        infos = record.__dict__["job_error_info"]
        jobs = [(info, job) for info in infos if (job := self.running.get(info["jobid"]))]
        begun = [(info, job) for info, job in jobs if job.log.has_begun]
        stopped = [(info, job) for info, job in begun if job.log.error() is not None]
        for info, _ in jobs:
            self.running.pop(info["jobid"])
        jobs.sort(key=lambda one: one[1].planned_s, reverse=True)
        for info, job in stopped or begun[-1:] or jobs[:1]:
            logs = [*info["log"], *record.__dict__["aux_logs"]]
            yield self._failed(info["jobid"], job, None, logs)

    def _scheduler(self, record: logging.LogRecord) -> Iterator[str]:
        """Note why a scheduler did not take jobs, or ended them. Events that they failed follow."""
        self._by_scheduler |= dict.fromkeys(record.__dict__["jobs"], record.getMessage())
        yield from ()

    def _failed(self, number: int, job: RunningJob, said: str | None, logs: Sequence[str]) -> str:
        error, took = job.log.error(), duration(time.monotonic() - job.began)
        # What libraries make of an interruption may look like an error of their own.
        if self._interrupted or (error is not None and error.startswith("interrupted")):
            return line_of("stopped", f"{job.name}, {took}: interrupted")
        # If the job wrote no log, the log that is there is from an earlier run.
        logs = [written(log) for log in logs if Path(log) != job.log.path or job.log.has_begun]
        if why := self._by_scheduler.get(number):
            self.failures[number] = Failure(job.name, why, logs, by_signal=False)
            return line_of("FAILED", f"{job.name}, {took}: {why.splitlines()[0]}")
        by_signal = False
        if error is None:
            end = self._script_ends.pop(job.name.partition(" ")[0], "ended")
            by_signal = BY_SIGNAL.search(end) is not None
            end = signals_in(end)
            error = said or f"its process {end} without a message of its own"
            if last := self._last_words(job):
                error += "\nThe last output of its process, and of any beside it:\n" + last
                logs = [*logs, str(self.said)]
        self.failures[number] = Failure(job.name, error, logs, by_signal)
        if by_signal:
            # The message that the whole run was interrupted may come after this event.
            return line_of("stopped", f"{job.name}, {took}: interrupted")
        return line_of("FAILED", f"{job.name}, {took}: {error.splitlines()[0]}")

    def _last_words(self, job: RunningJob) -> str:
        if self.said is None:
            return ""
        with self.said.open("rb") as file:
            file.seek(job.said)
            lines = file.read().decode("utf-8", errors="replace").splitlines()
        return "\n".join(line for line in lines[-_LAST_LINES:])

    def _end(self, record: logging.LogRecord) -> Iterator[str]:
        self._over = True
        yield from self.errors()
        yield from _own_words(record)

    def _words(self, record: logging.LogRecord) -> Iterator[str]:
        """Yield Snakemake's own messages: warnings and errors, and before a run all others."""
        text = record.getMessage()
        if text.startswith(INTERRUPTED):
            # Snakemake may say it again and again.
            if not self._interrupted:
                yield _STOPPING
            self._interrupted = True
            return
        if text in ("", "None") or text.startswith(USUAL):
            return
        if record.levelno >= logging.ERROR:
            if script := SCRIPT_ENDED.search(text):
                self._script_ends[script[1]] = script[2]
            elif LOCKED in text:
                yield ALREADY_RUNS
            elif not any(pointer in text for pointer in POINTERS):
                yield text
        elif record.levelno >= logging.WARNING or not self._started or text.startswith(TOLD):
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
        count = "1 job failed" if len(failures) == 1 else f"{len(failures)} jobs failed"
        yield f"\n{count}:"
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
        one = "job" if self._jobs == 1 else "jobs"
        jobs = f"{len(self._finished)} of {self._jobs} {one}, {done / whole:.0%}".replace("%", " %")
        over = len(self._finished) >= self._jobs
        if self._began is None or done < _LEAST_SHARE * whole or over:
            return jobs
        left = (whole - done) / done * (time.monotonic() - self._began)
        return f"{jobs}, about {duration(left)} left"


def resume() -> str:
    """Return the command that the user typed: `COMMAND`, or else that of this process."""
    return os.environ.get(COMMAND) or shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]])


def _own_words(record: logging.LogRecord) -> Iterator[str]:
    yield f"\n{record.getMessage()}\n"
