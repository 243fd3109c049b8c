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
INTERRUPTED = "Terminating processes on user request, this ..."
TERMINATED = "Will exit after finishing currently running jobs (scheduler)."
CELL = {"model": "m", "pruning": "wanda-u50", "adaptation": "recon_block", "seed": "0"}


@pytest.fixture
def clock(monkeypatch):
    """A clock that only the test moves on."""
    now = SimpleNamespace(s=1000.0)
    monkeypatch.setattr(time, "monotonic", lambda: now.s)
    return now


PARAMS = "Params have changed since last execution: Union of exclusive params before and now "
PARAMS += "across all output: "


class Run:
    """A story of Snakemake's events, with logs of jobs in a folder."""

    def __init__(self, folder):
        self.folder, self.story = folder, Story()

    def planned(self, *planned_s, queues=False):
        facts = {"planned_s": dict(enumerate(planned_s, 1)), "queues": queues}
        self.said("Workflow has started!", event="workflow_started")
        assert self.said("The plan", event=PLAN, **facts) == ["\nThe plan\n"]
        return self

    def said(self, text, level=logging.INFO, event=None, **facts):
        """Return the lines of an event, without their times."""
        record = logging.LogRecord("snakemake.logging", level, "", 0, text, (), None)
        vars(record).update(event=event, **facts)
        lines = self.story.tell(record)
        return [line[16:] if line[:2].isdigit() else line for line in lines]

    def job(self, number, rule, reason=FIRST, log=True, **wildcards):
        facts = {"jobid": number, "rule_name": rule, "wildcards": wildcards, "reason": reason}
        logs = [str(self.log(number))] if log else []
        return self.said("", event="job_info", **facts, log=logs, local=False)

    def finished(self, number):
        return self.said("", event="job_finished", job_id=number)

    def ended(self, rule, how):
        text = SCRIPT_ENDED.format(how).replace("prune_model", rule)
        assert self.said(text, logging.ERROR, "error") == []

    def failed(self, number, said=None, logs=()):
        facts = {"jobid": number, "rule_msg": said, "log": [str(self.log(number)), *logs]}
        return self.said("", logging.ERROR, "job_error", **facts)

    def group_failed(self, *numbers, logs=()):
        infos = [{"jobid": number, "log": [str(self.log(number))]} for number in numbers]
        facts = {"groupid": "g", "aux_logs": [*logs], "job_error_info": infos}
        return self.said("Error in group g", logging.ERROR, "group_error", **facts)

    def log(self, number):
        return self.folder / f"{number}.log"

    def writes(self, number, *lines):
        with self.log(number).open("a") as file:
            file.writelines(f"2026-11-27 02:31:05,123 {line}\n" for line in lines)

    def stopped(self):
        return self.said("Resume by ...", event=STOPPED)


@pytest.fixture
def run(tmp_path, clock):
    return Run(tmp_path)


def test_each_job_is_two_lines_with_the_time_left_by_the_measured_rate(run, clock):
    run.planned(30.0, 60.0, 10.0)
    assert run.job(1, "prune_model", model="m", criterion="wanda", pattern="u50", seed="0") == [
        "started   prune_model m/wanda-u50/seed0"
    ]
    clock.s += 60
    # 30 of 100 planned seconds took 60: what is left takes 140.
    assert run.finished(1) == [
        "finished  prune_model m/wanda-u50/seed0, 60 s [1 of 3 jobs, 30 %, about 2 min left]"
    ]
    why = f"{FIRST}: a; b; {PARAMS}before: a; b now: c"
    assert run.job(2, "reconstruct_window", why, **CELL, scatteritem="1-of-1") == [
        "started   reconstruct_window m/wanda-u50/recon_block/seed0 "
        "(Missing output files; Params have changed since last execution)"
    ]
    # Half of a running job is done.
    run.writes(2, "INFO freelunch: 15/30 windows (loss 1 to 2), 9 s gone, 9 s left")
    assert run.story.progress() == "1 of 3 jobs, 60 %, about 40 s left"
    run.job(3, "build_tables")
    for number in (2, 3):
        run.finished(number)
    assert run.job(4, "all", log=False) == run.finished(4) == []
    assert run.story.progress() == "3 of 3 jobs, 100 %"
    assert run.said("Found", event=SUMMARY) == ["\nFound\n"]


SETTINGS = "{{'epochs': {}, 'window': 1, 'trained': {{'norms': {}}}}}"
OLD, NEW = "'7657a44cd17eedef'", "'0a57a44cd17eedef'"


@pytest.mark.parametrize(
    ("before", "now", "said"),
    [
        (SETTINGS.format(1, True), SETTINGS.format(2, True), "epochs 1 -> 2"),
        (
            f"{OLD},{SETTINGS.format(1, True)}",
            f"{SETTINGS.format('[1, 2]', False)},{NEW}",
            "code, epochs 1 -> [1, 2], trained.norms True -> False",
        ),
        (f"{{'perplexity': {OLD}}}", f"{{'perplexity': {NEW}}}", "code"),
        ("<nothing exclusive>", "{'swaps': 3}", "swaps none -> 3"),
        ("1000.0", "500.0", "1000.0 -> 500.0"),
        (str(dict.fromkeys("abcd", 1)), "{}", "a 1 -> none, b 1 -> none, c 1 -> none, 1 more"),
    ],
)
def test_a_rerun_says_which_setting_changed(run, before, now, said):
    files = "Updated input files: a; Code has changed.txt"
    why = f"{files}; {PARAMS}before: {before} now: {now} ; Input files updated by another job: b"
    (line,) = run.job(1, "prune_model", why)
    changed = f"Params have changed since last execution: {said}"
    assert line == f"started   prune_model (Updated input files; {changed})"


def test_a_log_of_an_earlier_run_says_nothing(run):
    run.writes(1, "INFO freelunch: 30/30 windows", "ERROR freelunch: error: an old one")
    job = RunningJob("prune_model", run.log(1))
    assert job.last_line() == ("", 0.0) and job.error() is None and job.now() == "0 s gone"
    run.writes(1, "WARNING freelunch.core.lock: x: waiting for process 12, which works here")
    assert job.now() == "x: waiting for process 12, which works here"


def test_each_error_is_told_again_at_the_end_once_and_in_full(run, tmp_path):
    run.story.said = tmp_path / "said"
    run.planned(1.0, 1.0, 1.0)
    for seed in (1, 3):
        run.job(seed, "fetch_text", text="t", seed=str(seed))
    run.job(2, "prune_model", model="m", criterion="ria", pattern="u50", seed="1")
    run.writes(1, "ERROR freelunch: stopped\nTraceback ...")
    for seed in (1, 3):
        run.writes(seed, "ERROR freelunch: error: t: it is too short\n  found:    3")
    assert run.failed(1) == ["FAILED    fetch_text t/seed1, 0 s: t: it is too short"]
    run.ended("prune_model", "died with <Signals.SIGKILL: 9>")
    second = (
        "its process died with SIGKILL, perhaps since memory was short, and its log has no message"
    )
    assert run.failed(2) == [f"FAILED    prune_model m/ria-u50/seed1, 0 s: {second}"]
    run.failed(3)
    pointer = "Exiting because a job execution failed. Look above for error messages"
    assert run.said(pointer, logging.ERROR) == []
    assert run.stopped() == [
        "\n3 jobs failed:",
        "\n  fetch_text t/seed1\n  fetch_text t/seed3\n    t: it is too short\n      found:    3"
        f"\n    log:      {run.log(1)}\n    log:      {run.log(3)}",
        f"\n  prune_model m/ria-u50/seed1\n    {second}\n    log:      {run.story.said}",
        "\nResume by ...\n",
    ]
    assert list(run.story.errors()) == []


def test_a_job_that_succeeds_at_its_second_attempt_has_not_failed(run):
    run.planned(1.0).job(1, "fetch_text")
    run.failed(1)
    assert run.job(1, "fetch_text") == ["started   fetch_text, attempt 2"]
    # An interruption would end the run here.
    assert run.stopped() == ["\nResume by ...\n"]


@pytest.mark.parametrize("message", [INTERRUPTED, TERMINATED])
@pytest.mark.parametrize("told_of", ["before", "after", "never"])
def test_an_interrupted_job_has_not_failed(run, clock, message, told_of):
    """Whichever Snakemake says first: that a job ended, or that it ends the run. A job that alone
    was terminated, as by a guard of the machine's memory, has failed.
    """
    run.planned(1.0, 1.0, 1.0)
    for number, rule in enumerate(("fetch_text", "prune_model", "build_tables"), 1):
        run.job(number, rule)
    clock.s += 5
    assert run.story.running[1].now() == "5 s gone"
    lines = [line for _ in range(3) for line in run.said(message)] if told_of == "before" else []
    assert len(lines) == (told_of == "before"), "Snakemake may say it again and again"
    run.writes(1, "ERROR freelunch: interrupted; finished files are kept: run it again")
    assert run.failed(1) == ["stopped   fetch_text, 5 s: interrupted"]
    for number, rule, how in (
        (2, "prune_model", "died with <Signals.SIGINT: 2>"),
        (3, "build_tables", "returned non-zero exit status 143"),
    ):
        run.ended(rule, how)
        assert run.failed(number) == [f"stopped   {rule}, 5 s: interrupted"]
    if told_of == "after":
        run.said(message)
    errors = "".join(run.stopped())
    assert ("exit status 143" in errors) == (told_of == "never")


def test_what_fails_after_an_interruption_is_interrupted(run):
    """As a library that was being imported, and takes the interruption for a missing module."""
    run.planned(1.0).job(1, "evaluate_cell", **CELL)
    assert run.said(INTERRUPTED)[0].startswith("Stopping: no further job starts")
    run.writes(1, "ERROR freelunch: error: ModuleNotFoundError: Could not import 'LlamaConfig'")
    (line,) = run.failed(1)
    assert line.startswith("stopped") and line.endswith("interrupted")
    assert run.stopped() == ["\nResume by ...\n"]


def test_of_a_group_the_job_that_stopped_has_failed(run):
    run.planned(1.0, 1.0, 1.0, queues=True)
    rules = ("reconstruct_window", "evaluate_cell", "collect_records")
    for number, rule in enumerate(rules, 1):
        assert run.job(number, rule, **CELL) == [f"queued    {rule} m/wanda-u50/recon_block/seed0"]
    assert {job.now() for job in run.story.running.values()} == {"in the queue"}
    run.writes(1, "INFO freelunch: 4/4 windows, done")
    run.writes(2, "ERROR freelunch: error: no")
    assert run.group_failed(1, 2, 3, logs=["slurm.log"]) == [
        "FAILED    evaluate_cell m/wanda-u50/recon_block/seed0, 0 s: no"
    ]
    assert [line for number in (1, 2, 3) for line in run.failed(number)] == []
    assert "slurm.log" in "".join(run.stopped()) and not run.story.running


def test_warnings_and_errors_of_snakemake_are_told_and_its_usual_words_are_not(run):
    for usual in ("Building DAG of jobs...", "No SLURM account given, ...", "Adding x (1 B)."):
        assert run.said(usual) == []
    assert run.said("Unlocked working directory.") == ["Unlocked working directory."]
    run.planned(1.0)
    for usual in ("Complete log(s): x", "Shutting down, this might take some time.", "Select ..."):
        assert run.said(usual) == []
    assert run.said("odd", logging.WARNING) == ["odd"]
    error = "WorkflowError:\nbad"
    assert run.said(error, logging.ERROR, "error") == [error]
    # Snakemake advises `--unlock`, which takes the locks of a run that is alive away.
    (locked,) = run.said(f"LockException:\n{LockException()}", logging.ERROR, "error")
    assert locked.startswith("Another run in this folder makes some")
    nothing = "Nothing to be done (all requested files are present and up to date)."
    assert run.said(nothing) == [nothing]


def test_a_dry_run_says_how_many_jobs_would_run_which_and_why(run):
    run.story = Story(dry_run=True)
    assert run.said("", event="run_info", stats={"all": 1, "fetch_text": 1, "total": 2}) == []
    run.job(1, "fetch_text", text="t")
    run.job(2, "all", log=False)
    # Snakemake gives both the same reason.
    run.job(3, "build_tables", "Forced execution; Input files updated by another job: x")
    for seed in range(1998):
        run.job(4 + seed, "evaluate_cell", **{**CELL, "seed": str(seed)})
    head, *jobs = run.story.would_run()
    assert head.startswith("2,000 jobs would run")
    assert jobs[:3] == [
        "  fetch_text t: Missing output files",
        "  build_tables: Forced, or left unfinished by an earlier run",
        "  evaluate_cell m/wanda-u50/recon_block/seed0: Missing output files",
    ]
    assert len(jobs) < 30 and "1,978 more" in jobs[-1]


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_a_terminal_has_a_bar_and_the_running_jobs_below_it(run, clock):
    stream = Terminal()
    screen = Screen(run.story, stream, colours=False)
    screen.show_bar()
    run.planned(3.0, 1.0).job(1, "evaluate_cell", **CELL)
    run.job(2, "fetch_text", text="t")
    clock.s += 30
    (line,) = run.finished(2)
    assert line == "finished  fetch_text t, 30 s", "the bar says how far the run is"
    run.writes(1, "INFO freelunch: 15/30 blocks (loss 2.5), 9 s gone, 9 s left")
    screen.say(line)
    screen.hide_bar()
    shown = stream.getvalue()
    assert "1 of 2 jobs, 62 %, about 18 s left" in shown
    assert "evaluate_cell m/wanda-u50/recon_block/seed0  15/30 blocks, 9 s gone, 9 s left" in shown


@pytest.mark.parametrize("said", [INTERRUPTED, TERMINATED, "Error in x"])
def test_an_interrupted_run_needs_no_fix(tmp_path, monkeypatch, said):
    monkeypatch.setenv(COMMAND, "make study")
    log = tmp_path / "x.snakemake.log"
    log.write_text(said)
    text = stopped_text([log])
    assert "    make study" in text.splitlines()
    interrupted = not said.startswith("Error")
    assert ("was interrupted" in text) == interrupted == ("Fix any error" not in text)


def python(code):
    environment = {key: value for key, value in os.environ.items() if key != "VERBOSE"}
    command = [sys.executable, "-c", code]
    return subprocess.run(command, env=environment, capture_output=True, text=True)


def test_what_jobs_say_goes_to_a_file_and_the_rest_to_the_terminal(tmp_path):
    done = python(
        "import subprocess, sys; from pathlib import Path\n"
        "from snakemake_logger_plugin_freelunch.screen import Capture\n"
        f"capture = Capture(Path({str(tmp_path / 'said')!r}))\n"
        "subprocess.run('echo out; echo err >&2', shell=True)\n"
        "print('for the person', file=sys.stderr)\n"
        "capture.end()\n"
        "subprocess.run('echo after', shell=True)\n"
    )
    assert (tmp_path / "said").read_text() == "out\nerr\n"
    assert (done.stdout, done.stderr) == ("after\n", "for the person\n")


def test_a_job_leaves_its_message_and_its_progress_in_its_log(tmp_path):
    """The layout of a log is the one that the terminal reads."""
    job = RunningJob("prune_model m", tmp_path / "prune_model" / "m.log")
    done = python(
        "from pathlib import Path\n"
        "from freelunch.core.errors import UserError\n"
        "from freelunch.core.job import JobSettings, running\n"
        f"settings = JobSettings(Path({str(job.log)!r}), 'prune_model m', 1, 'cpu', None, {{}})\n"
        "with running(settings) as job:\n"
        "    job.report(4, 8, 'windows')\n"
        "    job.report(8, 8, 'windows')\n"
        "    raise UserError('it is wrong', where='config.yaml', found=1, todo='mend it')\n"
    )
    assert done.returncode == 1
    line, share = job.last_line()
    assert line.startswith("8/8 windows, ") and share == 1.0
    assert job.error() == "config.yaml: it is wrong\n  found:    1\n  to do:    mend it"


def test_the_plugin_imports_nothing_of_the_library_before_a_snakefile_does():
    """It may be installed from another folder than the Snakefile's, whose library counts."""
    done = python(
        "import sys, logging; from types import SimpleNamespace\n"
        "from snakemake_logger_plugin_freelunch import LogHandler\n"
        "assert 'rich' not in sys.modules\n"
        "settings = SimpleNamespace(dryrun=False, stdout=False, nocolor=False)\n"
        "LogHandler(settings, None).emit(logging.makeLogRecord({'msg': 'x'}))\n"
        "assert not [name for name in sys.modules if name.partition('.')[0] == 'freelunch']\n"
    )
    assert done.returncode == 0, done.stderr
