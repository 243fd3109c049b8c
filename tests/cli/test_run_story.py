"""What a run shows at the terminal, from Snakemake's events to lines."""

import io
import logging
import os
import subprocess
import sys
import time
from types import SimpleNamespace

import pytest
from snakemake.exceptions import LockException

from freelunch.cli.run import stopped_text
from snakemake_logger_plugin_freelunch import LogHandler
from snakemake_logger_plugin_freelunch.screen import Screen
from snakemake_logger_plugin_freelunch.story import (
    COMMAND,
    PLAN,
    STOPPED,
    SUMMARY,
    RunningJob,
    Story,
)

FIRST = "Missing output files: a, b; Input files updated by another job: c"
SCRIPT_ENDED = (
    'RuleException:\nCalledProcessError in file "rules/prune.smk", line 3:\n'
    "Command 'set -euo pipefail;  python /x/.snakemake/scripts/tmp1.prune_model.py' {}."
)


@pytest.fixture
def clock(monkeypatch):
    """A clock that only the test moves on."""
    now = SimpleNamespace(s=1000.0)
    monkeypatch.setattr(time, "monotonic", lambda: now.s)
    return now


class Events:
    """Snakemake's events of a run, with logs of jobs in a folder."""

    def __init__(self, folder):
        self.folder = folder

    def said(self, text, level=logging.INFO, event=None, **found):
        record = logging.LogRecord("snakemake.logging", level, "", 0, text, (), None)
        vars(record).update(event=event, **found)
        return record

    def began(self):
        return self.said("Workflow has started!", event="workflow_started")

    def plan(self, planned_s, queues=False):
        return self.said("The plan", event=PLAN, planned_s=planned_s, queues=queues)

    def job(self, number, rule, reason=FIRST, local=False, **wildcards):
        return self.said(
            "",
            event="job_info",
            jobid=number,
            rule_name=rule,
            wildcards=wildcards,
            log=[str(self.log(number))],
            reason=reason,
            local=local,
        )

    def target(self, number):
        record = self.job(number, "all")
        record.log = []
        return record

    def finished(self, number):
        return self.said("", event="job_finished", job_id=number)

    def failed(self, number, said=None, indent=False):
        found = {"jobid": number, "rule_msg": said, "log": [str(self.log(number))]}
        return self.said("", logging.ERROR, "job_error", indent=indent, **found)

    def log(self, number):
        return self.folder / f"{number}.log"

    def writes(self, number, *lines):
        with self.log(number).open("a") as file:
            file.writelines(f"2026-11-27 02:31:05,123 {line}\n" for line in lines)


@pytest.fixture
def events(tmp_path):
    return Events(tmp_path)


def told(story, *records):
    """Return the lines of events, without their times."""
    return [
        line[16:] if line[:2].isdigit() else line for each in records for line in story.tell(each)
    ]


CELL = {"model": "m", "pruning": "wanda-u50", "adaptation": "recon_block", "seed": "0"}


def test_each_job_is_two_lines_with_the_time_left_by_the_measured_rate(events, clock):
    story = Story()
    lines = told(story, events.began(), events.plan({1: 30.0, 2: 60.0, 3: 10.0}))
    assert lines == ["\nThe plan\n"]
    assert told(story, events.said("Select jobs to execute...")) == []
    pruning = events.job(1, "prune_model", model="m", criterion="wanda", pattern="u50", seed="0")
    assert told(story, pruning) == ["started   prune_model m/wanda-u50/seed0"]
    clock.s += 60
    # 30 of 100 planned seconds took 60: what is left takes 140.
    assert told(story, events.finished(1)) == [
        "finished  prune_model m/wanda-u50/seed0, 60 s [1 of 3 jobs, 30 %, about 2 min left]"
    ]
    why = f"{FIRST}; Params have changed since last execution: before: a; b now: c"
    window = events.job(2, "reconstruct_window", why, **CELL, scatteritem="1-of-1")
    assert told(story, window) == [
        "started   reconstruct_window m/wanda-u50/recon_block/seed0 "
        "(Missing output files; Params have changed since last execution)"
    ]
    # Half of a running job is done.
    events.writes(2, "INFO freelunch: 15/30 windows (loss 1 to 2), 9 s gone, 9 s left")
    assert story.progress() == "1 of 3 jobs, 60 %, about 40 s left"
    told(story, events.finished(2), events.job(3, "build_tables"), events.finished(3))
    assert told(story, events.target(4), events.finished(4)) == []
    assert story.progress() == "3 of 3 jobs, 100 %"
    assert told(story, events.said("Found", event=SUMMARY)) == ["\nFound\n"]
    assert told(story, events.said("Elapsed time: 0:01")) == []


def test_a_log_of_an_earlier_run_says_nothing(events, clock):
    events.writes(1, "INFO freelunch: 30/30 windows", "ERROR freelunch: error: an old one")
    job = RunningJob("prune_model", events.log(1))
    assert job.last_line() == ("", 0.0) and job.error() is None and job.now() == "0 s gone"
    events.writes(1, "WARNING freelunch.core.lock: x: waiting for process 12, which works here")
    assert job.now() == "x: waiting for process 12, which works here"


def test_errors_are_told_again_at_the_end_in_full(events, clock, tmp_path):
    story = Story()
    story.said = tmp_path / "said"
    told(story, events.began(), events.plan({1: 1.0, 2: 1.0}), events.job(1, "fetch_text"))
    told(story, events.job(2, "prune_model", model="m", criterion="ria", pattern="u50", seed="1"))
    events.writes(1, "ERROR freelunch: stopped\nTraceback ...")
    events.writes(1, "ERROR freelunch: error: t: it is too short\n  found:    3\n  to do:    more")
    first = "FAILED    fetch_text, 0 s: t: it is too short"
    assert told(story, events.failed(1)) == [first]
    ended = SCRIPT_ENDED.format("died with <Signals.SIGKILL: 9>")
    assert told(story, events.said(ended, logging.ERROR, "error")) == []
    second = (
        "its process died with SIGKILL, perhaps since memory was short, without a message of its "
        "own"
    )
    assert told(story, events.failed(2)) == [
        f"FAILED    prune_model m/ria-u50/seed1, 0 s: {second}"
    ]
    pointer = "Exiting because a job execution failed. Look above for error messages"
    assert told(story, events.said(pointer, logging.ERROR)) == []
    assert told(story, events.said("Resume by ...", event=STOPPED)) == [
        "\n2 jobs failed:",
        "\n  fetch_text\n    t: it is too short\n      found:    3\n      to do:    more"
        f"\n    log:      {events.log(1)}",
        f"\n  prune_model m/ria-u50/seed1\n    {second}\n    log:      {story.said}",
        "\nResume by ...\n",
    ]
    assert list(story.errors()) == []


def test_jobs_that_one_error_ended_are_told_together(events, clock):
    story = Story()
    told(story, events.began(), events.plan(dict.fromkeys((1, 2, 3), 1.0)))
    for seed in (1, 2):
        told(story, events.job(seed, "sample_calibration", model="m", seed=str(seed)))
        events.writes(seed, "ERROR freelunch: error: t: it holds evaluation text")
    told(story, events.job(3, "fetch_text", text="u"))
    events.writes(3, "ERROR freelunch: error: u: another one")
    told(story, *map(events.failed, (1, 3, 2)))
    logs = "".join(f"\n    log:      {events.log(number)}" for number in (1, 2))
    assert list(story.errors()) == [
        "\n3 jobs failed:",
        "\n  sample_calibration m/seed1\n  sample_calibration m/seed2"
        f"\n    t: it holds evaluation text{logs}",
        f"\n  fetch_text u\n    u: another one\n    log:      {events.log(3)}",
    ]


def test_a_job_that_succeeds_at_its_second_attempt_has_not_failed(events, clock):
    story, job = Story(), events.job(1, "fetch_text")
    told(story, events.began(), events.plan({1: 1.0}), job, events.failed(1))
    assert story.failures
    assert told(story, job) == ["started   fetch_text, attempt 2"]
    # An interruption would end the run here.
    assert list(story.errors()) == []
    told(story, events.finished(1))
    assert list(story.errors()) == []


def test_an_interrupted_job_has_not_failed(events, clock):
    story = Story()
    told(
        story, events.began(), events.plan({1: 1.0, 2: 1.0}), events.job(1, "fetch_text", text="t")
    )
    told(story, events.job(2, "build_tables"))
    clock.s += 5
    assert story.running[1].now() == "5 s gone"
    events.writes(1, "ERROR freelunch: interrupted; finished files are kept: run it again")
    # The other one was interrupted before it could say so.
    script = SCRIPT_ENDED.replace("prune_model", "build_tables")
    ended = events.said(script.format("died with <Signals.SIGINT: 2>"), logging.ERROR, "error")
    assert told(story, ended, events.failed(1), events.failed(2)) == [
        "stopped   fetch_text t, 5 s: interrupted",
        "stopped   build_tables, 5 s: interrupted",
    ]
    told(story, events.said("Terminating processes on user request, this ..."))
    assert list(story.errors()) == []


TERMINATED = "Will exit after finishing currently running jobs (scheduler)."


@pytest.mark.parametrize("told_of", ["before", "after", "never"])
def test_jobs_of_a_terminated_run_have_not_failed(events, clock, told_of):
    """Whichever Snakemake says first: that a job ended, or that it ends the run. A job that alone
    was terminated, as by a guard of the machine's memory, has failed.
    """
    story = Story()
    told(story, events.began(), events.plan({1: 1.0}), events.job(1, "prune_model", model="m"))
    end = SCRIPT_ENDED.format("returned non-zero exit status 143")
    ended = [events.said(end, logging.ERROR, "error"), events.failed(1)]
    terminated = [events.said(TERMINATED)] * 3 if told_of != "never" else []
    lines = told(story, *([*terminated, *ended] if told_of == "before" else [*ended, *terminated]))
    assert lines.count("stopped   prune_model m, 0 s: interrupted") == 1
    assert len(lines) == 1 + (told_of != "never")
    errors = "".join(told(story, events.said("Resume by ...", event=STOPPED)))
    assert ("143, without a message of its own" in errors) == (told_of == "never")


def test_what_fails_after_an_interruption_is_interrupted(events, clock):
    """As a library that was being imported, and takes the interruption for a missing module."""
    story = Story()
    told(story, events.began(), events.plan({1: 1.0}), events.job(1, "evaluate_cell", **CELL))
    (line,) = told(story, events.said("Terminating processes on user request, this ..."))
    assert line.startswith("Stopping: no further job starts")
    events.writes(1, "ERROR freelunch: error: ModuleNotFoundError: Could not import 'LlamaConfig'")
    (line,) = told(story, events.failed(1))
    assert line.startswith("stopped") and line.endswith("interrupted")
    assert list(story.errors()) == []


def test_of_a_group_the_job_that_stopped_has_failed(events, clock):
    story = Story()
    told(story, events.began(), events.plan({1: 1.0, 2: 1.0, 3: 1.0}, queues=True))
    rules = ("reconstruct_window", "evaluate_cell", "collect_records")
    jobs = [events.job(number, rule, **CELL) for number, rule in enumerate(rules, 1)]
    assert told(story, jobs[0]) == ["queued    reconstruct_window m/wanda-u50/recon_block/seed0"]
    told(story, *jobs[1:])
    assert {job.now() for job in story.running.values()} == {"in the queue"}
    events.writes(1, "INFO freelunch: 4/4 windows, done")
    events.writes(2, "ERROR freelunch: error: no")
    infos = [{"jobid": number, "log": [str(events.log(number))]} for number in (1, 2, 3)]
    found = {"groupid": "g", "aux_logs": ["slurm.log"], "job_error_info": infos}
    error = events.said("Error in group g", logging.ERROR, "group_error", **found)
    each = [events.failed(number, indent=True) for number in (1, 2, 3)]
    assert told(story, error, *each) == [
        "FAILED    evaluate_cell m/wanda-u50/recon_block/seed0, 0 s: no"
    ]
    assert "slurm.log" in "".join(story.errors()) and not story.running


@pytest.mark.parametrize(
    ("said", "why", "todo"),
    [
        (
            "slurmstepd: error: *** JOB 8 CANCELLED DUE TO TIME LIMIT",
            "time",
            "runtime",
        ),
        ("slurmstepd: error: Detected 1 oom_kill event in StepId=8.0", "memory", "mem_mb"),
        ("slurmstepd: error: Exceeded job memory limit", "memory", "mem_mb"),
        ("ValueError: no", None, None),
    ],
)
@pytest.mark.parametrize("is_group", [True, False])
def test_what_the_scheduler_ended_says_what_to_ask_for(
    events, clock, tmp_path, said, why, todo, is_group
):
    """Its own log says it, which Snakemake's event names. A job's own message goes first."""
    log = tmp_path / "8.log"
    log.write_text(said)
    story = Story()
    told(story, events.began(), events.plan({1: 1.0}, queues=True), events.job(1, "retrain_model"))
    error = events.failed(1, "SLURM-job '8' failed, SLURM status is: 'FAILED'")
    error.log.append(str(log))
    if is_group:
        info = [{"jobid": 1, "log": [str(events.log(1))]}]
        facts = {"groupid": "g", "aux_logs": [str(log)], "job_error_info": info}
        error = events.said("Error in group g", logging.ERROR, "group_error", **facts)
    (line,) = told(story, error)
    (_, shown) = story.errors()
    assert (why is None) == ("--set-resources" not in shown) and str(log) in shown
    if why is not None:
        assert line.partition(": ")[2] in ("out of time", "killed for memory") and why in line
        assert f"`--set-resources retrain_model:{todo}=" in shown


def test_warnings_and_errors_of_snakemake_are_told_and_its_usual_words_are_not(events):
    story = Story()
    assert told(story, events.said("Unlocked working directory.")) == [
        "Unlocked working directory."
    ]
    own = ["Building DAG of jobs...", "No SLURM account given, trying to guess.", "Adding x (1 B)."]
    assert told(story, *map(events.said, own)) == []
    own = ["Complete log(s): x", "Shutting down, this might take some time.", "Select jobs ..."]
    assert told(story, events.began(), *map(events.said, own)) == []
    assert told(story, events.said("odd", logging.WARNING)) == ["odd"]
    assert told(story, events.said("WorkflowError:\nbad", logging.ERROR, "error")) == [
        "WorkflowError:\nbad"
    ]
    # Snakemake advises `--unlock`, which takes the locks of a run that is alive away.
    locked = events.said(f"LockException:\n{LockException()}", logging.ERROR, "error")
    assert told(story, locked)[0].startswith("Another run in this folder makes some")
    nothing = "Nothing to be done (all requested files are present and up to date)."
    assert told(story, events.said(nothing)) == [nothing]


def test_a_dry_run_says_which_jobs_would_run_and_why(events):
    story = Story(dry_run=True)
    stats = events.said("", event="run_info", stats={"all": 1, "fetch_text": 1, "total": 2})
    lines = told(
        story, events.began(), stats, events.job(1, "fetch_text", text="t"), events.target(2)
    )
    assert lines[1:] == ["  fetch_text t: Missing output files"]
    # Snakemake gives both the same reason.
    again = events.job(3, "build_tables", "Forced execution; Input files updated by another job: x")
    assert told(story, again) == ["  build_tables: Forced, or left unfinished by an earlier run"]


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_a_terminal_has_a_bar_and_the_running_jobs_below_it(events, clock):
    stream, story = Terminal(), Story()
    screen = Screen(story, stream, colours=False)
    screen.show_bar()
    told(story, events.began(), events.plan({1: 3.0, 2: 1.0}))
    told(story, events.job(1, "evaluate_cell", **CELL), events.job(2, "fetch_text", text="t"))
    clock.s += 30
    (line,) = told(story, events.finished(2))
    assert line == "finished  fetch_text t, 30 s", "the bar says how far the run is"
    events.writes(1, "INFO freelunch: 15/30 blocks (loss 2.5), 9 s gone, 9 s left")
    screen.say(line)
    screen.hide_bar()
    shown = stream.getvalue()
    assert "1 of 2 jobs, 62 %, about 18 s left" in shown
    assert "evaluate_cell m/wanda-u50/recon_block/seed0  15/30 blocks, 9 s gone, 9 s left" in shown


@pytest.mark.parametrize(
    "said", ["Terminating processes on user request, this ...", TERMINATED, "Error in x"]
)
def test_an_interrupted_run_needs_no_fix(tmp_path, monkeypatch, said):
    monkeypatch.setenv(COMMAND, "make study")
    log = tmp_path / "x.snakemake.log"
    log.write_text(said)
    text = stopped_text([log])
    assert "    make study" in text.splitlines()
    interrupted = not said.startswith("Error")
    assert ("was interrupted" in text) == interrupted == ("Fix any error" not in text)


def test_no_terminal_gets_plain_lines(events):
    stream = io.StringIO()
    screen = Screen(Story(), stream)
    screen.show_bar()
    screen.say("11-27 02:31:05  FAILED    x, 3 s: " + 200 * "y")
    screen.hide_bar()
    assert stream.getvalue() == "11-27 02:31:05  FAILED    x, 3 s: " + 200 * "y" + "\n"


def settings(**given):
    return SimpleNamespace(**{"dryrun": False, "stdout": False, "nocolor": False, **given})


def test_verbose_leaves_the_terminal_to_snakemake(monkeypatch):
    monkeypatch.delenv("VERBOSE", raising=False)
    assert LogHandler(settings(), None).writes_to_stream
    monkeypatch.setenv("VERBOSE", "1")
    handler = LogHandler(settings(), None)
    assert not handler.writes_to_stream
    handler.emit(logging.makeLogRecord({"msg": "x"}))
    handler.close()


def test_what_jobs_say_goes_to_a_file_and_the_rest_to_the_terminal(tmp_path):
    code = (
        "import subprocess, sys; from pathlib import Path\n"
        "from snakemake_logger_plugin_freelunch.screen import Capture\n"
        f"capture = Capture(Path({str(tmp_path / 'said')!r}))\n"
        "subprocess.run('echo out; echo err >&2', shell=True)\n"
        "print('for the person', file=sys.stderr)\n"
        "capture.end()\n"
        "subprocess.run('echo after', shell=True)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert (tmp_path / "said").read_text() == "out\nerr\n"
    assert (done.stdout, done.stderr) == ("after\n", "for the person\n")


def test_a_job_leaves_its_message_and_its_progress_in_its_log(tmp_path):
    """The layout of a log is the one that the terminal reads."""
    job = RunningJob("prune_model m", tmp_path / "prune_model" / "m.log")
    code = (
        "from pathlib import Path\n"
        "from freelunch.core.errors import UserError\n"
        "from freelunch.core.job import JobSettings, running\n"
        f"settings = JobSettings(Path({str(job.log)!r}), 'prune_model m', 1, 'cpu', None, {{}})\n"
        "with running(settings) as job:\n"
        "    job.report(4, 8, 'windows')\n"
        "    job.report(8, 8, 'windows')\n"
        "    raise UserError('it is wrong', where='config.yaml', found=1, todo='mend it')\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=False)
    assert done.returncode == 1
    line, share = job.last_line()
    assert line.startswith("8/8 windows, ") and share == 1.0
    assert job.error() == "config.yaml: it is wrong\n  found:    1\n  to do:    mend it"


def test_the_plugin_imports_nothing_of_the_library_before_a_snakefile_does():
    """It may be installed from another folder than the Snakefile's, whose library counts."""
    code = (
        "import sys, logging; from types import SimpleNamespace\n"
        "from snakemake_logger_plugin_freelunch import LogHandler\n"
        "assert 'rich' not in sys.modules\n"
        "settings = SimpleNamespace(dryrun=False, stdout=False, nocolor=False)\n"
        "LogHandler(settings, None).emit(logging.makeLogRecord({'msg': 'x'}))\n"
        "assert not [name for name in sys.modules if name.partition('.')[0] == 'freelunch']\n"
    )
    environment = {key: value for key, value in os.environ.items() if key != "VERBOSE"}
    subprocess.run([sys.executable, "-c", code], check=True, env=environment)
