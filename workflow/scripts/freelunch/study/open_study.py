"""The choice of the study to run: `--config study=FILE`, and what is known of the device."""

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from freelunch.core.errors import DEFAULT_STUDY, PART_VARIABLE, STUDY_VARIABLE, UserError, nearest
from freelunch.core.files import write_atomically
from freelunch.study.config import SEEDS as ALL_SEEDS
from freelunch.study.config import Part
from freelunch.study.pins import check_pinned, with_pins
from freelunch.study.source_files import has_braces
from freelunch.study.study import Study

KEY = "study"
# The part of a study that is run: names, separated by commas or spaces.
MODELS, CLAIMS, SEEDS = "models", "claims", "seeds"
# Memory in GB of the GPU that a run uses. What is `auto` in a study fits into it.
DEVICE = "device_memory"
# TFLOP/s of the machine that runs the jobs, from which they know how much time to ask for.
TFLOPS = "tflops"
# What a run tells its jobs on other machines, and users do not set: the rules that it was told to
# run again, and the precision that it decided for `auto`.
FORCED, PRECISION = "forced", "precision"


def chosen_study(config: Mapping[str, object]) -> Study:
    """Return the study that Snakemake's config chooses, or the default study.

    Do not pass a study's file to `--configfile`: Snakemake would merge it with other files, key by
    key. UserError if the config holds anything but what chooses a study, or that is not valid.
    """
    chosen = config.get(KEY, DEFAULT_STUDY)
    others = config.keys() - {KEY, MODELS, CLAIMS, SEEDS, DEVICE, TFLOPS, FORCED, PRECISION}
    if others or not isinstance(chosen, str) or not chosen:
        raise UserError(
            "a study is chosen by its file's name",
            where="Snakemake's config",
            found=", ".join(map(str, config)) if others else f"{KEY}: {chosen!r}"[:60],
            expected=f"`{KEY}`, the name of a file, and nothing else but `{MODELS}`, `{CLAIMS}`, "
            f"`{SEEDS}`, `{DEVICE}` and `{TFLOPS}`",
            todo="use `--config study=FILE`, without --configfile",
        )
    return open_study(Path(chosen), part_of(*map(config.get, (MODELS, CLAIMS, SEEDS))))


def part_of(models: object = None, claims: object = None, seeds: object = None) -> Part | None:
    """Return the part of a study that names choose; None if there are none. Names, or seeds, are
    separated by commas or spaces; None stands for all. UserError if they are none.
    """
    named = {MODELS: models, CLAIMS: claims, SEEDS: seeds}
    listed = {key: _listed(key, names) for key, names in named.items() if names is not None}
    return Part.model_validate(listed) if listed else None


def _listed(key: str, names: object) -> list[Any]:
    # Snakemake reads a name of digits as a number.
    text = str(names) if type(names) in (str, int) else ""
    listed = [name for name in re.split(r"[,\s]+", text) if name]
    wrong = key == SEEDS and not all(
        re.fullmatch("[0-9]{1,10}", name) and int(name) < ALL_SEEDS for name in listed
    )
    if wrong or not listed:
        kind = "whole numbers" if key == SEEDS else "names"
        raise UserError(
            f"a part of a study is chosen by {kind}",
            where=key,
            found=repr(names)[:60],
            expected=f"{kind} separated by commas, or no `{key}`",
        )
    return list(dict.fromkeys(map(int, listed) if key == SEEDS else listed))


def open_study(path: Path, part: Part | None = None, pinned: bool = True) -> Study:
    """Return the study that this process is about, as `read_study`, with its pinned commits; if
    `pinned`, a branch or a tag without a pin raises UserError.
    """
    study = with_pins(read_study(path, part))
    if pinned:
        check_pinned(study)
    return study


def read_study(path: Path, part: Part | None = None) -> Study:
    """Return the study that this process is about as it is written, which is enough for a plan;
    messages name it from now on.

    A part takes the place of the file's own. UserError if the study is not there or not valid,
    Snakemake cannot take its path, or another study file has results under its name.
    """
    if not os.path.isfile(path):
        is_other = "a folder" if os.path.isdir(path) else "no regular file"
        here = [Path(DEFAULT_STUDY), *Path("studies").glob("*.yaml")]
        raise UserError(
            "there is no such study file",
            where=path,
            found=is_other if os.path.exists(path) else None,
            expected=nearest(str(path), [str(each) for each in here if each.is_file()]),
            todo="correct the name, or write a study of your own model and text: "
            "freelunch new MODEL TEXT",
        )
    # Written differently, the same path would count as another setting.
    file = os.path.relpath(path)
    if has_braces(file):
        raise UserError(
            "Snakemake would read wildcards in this path",
            where=file,
            expected="a path without { and }",
            todo="rename the file or its folder",
        )
    study = Study.load(Path(file), part=part)
    os.environ[STUDY_VARIABLE] = study.source
    os.environ[PART_VARIABLE] = study.part_words
    check_owner(study)
    return study


def claim_results(study: Study) -> None:
    """Note that the results under the study's name are of its file."""
    write_atomically(study.paths.owner, f"{study.source}\n")


def check_owner(study: Study) -> None:
    """Refuse to replace or read the results of another study file, which has the same name.

    A file that is gone was renamed: the results are those of its new name.
    """
    noted = study.paths.owner
    # A damaged note names no file, and is written again by the next run.
    written = noted.read_bytes().decode(errors="replace") if noted.is_file() else study.source
    owner = written.strip()
    if "\0" in owner or not os.path.isfile(owner) or os.path.samefile(owner, study.source):
        return
    raise UserError(
        f"{study.paths.root} has the results of another study file",
        where=f"{study.source}: study.name",
        found=f"{study.name}, which is also the name of the study in {owner}",
        expected="a name of its own",
        todo=f"rename one of the studies; if {study.source} is to replace {owner}, remove {noted}",
    )
