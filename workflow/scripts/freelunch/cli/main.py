"""The command `freelunch`: write, check, plan and run studies, and look at what they made.

`freelunch --help` lists the commands. Each `make` target of the same name runs one of them.

Commands that read results import what they need when they run: scipy and the writer of the crate
would double the time that a plan takes to start.
"""

import inspect
import shlex
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from freelunch.cli import terminal
from freelunch.cli.check import check_study
from freelunch.cli.machine import assumed_machine, device_of, machine_of, this_machine
from freelunch.cli.new import write_study
from freelunch.cli.pin import pin_study
from freelunch.cli.run import (
    LOCAL,
    check_options,
    run_snakemake,
    runs_here,
    snakemake_command,
)
from freelunch.core.disk import disk_error
from freelunch.core.errors import DEFAULT_STUDY, UserError, mend, nearest
from freelunch.costs.checks import checked_plan
from freelunch.costs.machine import read_gigabytes, read_rate, read_tflops
from freelunch.costs.plan_text import device_table, plan_text
from freelunch.study.config import Part
from freelunch.study.open_study import open_study, part_of, read_study
from freelunch.study.schema import schema_text, settings_page
from freelunch.study.steps import RULES
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
    passes on Snakemake's. Completion of commands and studies: --install-completion.""",
)


def main() -> int:
    """Run one command; return the exit status."""
    words, options = sys.argv[1:], []
    # What follows `--` is Snakemake's.
    if words[:1] == ["run"] and "--" in words:
        place = words.index("--")
        words, options = words[:place], words[place + 1 :]
    try:
        app(words, prog_name="freelunch", obj=options)
    except SystemExit as ended:
        return int(ended.code or 0)
    except UserError as error:
        return _told(error)
    except OSError as error:
        if (known := disk_error(error)) is None:
            raise
        return _told(known)
    return 0


def _told(error: UserError) -> int:
    """Tell an error without control characters, which files can bring; return the exit status."""
    text = "".join(
        each if each.isprintable() or each == "\n" else repr(each)[1:-1] for each in str(error)
    )
    print(f"error: {text}", file=sys.stderr)  # noqa: T201
    return 1


# --- Arguments and options that several commands share


def _studies(incomplete: str) -> Iterator[str]:
    """Yield the study files here that begin like this, for completion."""
    for path in (Path(DEFAULT_STUDY), *sorted(Path("studies").glob("*.yaml"))):
        if path.is_file() and str(path).startswith(incomplete):
            yield str(path)


def _tflops(text: str) -> float:
    """Return a rate in TFLOP/s."""
    return read_tflops(text, "--tflops") / 1e12


def _rules(text: str) -> str:
    """Return names of rules, separated by spaces."""
    for name in text.split():
        if name not in RULES:
            raise typer.BadParameter(f"found {name}; expected {nearest(name, RULES)}")
    return text


def _bytes_per_s(text: str) -> float:
    try:
        return read_rate(text)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from error


DEFAULT = Path(DEFAULT_STUDY)
Study = Annotated[
    Path, typer.Argument(metavar="STUDY", help="The study's file.", autocompletion=_studies)
]
Models = Annotated[
    str | None,
    typer.Option(metavar="NAMES", help="Only these models, such as opt-125m,opt-1.3b."),
]
Claims = Annotated[
    str | None,
    typer.Option(metavar="NAMES", help="Only the grids of these claims, such as C1,C3."),
]
Seeds = Annotated[
    str | None, typer.Option(metavar="NUMBERS", help="Only these seeds, such as 0,1.")
]
Cores = Annotated[str, typer.Option(metavar="N", help="Cores of this machine to use, or all.")]
Profile = Annotated[
    str,
    typer.Option(
        metavar="PROFILE",
        help="A folder in workflow/profiles, such as slurm, or another's path.",
    ),
]
Scatter = Annotated[
    int | None,
    typer.Option(min=1, metavar="N", help="How many jobs share a reconstruction's windows."),
]
Tflops = Annotated[
    float | None,
    typer.Option(
        parser=_tflops,
        metavar="N",
        help="TFLOP/s of the machine that will run it. Default: measured on this one.",
    ),
]
Disk = Annotated[
    float | None,
    typer.Option(
        parser=_bytes_per_s,
        metavar="RATE",
        help="How fast its disk reads and writes, such as 500MB/s. Default: measured on this one.",
    ),
]
Network = Annotated[
    float | None,
    typer.Option(
        parser=_bytes_per_s, metavar="RATE", help="How fast its network is. Default: 100MB/s."
    ),
]
DeviceMemory = Annotated[
    str | None,
    typer.Option(metavar="GB", help="Memory of the GPU. Default: that of this machine's GPU."),
]
Elsewhere = Annotated[
    bool,
    typer.Option("--elsewhere", help="The study runs on another machine: ignore this one."),
]


@dataclass(frozen=True)
class Chosen:
    """The study that a command is about, or a part of it.

    Attributes:
        path: The study's file.
        part: The part; None for what the file says.
    """

    path: Path
    part: Part | None

    def open(self, pinned: bool = True) -> Opened:
        """Return the study with its pinned commits."""
        return open_study(self.path, self.part, pinned)

    def read(self) -> Opened:
        """Return the study as it is written."""
        return read_study(self.path, self.part)


def command_of_study(function: Callable[..., None]) -> Callable[..., None]:
    """Make a command of a function of a chosen study, with its name, docstring and options."""

    def command(
        *,
        study: Study = DEFAULT,
        models: Models = None,
        claims: Claims = None,
        seeds: Seeds = None,
        **options: Any,
    ) -> None:
        function(Chosen(study, part_of(models, claims, seeds)), **options)

    shared = list(inspect.signature(command).parameters.values())[:-1]
    own = list(inspect.signature(function).parameters.values())[1:]
    parameters = [each.replace(kind=inspect.Parameter.KEYWORD_ONLY) for each in [*shared, *own]]
    command.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    app.command(function.__name__, help=inspect.getdoc(function))(command)
    return function


# --- Commands


@app.command()
def new(
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
    device, computes = (None, "") if elsewhere else device_of(None, None)
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
    terminal.show(plan_text(checked_plan(open_study(written.path), device, computes), machine))
    terminal.show(
        f"Written: {path}. Look at it, then run it: make study STUDY={path}\n"
        f"(or, in the activated environment: freelunch run {path})"
    )


@command_of_study
def pin(chosen: Chosen) -> None:
    """Pin a study's branches and tags to commits.

    A study may name a branch or a tag of a model or a dataset on the Hugging Face hub. A run needs
    its commit, since branches move. This asks the hub for it, and writes it into a file beside the
    study. Pins that are already there stay.
    """
    for line in pin_study(chosen.read()):
        terminal.show(line)


@command_of_study
def check(
    chosen: Chosen,
    device_memory: DeviceMemory = None,
    elsewhere: Elsewhere = False,
) -> None:
    """Check a study and what it needs.

    It checks settings, files, models, texts, downloads, memory and disk. If all is well, one line
    says so.
    """
    # A check for another machine asks no hub, so it needs no pins, which that machine may have.
    _check(chosen.open(pinned=not elsewhere), device_memory, elsewhere, fetches=not elsewhere)


@command_of_study
def plan(
    chosen: Chosen,
    tflops: Tflops = None,
    disk: Disk = None,
    network: Network = None,
    device_memory: DeviceMemory = None,
) -> None:
    """Predict time, memory and disk of a study.

    It shows what a study will run, and runs nothing.
    """
    device, computes = device_of(device_memory, tflops)
    machine = machine_of(tflops, disk, network, device)
    terminal.show(plan_text(checked_plan(chosen.read(), device, computes), machine))


@command_of_study
def run(
    chosen: Chosen,
    context: typer.Context,
    cores: Cores = "all",
    profile: Profile = LOCAL,
    force: Annotated[
        str | None,
        typer.Option(
            parser=_rules,
            metavar="RULE",
            help="Run a rule again, and all that follows from it.",
        ),
    ] = None,
    scatter: Scatter = None,
    tflops: Tflops = None,
    device_memory: DeviceMemory = None,
    elsewhere: Elsewhere = False,
) -> None:
    """Check, run and summarise a study.

    The same command resumes a study that was stopped. Options for Snakemake come after --:

    \b
      freelunch run STUDY -- --dry-run
    """
    options: list[str] = context.obj
    check_options(options)
    elsewhere = elsewhere or not runs_here(profile) or tflops is not None
    command = snakemake_command(
        str(chosen.path), profile, cores, scatter, tflops, device_memory, chosen.part
    )
    # Downloads run here, also if jobs run elsewhere.
    _check(chosen.open(), device_memory, elsewhere, fetches=True)
    command[1:1] = ["--forcerun", *force.split()] if force else []
    # With options for Snakemake, the command may run only a part of the study, or nothing.
    status = run_snakemake([*command, *options], summary=bool(options))
    if status == 0 and not options:
        print()  # noqa: T201
        _show_summary(chosen.open())
    raise typer.Exit(status)


@command_of_study
def summary(chosen: Chosen) -> None:
    """Show what a study found, in a few lines."""
    from freelunch.audit.output_checks import check_finished

    study = chosen.open()
    check_finished(study)
    _show_summary(study)


@command_of_study
def interim(chosen: Chosen) -> None:
    """Show the results of the finished cells of an unfinished study.

    It writes their tables, figures and verdicts, and a page that shows them, to the folder
    `interim` of the study's results. The study may be running.
    """
    from freelunch.cli.interim import interim_text

    terminal.show(interim_text(chosen.open()))


@command_of_study
def audit(chosen: Chosen) -> None:
    """Show the verdicts, and the path of their page."""
    from freelunch.cli.summary import audit_text

    terminal.show(audit_text(chosen.open()))


@command_of_study
def verify(chosen: Chosen) -> None:
    """Say what is damaged or missing in a study.

    It reads all that the study made. The exit status is 1 if anything is damaged or missing.
    """
    from freelunch.cli.verify import verify

    study = chosen.open()
    lines, whole = verify(study)
    print(lines)  # noqa: T201
    if not whole:
        raise UserError("the results are not whole", where=study.paths.root, todo=mend())


@command_of_study
def repair(
    chosen: Chosen,
    cores: Cores = "all",
    profile: Profile = LOCAL,
    scatter: Scatter = None,
    tflops: Tflops = None,
    device_memory: DeviceMemory = None,
) -> None:
    """Make again what is damaged or missing."""
    from freelunch.cli.verify import repair

    command = snakemake_command(
        str(chosen.path), profile, cores, scatter, tflops, device_memory, chosen.part
    )
    repair(chosen.open(), [*command, "--"])


@command_of_study
def tidy(
    chosen: Chosen,
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
    terminal.show(tidy(chosen.open(pinned=False), dry_run))


@app.command()
def compare(
    first: Annotated[str, typer.Argument(metavar="A", help="A study, its results, or records.")],
    second: Annotated[str, typer.Argument(metavar="B", help="Another one.")],
) -> None:
    """Say which cells of two runs differ, and why."""
    from freelunch.audit.compare import compare_runs, comparison_text, records_of_run

    runs = map(records_of_run, (first, second))
    print(comparison_text(compare_runs(*runs)))  # noqa: T201


@command_of_study
def devices(
    chosen: Chosen,
    device_memory: Annotated[
        list[str],
        typer.Option(metavar="GB", help="Memory of a GPU; give it once for each size."),
    ],
    tflops: Tflops = None,
    disk: Disk = None,
    network: Network = None,
) -> None:
    """Tabulate the time and memory of adaptations on GPUs."""
    sizes = [read_gigabytes(size, "--device-memory") for size in device_memory]
    table = device_table(chosen.read(), machine_of(tflops, disk, network), sizes)
    print(table, end="")  # noqa: T201


@app.command()
def name(study: Study = DEFAULT) -> None:
    """Print a study's name."""
    print(read_study(study).name)  # noqa: T201


@app.command()
def schema() -> None:
    """Print the JSON Schema of a study's file."""
    print(schema_text(), end="")  # noqa: T201


@app.command()
def settings() -> None:
    """Print the reference of all settings."""
    print(settings_page(), end="")  # noqa: T201


def _show_summary(study: Opened) -> None:
    from freelunch.cli.summary import summary

    terminal.show(summary(study))


def _check(study: Opened, device_memory: str | None, elsewhere: bool, fetches: bool) -> None:
    machine = None if elsewhere else this_machine(device_of(device_memory, None)[0])
    terminal.show(check_study(study, machine, fetches=fetches))
