"""Run a command, such as `python -m freelunch plan config.yaml`."""

import sys

from freelunch.cli.main import main

sys.exit(main())
