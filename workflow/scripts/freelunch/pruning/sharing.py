"""Jobs of one run that prune the same model share what they read and compute.

Masks from the same dense statistics need the same blocks, the same statistics and, for some
criteria, the same factorised matrices. So the first job of a group chooses the masks of the whole
group in one pass over the blocks, and leaves each in the folder of its own job, which then only
writes its manifest, without the seconds that importing torch takes.

A job that finds its group taken works on another group that nobody has begun. No result depends on
which job chose a mask, and a mask that could not be chosen for another job is left to that job,
which says why.
"""

import json
import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from freelunch.core.artifact import Artifact, fingerprint
from freelunch.core.artifact_writer import ArtifactWriter, is_finished, is_left
from freelunch.core.lock import lock_if_free, remove_lock, wait_for_lock
from freelunch.core.spent import Spent
from freelunch.study.criteria import Criterion, read_criterion
from freelunch.study.patterns import Pattern
from freelunch.study.steps import MASKS


@dataclass(frozen=True)
class Pruning:
    """The masks of one criterion and pattern, which one job is to make.

    Attributes:
        criterion: Settings of the criterion.
        pattern: Which share of the weights is pruned, and where.
        seed: Seed of the cell, for criteria that draw random numbers.
        folder: Folder for the masks.
        fingerprint: Digest of everything the masks depend on.
    """

    criterion: Criterion
    pattern: Pattern
    seed: int
    folder: Path
    fingerprint: str

    @classmethod
    def of(
        cls,
        criterion: dict[str, Any],
        pattern: str,
        seed: int,
        folder: Path,
        code: str,
        model: Artifact,
        dense: Artifact,
    ) -> "Pruning":
        """Return the pruning of a model from its dense statistics.

        Args:
            criterion: Settings of the criterion, as JSON.
            pattern, seed, folder: Attributes.
            code: Digest of the code that prunes by this criterion.
            model: The dense model.
            dense: Its statistics.
        """
        settings = {"criterion": criterion, "pattern": pattern, "seed": seed}
        return cls(
            read_criterion(criterion),
            Pattern.parse(pattern),
            seed,
            folder,
            fingerprint(code, settings, model, dense),
        )

    def groups(self, together: str, model: Artifact, dense: Artifact) -> "list[list[Pruning]]":
        """Return the groups of prunings that jobs of this run choose together, this one's first.

        Args:
            together: What the workflow says of them: their criteria, with settings and code, and
                the groups, each with the names of its prunings. Empty if jobs share nothing.
            model: The dense model.
            dense: Its statistics.
        """
        if not together:
            return []
        found = json.loads(together)
        groups = []
        for names in found["groups"]:
            group = []
            for name in names:
                criterion, pattern = name.split("-")
                settings, code = found["criteria"][criterion]
                folder = self.folder.parents[1] / name / self.folder.name
                group.append(Pruning.of(settings, pattern, self.seed, folder, code, model, dense))
            groups.append(group)
        return sorted(groups, key=lambda group: self not in group)

    @property
    def is_left(self) -> bool:
        """Whether another job has chosen the masks."""
        return is_left(self.folder, self.fingerprint)

    @property
    def is_finished(self) -> bool:
        """Whether the folder is complete."""
        return is_finished(self.folder, self.fingerprint)

    def finish_left(self, dense: Artifact) -> Artifact | None:
        """Return the masks if another job has chosen them; None if none has, or a file of them is
        damaged.
        """
        if not self.is_left:
            return None
        writer = ArtifactWriter(self.folder, MASKS, self.fingerprint)
        if not writer.left:
            writer.release()
            return None
        # Only structured criteria add to the config, and they are not shared.
        return self.finish(writer, {}, dense)

    def finish(self, writer: ArtifactWriter, config: dict[str, Any], dense: Artifact) -> Artifact:
        """Write the manifest.

        Args:
            writer: Of the folder, with the masks of all blocks.
            config: What the config of the pruned model has in addition to the dense model's.
            dense: The statistics.
        """
        return writer.finish(
            settings={
                "criterion": self.criterion.as_json(),
                "pattern": self.pattern.name,
                "seed": self.seed,
            },
            config=config,
            model=dense.facts["model"],
            dense=dense.digest,
            calibration=dense.facts["calibration"],
        )


@contextmanager
def shared(
    mine: Pruning,
    groups: Sequence[Sequence[Pruning]],
    choose: Callable[[Sequence[Pruning]], Spent],
) -> Iterator[Spent]:
    """Have the masks of a job chosen together with those of other jobs of its run.

    If they could not be chosen, they are not left, and no other job tries again while the body
    runs.

    Args:
        mine: The masks of this job.
        groups: What is chosen together, the group with `mine` first.
        choose: Choose masks, leave them, and return what that took.

    Yields:
        What was spent on all masks, those of this job included.
    """
    spent = _work_through(mine, groups, choose)
    if mine.is_left:
        yield spent
        return
    # Without a free group, this waits for the job that is choosing these masks.
    lock = wait_for_lock(_lock_file(groups[0]), logging.INFO)
    try:
        yield spent
    finally:
        remove_lock(lock)


def _work_through(
    mine: Pruning,
    groups: Sequence[Sequence[Pruning]],
    choose: Callable[[Sequence[Pruning]], Spent],
) -> Spent:
    """Choose the masks of each group that is free, until those of this job are left."""
    spent = Spent()
    for group in groups:
        if mine.is_left:
            return spent
        lock = lock_if_free(_lock_file(group))
        if lock is None:
            continue
        try:
            wanted = [each for each in group if not (each.is_left or each.is_finished)]
            if wanted:
                spent += choose(wanted)
        finally:
            remove_lock(lock)
    return spent


def _lock_file(group: Sequence[Pruning]) -> Path:
    """Return the file that a job locks while it works on a group."""
    folder = group[0].folder
    return folder.parents[1] / f".{folder.parent.name}-{folder.name}.lock"
