"""Which study a run is for: `--config study=FILE`."""

import os
from collections.abc import Mapping
from pathlib import Path

from freelunch.core.errors import UserError
from freelunch.study.study import Study

DEFAULT = "config.yaml"
KEY = "study"


def chosen_study(config: Mapping[str, object]) -> Study:
    """Return the study that Snakemake's config chooses; the default one if it chooses none.

    A study's own file is no file for `--configfile`: Snakemake would merge it with others, key by
    key.

    Raises:
        UserError: The config says anything but `study: FILE`, or that study is not valid.
    """
    chosen = config.get(KEY, DEFAULT)
    if config.keys() - {KEY} or not isinstance(chosen, str) or not chosen:
        alone = f"{KEY}: {chosen!r}"[:60]
        raise UserError(
            "a study is chosen by its file's name",
            where="Snakemake's config",
            found=", ".join(map(str, config)) if config.keys() - {KEY} else alone,
            expected=f"`{KEY}`, the name of a file, and nothing else",
            todo="use `--config study=FILE`, without --configfile",
        )
    # The same file by another name would be another setting.
    return Study.load(Path(os.path.relpath(chosen)))
