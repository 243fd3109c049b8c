"""Something that a rule makes, and what can be wrong with it.

An artifact is intact if its files are those of its manifest, its settings are the study's, and it
was made from what is on disk. So each is checked against what came before it, in the order of the
data, and of two that disagree the later one is wrong.
"""

import json
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from freelunch.core.artifact import MANIFEST, Artifact, manifest_digest
from freelunch.core.artifact_writer import FINISHED_JOURNAL, JOURNAL
from freelunch.core.errors import UserError
from freelunch.core.files import remove_path
from freelunch.records.read import differences
from freelunch.study.paths import RUN

SETTINGS, ADAPTED = "settings", "adapted"


@dataclass(frozen=True)
class Output:
    """Something that a rule makes.

    Attributes:
        what: What it is, in the plural, for people.
        rule: The rule that makes it.
        target: The file whose removal makes the rule run again: a manifest, a record, digests.
        check: Raises UserError if it is damaged; reads all of it if its argument is true.
        needed: Whether a finished study must have it. If not, it may be removed as a whole, and
            steps that need it make it again.
        is_cache: Whether the rule makes it on the side: Snakemake does not know it, and nobody
            reads it without its manifest.
    """

    what: str
    rule: str
    target: Path
    check: Callable[[bool], None]
    needed: bool = True
    is_cache: bool = False

    def is_removed(self) -> bool:
        """Return whether nothing of it is there."""
        if self.target.name == MANIFEST and not self.is_cache:
            return not any(self.target.parent.glob("[!.]*"))
        return not self.target.exists()

    def problem(self, anew: bool) -> str | None:
        """Return what is wrong with it, in one line; None if nothing is.

        Args:
            anew: Whether to read all files, even those whose digests are known.
        """
        made_by = f"(made by {self.rule})"
        if self.is_removed():
            return f"{self.target}: missing {made_by}" if self.needed else None
        try:
            self.check(anew)
        except (UserError, OSError) as error:
            return f"{str(error).splitlines()[0]} {made_by}"
        return None

    def remove(self) -> None:
        """Remove the files without which Snakemake runs the rule again, or a cache ends."""
        remove_path(self.target)
        if self.target.name == MANIFEST:
            remove_path(self.target.with_name(RUN))


def check_facts(where: Path, found: Mapping[str, Any], expected: Mapping[str, Any]) -> None:
    """Refuse what was made with other settings than the study's, or from what is not on disk.

    What is on disk has been checked by itself, so what was made from something else is wrong. What
    was removed is passed over.

    Args:
        where: What was made.
        found: The facts of its manifest.
        expected: What some of them should be: `settings`, and the folder of each artifact whose
            digest is a fact. `adapted` is the folder of all groups of adapted blocks. None stands
            for what it must not have been made from.

    Raises:
        UserError: A fact differs.
    """
    for name in (name for name in expected if name in found):
        value = expected[name]
        if name == SETTINGS:
            for key, one, other in differences(found[name], json.loads(json.dumps(value))):
                raise UserError(
                    f"this was made with other settings than the study's: {key} = "
                    f"{json.dumps(one)}, not {json.dumps(other)}",
                    where=where,
                )
            continue
        # Groups of another division may be left from earlier runs.
        folders = [] if value is None else value.glob("[!.]*") if name == ADAPTED else [value]
        on_disk = {manifest_digest(folder) for folder in folders} - {None}
        digests = {*found[name]} if name == ADAPTED else {found[name]} - {None}
        if bool(digests) != (value is not None) or (on_disk and not digests <= on_disk):
            raise UserError(f"this was not made from what is on disk ({name})", where=where)


def check_nothing_beside(checkpoint: Artifact, others: Collection[str]) -> None:
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
