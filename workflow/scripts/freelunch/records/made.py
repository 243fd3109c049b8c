"""Something that a rule makes, and what can be wrong with it.

An artifact is right if its files are those of its manifest, its settings are the study's, and it
was made from what is on disk. So each is checked against what came before it, in the order of the
data, and of two that disagree the later one is wrong.
"""

import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from freelunch.core.artifact import MANIFEST, Artifact, manifest_digest
from freelunch.core.artifact_writer import FINISHED_JOURNAL, JOURNAL
from freelunch.core.errors import UserError
from freelunch.core.files import remove_path
from freelunch.records.read import differences
from freelunch.study.paths import RUN

Check = Callable[[bool], None]
# Folders by the fact, in the manifest of what was made from them, that holds their digest.
MadeFrom = Mapping[str, Path]


@dataclass(frozen=True)
class Made:
    """Something that a rule makes.

    Attributes:
        what: What it is, in the plural, for people.
        rule: The rule that makes it.
        target: The file by which Snakemake knows it, whose removal makes the rule run again; None
            if the rule makes it on the side, as it does a cache.
        needed: Whether a finished study must have it. If not, it may be removed as a whole, and
            steps that need it make it again.
        check: Raises UserError if it is damaged; reads all of it if its argument is true.
        place: The folder or file itself.
        outputs: Other files that the rule writes, whose digests are in `place`.
    """

    what: str
    rule: str
    target: Path | None
    needed: bool
    check: Check
    place: Path
    outputs: Sequence[Path] = ()

    def is_removed(self) -> bool:
        """Return whether nothing of it is there; nobody reads a cache without its manifest."""
        if self.target is None:
            return not (self.place / MANIFEST).is_file()
        if not self.place.is_dir():
            return not self.place.exists()
        return all(path.name.startswith(".") for path in self.place.iterdir())


@dataclass(frozen=True)
class Problem:
    """Something that is damaged or missing.

    Attributes:
        made: What it is.
        said: What is wrong with it.
    """

    made: Made
    said: str

    def __str__(self) -> str:
        return f"{self.said} (made by {self.made.rule})"


def problem_of(made: Made, anew: bool) -> Problem | None:
    """Return what is wrong with something that a rule makes; None if nothing is.

    Args:
        made: What the rule makes.
        anew: Whether to read all files, even those whose digests are known.
    """
    if (other := _in_the_way(made.place)) is not None:
        return Problem(made, f"{other}: this stands in the place of a folder")
    if made.is_removed():
        return Problem(made, f"{made.place}: missing") if made.needed else None
    try:
        made.check(anew)
    except (UserError, OSError) as error:
        return Problem(made, str(error).splitlines()[0])
    return None


def remove(problem: Problem) -> None:
    """Remove the files without which Snakemake runs the rule again, or a cache ends.

    Whatever stands in the place of a folder or a file that the rule writes is removed as well.
    """
    made = problem.made
    target = made.place / MANIFEST if made.target is None else made.target
    is_folder = target.name == MANIFEST
    for path in (made.place, *made.outputs):
        while (other := _in_the_way(path)) is not None:
            remove_path(other)
        if path.is_dir() != is_folder:
            remove_path(path)
    for path in (target, made.place / RUN) if is_folder else (target,):
        remove_path(path)


def _in_the_way(path: Path) -> Path | None:
    """Return what stands in the place of a folder above a path; None if nothing does."""
    above = (parent for parent in reversed(path.parents) if os.path.lexists(parent))
    return next((parent for parent in above if not parent.is_dir()), None)


def check_nothing_beside(checkpoint: Artifact, *others: str) -> None:
    """Refuse files beside those of the step: `from_pretrained` reads some by their name alone.

    Args:
        checkpoint: The checkpoint.
        others: Names of files that other steps add.

    Raises:
        UserError: There is a file that no step made.
    """
    own = {MANIFEST, RUN, JOURNAL, FINISHED_JOURNAL, *checkpoint.files, *others}
    for path in sorted(checkpoint.folder.iterdir()):
        if path.name not in own and not path.name.startswith("."):
            raise UserError("this file does not belong to the checkpoint", where=path)


def check_made_from(where: Path, digests: Mapping[str, Any], made_from: MadeFrom) -> None:
    """Refuse something that was made from other artifacts than those on disk.

    Args:
        where: What was made.
        digests: Digests of the manifests that it was made from, by their names in `made_from`.
        made_from: What is on disk; what was removed is passed over.

    Raises:
        UserError: There are such artifacts. Those on disk have been checked by themselves, so what
            was made from others is wrong.
    """
    unlike = [
        what
        for what, folder in made_from.items()
        if manifest_digest(folder) not in (None, digests.get(what))
    ]
    if unlike:
        raise UserError(
            f"this was not made from what is on disk ({', '.join(unlike)})", where=where
        )


def check_settings(artifact: Artifact, settings: Any) -> None:
    """Refuse an artifact that was made with other settings than the study's.

    Args:
        artifact: The artifact.
        settings: Its fact `settings`, as the study would have it.

    Raises:
        UserError: Its settings are others.
    """
    unlike = list(differences(artifact.facts["settings"], json.loads(json.dumps(settings))))
    if unlike:
        key, found, expected = unlike[0]
        raise UserError(
            f"this was made with other settings than the study's: {key} = {json.dumps(found)}, not "
            f"{json.dumps(expected)}",
            where=artifact.folder,
        )


def check_adapted(checkpoint: Artifact, is_adapted: bool, windows: Path) -> None:
    """Refuse a checkpoint that was not made from the adapted blocks on disk.

    Args:
        checkpoint: The checkpoint.
        is_adapted: Whether it should have been made from adapted blocks.
        windows: The folder of the cell's groups of adapted blocks, which may have been removed.
            Groups of another division may be left from earlier runs.

    Raises:
        UserError: It should not have been, but was, or it was made from other blocks.
    """
    made_from = checkpoint.facts["adapted"]
    found = {manifest_digest(folder) for folder in windows.glob("[!.]*")} - {None}
    if bool(made_from) != is_adapted or (found and not found.issuperset(made_from)):
        raise UserError(
            "this was not made from the adapted blocks on disk", where=checkpoint.folder
        )
