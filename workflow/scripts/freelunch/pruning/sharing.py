"""Jobs of one run that prune the same model share what they read and compute.

The first job of a group chooses the masks of the whole group in one pass over the blocks, and
leaves each in the folder of its own job, which then only writes its manifest, without the seconds
that importing torch takes. A job that finds its group taken works on a group that nobody has begun.
No result depends on which job chose a mask.
"""

import json
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from freelunch.core.artifact import Artifact, fingerprint
from freelunch.core.artifact_writer import ArtifactWriter, is_finished, is_left
from freelunch.core.job_cost import Spent
from freelunch.core.lock import lock_if_free, remove_lock, wait_for_lock
from freelunch.study.criteria import Criterion, read_criterion
from freelunch.study.patterns import Pattern
from freelunch.study.steps import DENSE_ACTIVATIONS, MASKS


@dataclass(frozen=True)
class Pruning:
    """The masks of one criterion and pattern, which one job is to make in a folder; the seed is for
    criteria that draw random numbers, and the fingerprint the digest of everything the masks
    depend on.
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
        source: Artifact,
    ) -> "Pruning":
        """Return the pruning of a model, given the criterion's settings as JSON, the digest of the
        code that prunes by it, and the source of its statistics: the dense pass, or the calibration
        sample for statistics of the sparse model.
        """
        settings = {"criterion": criterion, "pattern": pattern, "seed": seed}
        return cls(
            read_criterion(criterion),
            Pattern.parse(pattern),
            seed,
            folder,
            fingerprint(code, settings, model, source),
        )

    def groups(
        self, together: str | None, model: Artifact, source: Artifact
    ) -> "list[list[Pruning]]":
        """Return the groups of prunings that jobs of this run choose together, this one's first.
        The workflow describes them as JSON: `criteria`, the settings and code of each, and
        `groups`, each with the names of its prunings; or as None, if jobs share nothing.
        """
        if not together:
            return []
        described = json.loads(together)

        def named(name: str) -> Pruning:
            criterion, pattern = name.split("-")
            settings, code = described["criteria"][criterion]
            folder = self.folder.parents[1] / name / self.folder.name
            return Pruning.of(settings, pattern, self.seed, folder, code, model, source)

        groups = [[named(name) for name in names] for names in described["groups"]]
        return sorted(groups, key=lambda group: self not in group)

    @property
    def is_left(self) -> bool:
        """Whether another job has chosen the masks."""
        return is_left(self.folder, self.fingerprint)

    @property
    def is_finished(self) -> bool:
        """Whether the folder is complete."""
        return is_finished(self.folder, self.fingerprint)

    def finish_left(self, source: Artifact) -> Artifact | None:
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
        return self.finish(writer, source, {})

    def finish(
        self, writer: ArtifactWriter, source: Artifact, config: Mapping[str, object]
    ) -> Artifact:
        """Write the manifest; `config` is what the pruned model's config has in addition."""
        made_from = {"calibration": source.digest}
        if source.kind == DENSE_ACTIVATIONS:
            made_from = {"dense": source.digest, "calibration": source.facts["calibration"]}
        return writer.finish(
            settings={
                "criterion": self.criterion.as_json(),
                "pattern": self.pattern.name,
                "seed": self.seed,
            },
            config=config,
            model=source.facts["model"],
            **made_from,
        )


@contextmanager
def shared(
    mine: Pruning,
    groups: Sequence[Sequence[Pruning]],
    choose: Callable[[Sequence[Pruning]], Spent],
) -> Iterator[Spent]:
    """Have the masks of a job chosen together with those of other jobs of its run, and yield what
    was spent on all of them. Of `groups`, each chosen together, the first has `mine`. `choose`
    chooses masks, leaves them, and returns what that took. If masks could not be chosen, they
    are not left, and no other job of the group tries again while the body runs.
    """
    spent, own = Spent(), groups[0]
    lock = lock_if_free(_lock_file(own))
    if lock is None:
        # Another job chooses these masks; this one works on groups that nobody has begun.
        for group in groups[1:]:
            free = lock_if_free(_lock_file(group))
            if free is not None:
                try:
                    spent += _choose_lacking(group, choose)
                finally:
                    remove_lock(free)
            if mine.is_left:
                break
        lock = wait_for_lock(_lock_file(own), logging.INFO)
    try:
        # Not if the other job has chosen them, but if it was killed.
        if not mine.is_left:
            spent += _choose_lacking(own, choose)
        yield spent
    finally:
        remove_lock(lock)


def _choose_lacking(
    group: Sequence[Pruning], choose: Callable[[Sequence[Pruning]], Spent]
) -> Spent:
    lacking = [each for each in group if not (each.is_left or each.is_finished)]
    return choose(lacking) if lacking else Spent()


# What a job locks while it works on a group.
def _lock_file(group: Sequence[Pruning]) -> Path:
    folder = group[0].folder
    return folder.parents[1] / f".{folder.parent.name}-{folder.name}.lock"
