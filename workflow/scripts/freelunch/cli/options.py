"""Arguments and options that several commands of `freelunch` share."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated

import typer

# These classes are public in click, but not in typer, which has its own copy.
from typer._click.core import Context
from typer._click.formatting import HelpFormatter
from typer.core import TyperCommand

from freelunch.cli.run import shipped_profiles
from freelunch.core.errors import DEFAULT_STUDY, nearest
from freelunch.costs.machine import FASTEST_TFLOPS, SLOWEST_TFLOPS, number_in, read_rate
from freelunch.study.steps import RULES

DEFAULT = Path(DEFAULT_STUDY)


class _Formatter(HelpFormatter):
    """Writes the name of an argument without its type, such as <str>, behind it."""

    def write_dl(
        self, rows: Sequence[tuple[str, str]], col_max: int = 30, col_spacing: int = 2
    ) -> None:
        """Write names and what they mean."""
        plain = [(name.partition(" <")[0], meaning) for name, meaning in rows]
        super().write_dl(plain, col_max, col_spacing)


class _Context(Context):
    formatter_class = _Formatter


class Command(TyperCommand):
    """A command whose help names an argument as MODEL, not as {MODEL} and MODEL <str>."""

    context_class = _Context

    def collect_usage_pieces(self, ctx: Context) -> list[str]:
        """Return the words of the usage."""
        return [piece.strip("{}") for piece in super().collect_usage_pieces(ctx)]


def _studies(incomplete: str) -> Iterator[str]:
    """Yield the study files here that begin like this, for completion."""
    for path in (Path(DEFAULT_STUDY), *sorted(Path("studies").glob("*.yaml"))):
        if path.is_file() and str(path).startswith(incomplete):
            yield str(path)


def _profiles(incomplete: str) -> list[str]:
    """Return the profiles of this repository that begin like this, for completion."""
    return [name for name in shipped_profiles() if name.startswith(incomplete)]


def _rule_names(incomplete: str) -> list[str]:
    """Return the rules that begin like this, for completion."""
    return [name for name in RULES if name.startswith(incomplete)]


def _rate(text: str) -> float:
    """Return a rate in TFLOP/s."""
    number = number_in(text)
    if not SLOWEST_TFLOPS <= number <= FASTEST_TFLOPS:
        raise typer.BadParameter(
            f"expected a number from {SLOWEST_TFLOPS:g} to {FASTEST_TFLOPS:g}, such as 400; found "
            f"{text!r}"
        )
    return number


def _cores(text: str) -> str:
    """Return how many cores Snakemake uses, which waits for ever if there are none."""
    if text != "all" and not (text.isascii() and text.isdigit() and int(text) > 0):
        raise typer.BadParameter(f"found {text}; expected a positive number or all")
    return text


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


Study = Annotated[
    Path, typer.Argument(metavar="STUDY", help="The study's file.", autocompletion=_studies)
]
Cores = Annotated[
    str, typer.Option(parser=_cores, metavar="N", help="Cores of this machine to use.")
]
Profile = Annotated[
    str,
    typer.Option(
        metavar="PROFILE",
        help="A folder in workflow/profiles, such as slurm, or another's path.",
        autocompletion=_profiles,
    ),
]
Scatter = Annotated[
    int | None,
    typer.Option(min=1, metavar="N", help="How many jobs share a reconstruction's windows."),
]
Force = Annotated[
    str | None,
    typer.Option(
        parser=_rules,
        metavar="RULE",
        autocompletion=_rule_names,
        help="Run a rule again, and all that follows from it.",
    ),
]
Tflops = Annotated[
    float | None,
    typer.Option(
        parser=_rate,
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
Models = Annotated[
    str | None,
    typer.Option(metavar="NAMES", help="Only these models, such as opt-125m,opt-1.3b."),
]
Claims = Annotated[
    str | None,
    typer.Option(metavar="NAMES", help="Only the grids of these claims, such as C1,C3."),
]
Seeds = Annotated[
    str | None,
    typer.Option(metavar="NUMBERS", help="Only these seeds, such as 0,1."),
]
Elsewhere = Annotated[
    bool,
    typer.Option(
        "--elsewhere",
        help="The study runs on another machine: ignore this one.",
    ),
]
