"""`python -m freelunch plan | summary | check | name [config]`: look at a study, run nothing."""

import argparse
import sys
from math import inf
from pathlib import Path

from freelunch import terminal
from freelunch.errors import UserError
from freelunch.plan import Plan
from freelunch.study import Study


def main() -> int:
    """Run one command; return the exit status."""
    parser = argparse.ArgumentParser(prog="freelunch", description=__doc__)
    parser.add_argument("command", choices=["plan", "summary", "check", "name"])
    parser.add_argument("config", nargs="?", type=Path, default=Path("config.yaml"))
    parser.add_argument(
        "--tflops",
        type=rate,
        metavar="N",
        help="plan: 10^12 operations a second of the machine that runs it (default: of this one)",
    )
    arguments = parser.parse_args()
    try:
        study = Study.load(arguments.config)
        if arguments.command in ("check", "plan"):
            plan = Plan.of(study)
            if arguments.command == "plan":
                terminal.say(plan.text(arguments.tflops and arguments.tflops * 1e12))
        elif arguments.command == "summary":
            terminal.say(terminal.summary(study))
        elif arguments.command == "name":
            print(study.name)  # noqa: T201
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)  # noqa: T201
        return 1
    return 0


def rate(text: str) -> float:
    """Return a rate that an argument gives; argparse makes an error of the ValueError."""
    number = float(text)
    if not 0 < number < inf:
        raise ValueError
    return number


if __name__ == "__main__":
    sys.exit(main())
