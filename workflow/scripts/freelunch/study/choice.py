"""The choice of the study to run: `--config study=FILE`."""

import os
from collections.abc import Mapping
from pathlib import Path

from freelunch.core.errors import DEFAULT_STUDY, STUDY_VARIABLE, UserError
from freelunch.study.study import Study

KEY = "study"


def chosen_study(config: Mapping[str, object]) -> Study:
    """Return the study that Snakemake's config chooses, or the default study.

    Do not pass a study's file to `--configfile`: Snakemake would merge it with other files, key by
    key.

    Raises:
        UserError: The config holds anything but `study: FILE`, or that study is not valid.
    """
    chosen = config.get(KEY, DEFAULT_STUDY)
    if config.keys() - {KEY} or not isinstance(chosen, str) or not chosen:
        alone = f"{KEY}: {chosen!r}"[:60]
        raise UserError(
            "a study is chosen by its file's name",
            where="Snakemake's config",
            found=", ".join(map(str, config)) if config.keys() - {KEY} else alone,
            expected=f"`{KEY}`, the name of a file, and nothing else",
            todo="use `--config study=FILE`, without --configfile",
        )
    return open_study(Path(chosen))


def open_study(path: Path) -> Study:
    """Return the study that this process is about; messages name it from now on.

    Raises:
        UserError: The study is not valid.
    """
    # Written differently, the same path would count as another setting.
    study = Study.load(Path(os.path.relpath(path)))
    os.environ[STUDY_VARIABLE] = study.source
    return study
