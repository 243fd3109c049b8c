"""Choose the best of several adaptations of a pruned model (learning rates, numbers of epochs)."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from freelunch.core.artifact import Artifact
from freelunch.core.artifact_writer import ArtifactWriter
from freelunch.core.errors import UserError, run_again
from freelunch.model.checkpoint import link_shard
from freelunch.study.adaptations import Training
from freelunch.study.search import SEARCHED
from freelunch.study.steps import ADAPTED_BLOCKS
from freelunch.study.windows import adapted_windows


@dataclass(frozen=True)
class Candidate:
    """One of several adaptations of the same pruned model: its name as in `freelunch.study.search`,
    the settings that it should have been adapted with, the artifacts that its jobs wrote, and
    the metrics of its checkpoint.
    """

    name: str
    settings: Training
    parts: Sequence[Artifact]
    metrics: Mapping[str, float | None]

    @property
    def loss(self) -> float:
        """Return the mean loss; infinity if it is not finite, or if a window diverged."""
        loss = self.metrics["loss"]
        return math.inf if loss is None or self.diverged else float(loss)

    @property
    def diverged(self) -> int:
        """Return how many windows kept their pruned weights because a loss was not finite."""
        return sum("diverged_at_step" in facts for facts in adapted_windows(self.parts).values())

    @property
    def facts(self) -> dict[str, object]:
        """Return what the manifest says of the candidate."""
        return {
            **candidate_facts(self.settings, adapted_windows(self.parts)),
            "perplexity": self.metrics["perplexity"],
            "perplexity_standard_error": self.metrics["perplexity_standard_error"],
        }


def candidate_facts(
    settings: Training, windows: Mapping[str, Mapping[str, object]]
) -> dict[str, object]:
    """Return what a manifest says of a candidate or a probe with these settings, from the facts of
    each window that it adapted.
    """
    written = settings.as_json()
    return {
        **{key: written[key] for key in written if key in (*SEARCHED, "samples")},
        "windows_kept_pruned": sum(bool(each["kept_pruned"]) for each in windows.values()),
        "windows_diverged": sum("diverged_at_step" in each for each in windows.values()),
    }


def choose_candidate(
    candidates: Sequence[Candidate],
    settings: Training,
    seed: int,
    folder: Path,
    fingerprint: str,
) -> Artifact:
    """Link the blocks of the candidate, all measured on the same text, with the lowest perplexity;
    ties: the first one wins. One that diverged in a window is never chosen, even if its
    perplexity is the lowest with the pruned weights in that window. `settings` is the entry of
    `adaptations` that lists them. UserError: no candidate is left, or one was adapted with other
    settings.
    """
    for candidate in candidates:
        found = candidate.parts[0].facts["settings"]["adaptation"]
        if found != candidate.settings.as_json():
            raise UserError(
                "a candidate was adapted with other settings",
                where=candidate.parts[0].folder,
                found=found,
                expected=candidate.settings.as_json(),
                todo=run_again(settings.rule),
            )
    best = min(candidates, key=lambda candidate: candidate.loss)
    if math.isinf(best.loss):
        raise UserError(
            "no candidate to choose",
            where=folder,
            found=", ".join(
                f"{each.name}: loss {each.metrics['loss']}, {each.diverged} windows diverged"
                for each in candidates
            ),
            expected="a candidate with a finite loss and no diverged window",
            todo="list lower learning rates",
        )
    writer = ArtifactWriter(folder, ADAPTED_BLOCKS, fingerprint)
    for part in best.parts:
        for shard, entry in part.files.items():
            notes = {"windows": entry["windows"]} if "windows" in entry else {}
            link_shard(writer, shard, part, **notes)
    facts = best.parts[0].facts
    return writer.finish(
        settings={"adaptation": settings.as_json(), "seed": seed},
        window=facts["window"],
        model=facts["model"],
        masks=facts["masks"],
        sample=facts["sample"],
        **{key: facts[key] for key in ("losses", "start", "precision") if key in facts},
        choice={
            "selected_on": settings.select_on,
            "chosen": best.name,
            "candidates": {candidate.name: candidate.facts for candidate in candidates},
        },
    )
