"""The command `freelunch`: write, check, plan and run studies, and look at what they made.

`freelunch --help` lists the commands. Each `make` target of the same name runs one of them.

Commands that read results import what they need when they run: scipy and the writer of the crate
would double the time that a plan takes to start.
"""

import shlex
import sys
from functools import partial
from typing import Annotated

import typer

# The classes of usage errors are public in click, but not in typer, which has its own copy.
from typer._click.exceptions import ClickException, NoArgsIsHelpError, UsageError

from freelunch.cli import terminal
from freelunch.cli.check import check_study, this_machine
from freelunch.cli.machine import assumed_machine, device_of, machine_of
from freelunch.cli.new import write_study
from freelunch.cli.options import (
    DEFAULT,
    Claims,
    Command,
    Cores,
    DeviceMemory,
    Disk,
    Elsewhere,
    Force,
    Models,
    Network,
    Profile,
    Scatter,
    Seeds,
    Study,
    Tflops,
)
from freelunch.cli.pin import pin_study
from freelunch.cli.run import (
    LOCAL,
    check_options,
    run_snakemake,
    runs_here,
    snakemake_command,
)
from freelunch.core.disk import disk_error
from freelunch.core.errors import UserError, mend
from freelunch.costs.device_table import device_table
from freelunch.costs.machine import read_gigabytes
from freelunch.costs.plan import Plan
from freelunch.costs.plan_text import plan_text
from freelunch.study.choice import open_study, part_of, read_study
from freelunch.study.reference import reference
from freelunch.study.schema import schema_text
from freelunch.study.study import Study as Opened

# Without colours and frames, help and errors are plain text everywhere.
app = typer.Typer(
    name="freelunch",
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    help="""Prune a language model, adapt it, and measure what that costs.

    \b
    A study is one YAML file. From a model and a text to a page of results:
      freelunch new ~/models/mine ~/notes.txt    writes studies/mine-notes.yaml
      freelunch plan studies/mine-notes.yaml     predicts time, memory and disk
      freelunch run studies/mine-notes.yaml      runs it, or resumes it
      freelunch audit studies/mine-notes.yaml    prints the verdicts and the page's path

    Without STUDY, commands use config.yaml. Exit status: 0 done, 1 error, 2 wrong usage; `run`
    passes on Snakemake's. Completion of commands, studies and rules: --install-completion.""",
)
command = partial(app.command, cls=Command)


def main() -> int:
    """Run one command; return the exit status."""
    # What follows `--` is Snakemake's.
    given, _, options = _partition(sys.argv[1:], "--")
    try:
        if options and given[:1] != ["run"]:
            raise UsageError("Options after -- are Snakemake's, which only `freelunch run` starts")
        status = app(given, prog_name="freelunch", standalone_mode=False, obj=options)
    except NoArgsIsHelpError as shown:
        print(shown.format_message(), file=sys.stderr)  # noqa: T201
        return 2
    except ClickException as error:
        print(f"error: {_usage(error, given)}", file=sys.stderr)  # noqa: T201
        return 2
    except UserError as error:
        print(f"error: {_printable(error)}", file=sys.stderr)  # noqa: T201
        return 1
    except OSError as error:
        if (known := disk_error(error)) is None:
            raise
        print(f"error: {_printable(known)}", file=sys.stderr)  # noqa: T201
        return 1
    return status or 0


def _printable(error: UserError) -> str:
    """Return a message whose control characters, which files can bring, reach no terminal."""
    return "".join(
        each if each.isprintable() or each == "\n" else repr(each)[1:-1] for each in str(error)
    )


def _partition(words: list[str], at: str) -> tuple[list[str], list[str], list[str]]:
    place = words.index(at) if at in words else len(words)
    return words[:place], words[place : place + 1], words[place + 1 :]


def _usage(error: ClickException, given: list[str]) -> str:
    """Return a usage error and a hint in one line."""
    said = " ".join(error.format_message().split()).rstrip(".?")
    said, asked, meant = said.partition("Did you mean ")
    said += asked + " or ".join(meant.rsplit(", ", 1))
    then = "?" if asked else ";"
    names = [each.name for each in app.registered_commands]
    if given and given[0] in names:
        return f"{said}{then} `freelunch {given[0]} --help` shows how"
    return f"{said}{then} `freelunch --help` lists the commands"


@command("new")
def new_command(
    model: Annotated[
        str,
        typer.Argument(
            metavar="MODEL",
            help="A folder with config.json, tokenizer and safetensors; a GGUF file; or a model on "
            "the Hugging Face hub, as owner/name.",
        ),
    ],
    text: Annotated[
        str,
        typer.Argument(
            metavar="TEXT",
            help="A file: plain text, JSON Lines or the XML export of a wiki, compressed (.gz, "
            ".bz2) or not, or Parquet.",
        ),
    ],
    name: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="The study's name. Default: both names, joined."),
    ] = None,
    evaluation: Annotated[
        str | None,
        typer.Option(metavar="TEXT", help="A text to evaluate on. Default: the same text."),
    ] = None,
    elsewhere: Elsewhere = False,
) -> None:
    """Write a study of your own model and text.

    It looks at the model and the text, chooses settings that fit them and this machine, says why in
    comments, and shows the plan. How busy the machine is does not matter. It runs nothing, and
    never overwrites an existing study.
    """
    device, said = (None, "") if elsewhere else device_of(None, None)
    machine = None if elsewhere else assumed_machine(device)
    written = write_study(model, text, name, evaluation, machine)
    for line in written.about:
        terminal.show(line)
    path = shlex.quote(str(written.path))
    if machine is None:
        terminal.show(
            f"Written: {path}, without a plan, since nothing is known of the other machine. "
            f"Describe it to see one:\n  make plan STUDY={path} TFLOPS=400 DEVICE_MEMORY=80"
        )
        return
    terminal.show(plan_text(Plan.of(open_study(written.path), device, said), machine))
    terminal.show(
        f"Written: {path}. Look at it, then run it: make study STUDY={path}\n"
        f"(or, in the activated environment: freelunch run {path})"
    )


@command("pin")
def pin_command(
    study: Study = DEFAULT, models: Models = None, claims: Claims = None, seeds: Seeds = None
) -> None:
    """Pin a study's branches and tags to commits.

    A study may name a branch or a tag of a model or a dataset on the Hugging Face hub. A run needs
    its commit, since branches move. This asks the hub for it, and writes it into a file beside the
    study. Pins that are already there stay.
    """
    for line in pin_study(read_study(study, part_of(models, claims, seeds))):
        terminal.show(line)


@command("check")
def check_command(
    study: Study = DEFAULT,
    models: Models = None,
    claims: Claims = None,
    seeds: Seeds = None,
    device_memory: DeviceMemory = None,
    elsewhere: Elsewhere = False,
) -> None:
    """Check a study and what it needs.

    It checks settings, files, models, texts, downloads, memory and disk. If all is well, one line
    says so.
    """
    # A check for another machine asks no hub, so it needs no pins, which that machine may have.
    opened = open_study(study, part_of(models, claims, seeds), pinned=not elsewhere)
    _check(opened, device_memory, elsewhere, fetches=not elsewhere)


@command("plan")
def plan_command(
    study: Study = DEFAULT,
    models: Models = None,
    claims: Claims = None,
    seeds: Seeds = None,
    tflops: Tflops = None,
    disk: Disk = None,
    network: Network = None,
    device_memory: DeviceMemory = None,
) -> None:
    """Predict time, memory and disk of a study.

    It shows what a study will run, and runs nothing.
    """
    opened = read_study(study, part_of(models, claims, seeds))
    device, said = device_of(device_memory, tflops)
    machine = machine_of(tflops, disk, network, device)
    terminal.show(plan_text(Plan.of(opened, device, said), machine))


@command("run")
def run_command(
    context: typer.Context,
    study: Study = DEFAULT,
    models: Models = None,
    claims: Claims = None,
    seeds: Seeds = None,
    cores: Cores = "all",
    profile: Profile = LOCAL,
    force: Force = None,
    scatter: Scatter = None,
    tflops: Tflops = None,
    device_memory: DeviceMemory = None,
    elsewhere: Elsewhere = False,
) -> int:
    """Check, run and summarise a study.

    The same command resumes a study that was stopped. Options for Snakemake come after --:

    \b
      freelunch run STUDY -- --dry-run
    """
    check_options(context.obj or [])
    elsewhere = elsewhere or not runs_here(profile) or tflops is not None
    part = part_of(models, claims, seeds)
    started = snakemake_command(str(study), profile, cores, scatter, tflops, device_memory, part)
    # Downloads run here, also if jobs run elsewhere.
    _check(open_study(study, part), device_memory, elsewhere, fetches=True)
    started[1:1] = ["--forcerun", *force.split()] if force else []
    started += context.obj or []
    # With options for Snakemake, the command may run only a part of the study, or nothing.
    status = run_snakemake(started, summary=bool(context.obj))
    if status == 0 and not context.obj:
        print()  # noqa: T201
        _show_summary(open_study(study, part))
    return status


@command("summary")
def summary_command(
    study: Study = DEFAULT, models: Models = None, claims: Claims = None, seeds: Seeds = None
) -> None:
    """Show what a study found, in a few lines."""
    from freelunch.audit.output_checks import check_finished

    opened = open_study(study, part_of(models, claims, seeds))
    check_finished(opened)
    _show_summary(opened)


@command("interim")
def interim_command(
    study: Study = DEFAULT, models: Models = None, claims: Claims = None, seeds: Seeds = None
) -> None:
    """Show the results of the finished cells of an unfinished study.

    It writes their tables, figures and verdicts, and a page that shows them, to the folder
    `interim` of the study's results. The study may be running.
    """
    from freelunch.cli.interim import interim_text

    terminal.show(interim_text(open_study(study, part_of(models, claims, seeds))))


@command("audit")
def audit_command(
    study: Study = DEFAULT, models: Models = None, claims: Claims = None, seeds: Seeds = None
) -> None:
    """Show the verdicts, and the path of their page."""
    from freelunch.cli.audit import audit_text

    terminal.show(audit_text(open_study(study, part_of(models, claims, seeds))))


@command("verify")
def verify_command(
    study: Study = DEFAULT, models: Models = None, claims: Claims = None, seeds: Seeds = None
) -> None:
    """Say what is damaged or missing in a study.

    It reads all that the study made. The exit status is 1 if anything is damaged or missing.
    """
    from freelunch.cli.verify import verify

    opened = open_study(study, part_of(models, claims, seeds))
    lines, whole = verify(opened)
    print(lines)  # noqa: T201
    if not whole:
        raise UserError("the results are not whole", where=opened.paths.root, todo=mend())


@command("repair")
def repair_command(
    study: Study = DEFAULT,
    models: Models = None,
    claims: Claims = None,
    seeds: Seeds = None,
    cores: Cores = "all",
    profile: Profile = LOCAL,
    scatter: Scatter = None,
    tflops: Tflops = None,
    device_memory: DeviceMemory = None,
) -> None:
    """Make again what is damaged or missing."""
    from freelunch.cli.verify import repair

    part = part_of(models, claims, seeds)
    started = snakemake_command(str(study), profile, cores, scatter, tflops, device_memory, part)
    repair(open_study(study, part), [*started, "--"])


@command("tidy")
def tidy_command(
    study: Study = DEFAULT,
    models: Models = None,
    claims: Claims = None,
    seeds: Seeds = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only say what would be removed.")
    ] = False,
) -> None:
    """Remove the candidates of finished cells.

    They take most of the disk of a search. Their adapted blocks and checkpoints go; the cells keep
    those of the chosen ones, and the measurements by which they were chosen. Nothing runs again
    because of it. The study may be running.
    """
    from freelunch.cli.tidy import tidy

    # Without a pin, a cell has no record that is its own, and keeps what it has.
    opened = open_study(study, part_of(models, claims, seeds), pinned=False)
    terminal.show(tidy(opened, dry_run))


@command("compare")
def compare_command(
    first: Annotated[str, typer.Argument(metavar="A", help="A study, its results, or records.")],
    second: Annotated[str, typer.Argument(metavar="B", help="Another one.")],
) -> None:
    """Say which cells of two runs differ, and why."""
    from freelunch.audit.compare import compare_runs, comparison_text, records_of_run

    runs = map(records_of_run, (first, second))
    print(comparison_text(compare_runs(*runs)))  # noqa: T201


@command("devices")
def devices_command(
    device_memory: Annotated[
        list[str],
        typer.Option(metavar="GB", help="Memory of a GPU; give it once for each size."),
    ],
    study: Study = DEFAULT,
    models: Models = None,
    claims: Claims = None,
    seeds: Seeds = None,
    tflops: Tflops = None,
    disk: Disk = None,
    network: Network = None,
) -> None:
    """Tabulate the time and memory of adaptations on GPUs."""
    sizes = [read_gigabytes(given, "--device-memory") for given in device_memory]
    opened = read_study(study, part_of(models, claims, seeds))
    table = device_table(opened, machine_of(tflops, disk, network), sizes)
    print(table, end="")  # noqa: T201


@command("name")
def name_command(study: Study = DEFAULT) -> None:
    """Print a study's name."""
    print(read_study(study).name)  # noqa: T201


@command("schema")
def schema_command() -> None:
    """Print the JSON Schema of a study's file."""
    print(schema_text(), end="")  # noqa: T201


@command("settings")
def settings_command() -> None:
    """Print the reference of all settings."""
    print(reference(), end="")  # noqa: T201


def _show_summary(study: Opened) -> None:
    from freelunch.cli.summary import summary

    terminal.show(summary(study, sys.stdout))


def _check(study: Opened, device_memory: str | None, elsewhere: bool, fetches: bool) -> None:
    machine = None if elsewhere else this_machine(device_of(device_memory, None)[0])
    terminal.show(check_study(study, machine, fetches=fetches))
