"""The choice of the study to run: `--config study=FILE`, and of the device that it fits into."""

import os
from collections.abc import Mapping
from pathlib import Path

from freelunch.core.errors import UserError
from freelunch.study.study import Study

DEFAULT = "config.yaml"
KEY = "study"
# Memory in GB of the GPU that a run uses. What is `auto` in a study fits into it.
DEVICE = "device_memory"


def chosen_study(config: Mapping[str, object]) -> Study:
    """Return the study that Snakemake's config chooses, or the default study.

    Do not pass a study's file to `--configfile`: Snakemake would merge it with other files, key by
    key.

    Raises:
        UserError: The config holds anything but `study: FILE` and DEVICE, or that study is not
            valid.
    """
    chosen = config.get(KEY, DEFAULT)
    others = config.keys() - {KEY, DEVICE}
    if others or not isinstance(chosen, str) or not chosen:
        alone = f"{KEY}: {chosen!r}"[:60]
        raise UserError(
            "a study is chosen by its file's name",
            where="Snakemake's config",
            found=", ".join(map(str, config)) if others else alone,
            expected=f"`{KEY}`, the name of a file, and nothing else but `{DEVICE}`",
            todo="use `--config study=FILE`, without --configfile",
        )
    # Written differently, the same path would count as another setting.
    return Study.load(Path(os.path.relpath(chosen)))
