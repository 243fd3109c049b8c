"""The command `freelunch`: write, check, plan and run studies, and look at what they made.

`freelunch --help` lists the commands. Each `make` target of the same name runs one of them.

Commands that read results import what they need when they run: scipy would double the time that a
plan takes to start.
"""

import inspect
import shlex
import sys
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from freelunch.cli.check import check_study
from freelunch.cli.new import write_study
from freelunch.cli.options import (
    DEFAULT,
    Chosen,
    DeviceMemory,
    Disk,
    Elsewhere,
    Network,
    Running,
    StudyFile,
    Tflops,
    argument,
    device_of,
    machine_of,
    option,
    rules_in,
)
from freelunch.cli.run import check_options, run_snakemake
from freelunch.core.artifact import Artifact
from freelunch.core.devices import memory_bytes
from freelunch.core.errors import UserError, disk_error, mend
from freelunch.core.units import amount
from freelunch.costs.checks import checked_plan
from freelunch.costs.machine import Machine
from freelunch.costs.plan_text import plan_text
from freelunch.data.hub import newest_commit
from freelunch.study.open_study import open_study, read_study
from freelunch.study.pins import PINS, pin_name, read_pins, unpinned
from freelunch.study.schema import schema_text, settings_page
from freelunch.study.study import Study

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
    passes on Snakemake's. Completion of commands and files: --install-completion.""",
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
    except (UserError, OSError) as error:
        known = error if isinstance(error, UserError) else disk_error(error)
        if known is None:
            raise
        # Files can bring control characters.
        shown = (
            each if each.isprintable() or each == "\n" else repr(each)[1:-1] for each in str(known)
        )
        print(f"error: {''.join(shown)}", file=sys.stderr)  # noqa: T201
        return 1
    return 0


def _show(text: str, end: str = "\n") -> None:
    print(text, end=end, flush=True)  # noqa: T201


def command_of_study(function: Callable[..., None]) -> Callable[..., None]:
    """Make a command of a function. The fields of its first argument are options, too."""
    first, *others = inspect.signature(function).parameters.values()
    kind = inspect.Parameter.KEYWORD_ONLY

    def command(**options: Any) -> None:
        chosen = {each.name: options.pop(each.name) for each in fields(first.annotation)}
        function(first.annotation(**chosen), **options)

    parameters = [
        inspect.Parameter(each.name, kind, default=each.default, annotation=each.type)
        for each in fields(first.annotation)
    ]
    parameters += [each.replace(kind=kind) for each in others]
    command.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    app.command(function.__name__, help=inspect.getdoc(function))(command)
    return function


@app.command()
def new(
    model: Annotated[
        str, argument("MODEL", "A folder, a GGUF file, or owner/name on the Hugging Face hub.")
    ],
    text: Annotated[
        list[str],
        argument(
            "TEXT...",
            "Files or folders: text or JSON Lines, also .gz; or Parquet. Or "
            "a text of config/registry.yaml; or owner/name:file, of a dataset on the hub.",
        ),
    ],
    name: Annotated[
        str | None, option("NAME", "The study's name. Default: both names, joined.")
    ] = None,
    evaluation: Annotated[
        str | None, option("TEXT", "A text to evaluate on, given as TEXT. Default: the same text.")
    ] = None,
    elsewhere: Elsewhere = False,
) -> None:
    """Write a study of your own model and text.

    It looks at the model and the text, chooses settings that fit them and this machine, says why in
    comments, and shows the plan. How busy the machine is does not matter. It runs nothing, and
    never overwrites an existing study.
    """
    device, computes = (None, "") if elsewhere else device_of(None, None)
    machine = None if elsewhere else machine_of(device, measures=False)
    path, about = write_study(model, text, name, evaluation, machine)
    _show("\n".join(about))
    file = shlex.quote(str(path))
    if machine is None:
        _show(
            f"Written: {file}, without a plan, since nothing is known of the other machine. "
            f"Describe it to see one:\n  make plan STUDY={file} TFLOPS=400 DEVICE_MEMORY=80"
        )
        return
    _show(plan_text(checked_plan(open_study(path), device, computes), machine))
    _show(
        f"Written: {file}. Look at it, then run it: make study STUDY={file}\n"
        f"(or, in the activated environment: freelunch run {file})"
    )


@command_of_study
def pin(chosen: Chosen) -> None:
    """Pin a study's branches and tags to commits.

    A study may name a branch or a tag of a model or a dataset on the Hugging Face hub. A run needs
    its commit, since branches move. This asks the hub for it, and writes it into `pins.yaml`. Pins
    that are already there stay.
    """
    pins = read_pins()
    for where, entry in unpinned(chosen.read()).items():
        pin = pin_name(entry)
        if pin not in pins.commits:
            pins.commits[pin] = newest_commit(where, entry)
            # What follows may not be on the hub.
            pins.write()
        _show(f"{where}: {pin} is {pins.commits[pin]}")
    _show(f"All branches and tags are pinned in {PINS}. Keep it with the study.")


@command_of_study
def check(chosen: Chosen, device_memory: DeviceMemory = None, elsewhere: Elsewhere = False) -> None:
    """Check a study and what it needs.

    It checks settings, files, models, texts, downloads, memory and disk. If all is well, one line
    says so.
    """
    # A check for another machine asks no hub, so it needs no pins, which that machine may have.
    _check(chosen.open(pinned=not elsewhere), device_memory, elsewhere, fetches=not elsewhere)


def _check(study: Study, device_memory: str | None, elsewhere: bool, fetches: bool) -> None:
    machine = None if elsewhere else this_machine(device_of(device_memory, None)[0])
    _show(check_study(study, machine, fetches=fetches))


def this_machine(device_bytes: int | None) -> Machine:
    """Return this machine as far as memory goes; its rates are not measured."""
    return Machine(1.0, 1.0, 1.0, memory_bytes(), device_bytes)


@command_of_study
def plan(
    chosen: Chosen,
    tflops: Tflops = None,
    disk: Disk = None,
    network: Network = None,
    device_memory: DeviceMemory = None,
) -> None:
    """Predict time, memory and disk of a study. It runs nothing."""
    device, computes = device_of(device_memory, tflops)
    machine = machine_of(device, tflops, disk, network)
    _show(plan_text(checked_plan(chosen.read(), device, computes), machine))


@command_of_study
def run(
    chosen: Running,
    context: typer.Context,
    force: Annotated[
        str | None,
        option("RULE", "Run a rule again, and all that follows from it.", parser=rules_in),
    ] = None,
    elsewhere: Elsewhere = False,
) -> None:
    """Check, run and summarise a study.

    The same command resumes a study that was stopped. Options for Snakemake come after --:

    \b
      freelunch run STUDY -- --dry-run
    """
    options: list[str] = context.obj
    check_options(options)
    command = chosen.command()
    elsewhere = elsewhere or not chosen.runs_here or chosen.tflops is not None
    # Downloads run here, also if jobs run elsewhere.
    _check(chosen.open(), chosen.device_memory, elsewhere, fetches=True)
    command[1:1] = ["--forcerun", *force.split()] if force else []
    # With options for Snakemake, the command may run only a part of the study, or nothing.
    status = run_snakemake([*command, *options], summary=bool(options))
    if status == 0 and not options:
        from freelunch.cli.summary import summary

        _show(f"\n{summary(chosen.open())}")
    raise typer.Exit(status)


@command_of_study
def summary(chosen: Chosen) -> None:
    """Show what a study found, in a few lines."""
    from freelunch.audit.output_checks import check_finished
    from freelunch.cli.summary import summary

    study = chosen.open()
    check_finished(study)
    _show(summary(study))


@command_of_study
def interim(chosen: Chosen) -> None:
    """Show the results of the finished cells of a study.

    It writes their tables, figures and verdicts, and a page that shows them, to the folder
    `interim` of the study's results. The study may be running.
    """
    from freelunch.cli.summary import interim_text

    _show(interim_text(chosen.open()))


@command_of_study
def audit(chosen: Chosen) -> None:
    """Show the verdicts, and the path of their page."""
    from freelunch.cli.summary import audit_text

    _show(audit_text(chosen.open()))


@command_of_study
def verify(chosen: Chosen) -> None:
    """Say what is damaged or missing in a study. If anything is, the exit status is 1."""
    from freelunch.cli.verify import verify

    study = chosen.open()
    lines, whole = verify(study)
    _show(lines)
    if not whole:
        raise UserError("the results are not whole", where=study.paths.root, todo=mend())


@command_of_study
def repair(chosen: Running) -> None:
    """Make again what is damaged or missing."""
    from freelunch.cli.verify import repair

    repair(chosen.open(), [*chosen.command(), "--"])


@command_of_study
def tidy(chosen: Chosen) -> None:
    """Remove the candidates of finished cells.

    Their adapted blocks and checkpoints take most of the disk of a search. The cells keep those of
    the chosen ones, and all measurements. Nothing runs again. The study may be running.
    """
    from freelunch.cli.verify import tidy

    # Without a pin, a cell has no record that is its own, and keeps what it has.
    _show(tidy(chosen.open(pinned=False)))


@command_of_study
def archive(chosen: Chosen) -> None:
    """Write a finished study, its code and how to check both into one file, to be deposited."""
    from freelunch.cli.archive import write_archive

    _show(f"Written: {write_archive(chosen.open())}. Its README.md says how others check it.")


@app.command()
def export(
    checkpoint: Annotated[
        Path, argument("CHECKPOINT", "The folder of a cell's checkpoint, or of a packed one.")
    ],
    target: Annotated[Path, argument("TARGET", "A folder that is not there yet.")],
    to: Annotated[
        Literal["packed", "plain", "cut"], option("FORM", "packed, plain or cut.")
    ] = "packed",
) -> None:
    """Write a checkpoint as small as its zeros allow.

    \b
      packed  a bit for each weight, and the values of those that are not zero: smaller on disk
      plain   what was packed, the same to the bit, to be loaded by transformers
      cut     without heads and channels that are zero: smaller and faster, loads like any other
    """
    from freelunch.pruning.export import export

    made = export(checkpoint, target, to)
    sizes = [
        sum(entry["bytes"] for name, entry in each.files.items() if name.endswith(".safetensors"))
        for each in (Artifact(checkpoint, None), made)
    ]
    _show(f"Written: {target}, {amount(sizes[1])} of tensors instead of {amount(sizes[0])}.")


@app.command()
def compare(
    first: Annotated[str, argument("A", "A study, its results, or records.")],
    second: Annotated[str, argument("B", "Another one.")],
) -> None:
    """Say which cells of two runs differ, and why."""
    from freelunch.audit.compare import comparison_text, records_of_run

    _show(comparison_text(records_of_run(first), records_of_run(second)))


@app.command()
def name(study: StudyFile = DEFAULT) -> None:
    """Print a study's name."""
    _show(read_study(study).name)


@app.command()
def schema() -> None:
    """Print the JSON Schema of a study's file."""
    _show(schema_text(), end="")


@app.command()
def settings() -> None:
    """Print the reference of all settings."""
    _show(settings_page(), end="")
