"""Run a command, such as `python -m freelunch plan config.yaml`."""

import sys


def main() -> int:
    """Run one command; return the exit status. Ctrl-C may come while the library is imported."""
    try:
        from freelunch.cli.main import main

        return main()
    except KeyboardInterrupt:
        return 130


if __name__ == "__main__":
    sys.exit(main())
