"""Inspect studies without running them.

    python -m freelunch plan | summary | verify | check | name [config]
    python -m freelunch repair [config] [--run COMMAND]
    python -m freelunch devices [config] --device-memory GB [GB ...]
    python -m freelunch compare A B
    python -m freelunch schema | settings

`verify` reads all that a study made, and prints a line for each kind; the exit status is 1 if
anything is damaged or missing. `repair` makes that again, by the command that runs Snakemake.
`devices` prints a table of what adaptations take on GPUs of these sizes. `compare` takes two of
these: a config, a folder of results, a folder of records. `schema` prints the JSON Schema of a
study's file. `settings` prints the reference of all settings.
"""

import argparse
import shlex
import sys
from collections.abc import Callable
from math import inf
from pathlib import Path

from freelunch.cli import terminal
from freelunch.cli.verify import repair, verify
from freelunch.core.devices import device_text, visible_devices
from freelunch.core.disk import disk_error
from freelunch.core.errors import DEFAULT_STUDY, UserError, mend
from freelunch.costs.device_table import device_table
from freelunch.costs.machine import Machine, read_gigabytes, read_rate
from freelunch.costs.plan import Plan
from freelunch.costs.plan_text import plan_text
from freelunch.study.choice import open_study
from freelunch.study.reference import reference
from freelunch.study.schema import schema_text


def main() -> int:
    """Run one command; return the exit status."""
    parser = argparse.ArgumentParser(
        prog="freelunch", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest="command", required=True)
    for name in _COMMANDS:
        command = commands.add_parser(name)
        if name == "compare":
            command.add_argument("runs", nargs=2, metavar="RUN")
        if name in ("compare", "schema", "settings"):
            continue
        command.add_argument("config", nargs="?", type=Path, default=Path(DEFAULT_STUDY))
        if name == "repair":
            command.add_argument(
                "--run",
                metavar="COMMAND",
                help="the command that runs Snakemake (default: snakemake --cores all, with this "
                "study)",
            )
        if name in ("plan", "devices"):
            command.add_argument(
                "--tflops",
                type=rate,
                metavar="N",
                help="TFLOP/s of the machine that will run it (default: measured on this one)",
            )
            command.add_argument(
                "--disk",
                type=read_rate,
                metavar="RATE",
                help="what its disk reads and writes, e.g. 500MB/s (default: measured on this one)",
            )
            command.add_argument(
                "--network", type=read_rate, metavar="RATE", help="its network (default: 100MB/s)"
            )
            command.add_argument(
                "--device-memory",
                metavar="GB",
                nargs="+" if name == "devices" else None,
                required=name == "devices",
                help="memory of its GPU in GB (default: its processor computes)",
            )
    arguments = parser.parse_args()
    try:
        return _COMMANDS[arguments.command](arguments) or 0
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)  # noqa: T201
        return 1
    except OSError as error:
        if (known := disk_error(error)) is None:
            raise
        print(f"error: {known}", file=sys.stderr)  # noqa: T201
        return 1


def rate(text: str) -> float:
    """Return the rate in an argument; argparse turns a ValueError into an error message."""
    number = float(text)
    if not 0 < number < inf:
        raise ValueError
    return number


def _check(arguments: argparse.Namespace) -> None:
    Plan.of(open_study(arguments.config))


def _plan(arguments: argparse.Namespace) -> None:
    given, study = arguments.device_memory, open_study(arguments.config)
    device: int | None
    if given is not None:
        device, text = read_gigabytes(given, "--device-memory"), f"a GPU of {given} GB, as given"
    else:
        # With another machine's rate, the plan is for that machine.
        found = [] if arguments.tflops else visible_devices()
        device = min((each.memory_bytes for each in found), default=None)
        text = "cpu, as no GPU is given" if arguments.tflops else device_text(found)
    terminal.say(plan_text(Plan.of(study, device, text), _machine(arguments, device)))


def _devices(arguments: argparse.Namespace) -> None:
    sizes = [read_gigabytes(given, "--device-memory") for given in arguments.device_memory]
    table = device_table(open_study(arguments.config), _machine(arguments), sizes)
    print(table, end="")  # noqa: T201


def _machine(arguments: argparse.Namespace, device_bytes: int | None = None) -> Machine:
    flops = arguments.tflops and arguments.tflops * 1e12
    return Machine.of(flops, arguments.disk, arguments.network, device_bytes)


def _summary(arguments: argparse.Namespace) -> None:
    terminal.say(terminal.summary(open_study(arguments.config)))


def _verify(arguments: argparse.Namespace) -> int:
    lines, whole = verify(open_study(arguments.config))
    print(lines)  # noqa: T201
    if not whole:
        print(f"error: to do: {mend()}", file=sys.stderr)  # noqa: T201
    return 0 if whole else 1


def _repair(arguments: argparse.Namespace) -> None:
    study = open_study(arguments.config)
    default = f"snakemake --cores all --config study={shlex.quote(study.source)} --"
    repair(study, shlex.split(arguments.run or default))


def _name(arguments: argparse.Namespace) -> None:
    print(open_study(arguments.config).name)  # noqa: T201


def _schema(arguments: argparse.Namespace) -> None:
    print(schema_text(), end="")  # noqa: T201


def _settings(arguments: argparse.Namespace) -> None:
    print(reference(), end="")  # noqa: T201


def _compare(arguments: argparse.Namespace) -> None:
    # Imported here, so that a plan starts in a fraction of a second.
    from freelunch.reporting.audit.compare import compare_runs, comparison_text, records_of_run

    print(comparison_text(*compare_runs(*map(records_of_run, arguments.runs))))  # noqa: T201


_COMMANDS: dict[str, Callable[[argparse.Namespace], int | None]] = {
    "check": _check,
    "plan": _plan,
    "devices": _devices,
    "summary": _summary,
    "verify": _verify,
    "repair": _repair,
    "name": _name,
    "compare": _compare,
    "schema": _schema,
    "settings": _settings,
}
