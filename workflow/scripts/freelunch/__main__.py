"""Run a command: `python -m freelunch plan config.yaml`."""

import sys

from freelunch.cli.main import main

sys.exit(main())
