"""Contradictions within one adaptation: settings that are each valid but do not go together."""

from collections.abc import Iterator
from math import inf

from freelunch.study.adaptations import Adaptation, Reconstruction, Training, Windowed
from freelunch.study.methods import FULL, LOW_RANK, SCALED
from freelunch.study.retraining import Retraining
from freelunch.study.windows import ALL, AUTO, HALVES, MATRIX

HIGHEST_RATE = 10.0


def adaptation_problems(entry: Adaptation) -> Iterator[tuple[str, str]]:
    """Yield a key and a message for each setting that contradicts another."""
    if isinstance(entry, Windowed) and (entry.inputs, entry.targets) == ("dense", "local"):
        yield (
            "targets",
            "with dense inputs, local targets equal the dense model's activations; expected "
            "dense, or inputs: sparse",
        )
    if isinstance(entry, Windowed):
        yield from _of_single_matrices(entry)
    if isinstance(entry, Training):
        for rate in entry.rates:
            # What is not finite is reported where it is read.
            if HIGHEST_RATE < rate < inf:
                yield (
                    "learning_rate",
                    f"found {rate:g}; expected at most {HIGHEST_RATE:g}, beyond which training "
                    "diverges at once",
                )
    if isinstance(entry, Reconstruction):
        yield from _of_reconstruction(entry)
    if isinstance(entry, Retraining):
        yield from _of_retraining(entry)


def _of_single_matrices(entry: Windowed) -> Iterator[tuple[str, str]]:
    if entry.targets_behind_sparse and entry.window != MATRIX:
        yield (
            "targets",
            f"behind_sparse is a quirk of the window {MATRIX}; expected dense or local, or that "
            "window",
        )
    if entry.lost_residual and not entry.targets_behind_sparse:
        yield (
            "lost_residual",
            "the paper's code loses it with targets behind sparse matrices; expected no such key, "
            "or targets: behind_sparse",
        )


def _of_reconstruction(entry: Reconstruction) -> Iterator[tuple[str, str]]:
    trained, trains = entry.trained, entry.trains or FULL
    if entry.window == MATRIX and trained.norms:
        key, wanted = (
            ("trains", "another method") if trained.weights is None else ("train_norms", "false")
        )
        yield (
            key,
            f"a window of one matrix holds no norm; expected {wanted}, and the same in the "
            "windows it is compared with",
        )
    if entry.window == AUTO and entry.memory_gb is None:
        yield "memory_gb", "`window: auto` needs a memory budget; expected one, in GB"
    if entry.window != AUTO and entry.memory_gb is not None:
        yield "memory_gb", "only `window: auto` has a memory budget; expected no such key"
    if entry.model_dropout and entry.window in (MATRIX, HALVES, AUTO):
        yield (
            "model_dropout",
            "the paper's code drops out in windows of whole blocks only; expected no such key, or "
            f"a window of blocks, such as 1 or {ALL}",
        )
    for key, having in (("rank", LOW_RANK), ("alpha", SCALED)):
        if getattr(entry, key) is not None and trains not in having:
            yield key, f"`trains: {trains}` has no {key}; expected no such key"
    if trained.weights is None and entry.window != MATRIX:
        for key, needed in (("train_norms", trained.norms), ("train_biases", trained.biases)):
            if needed and not getattr(entry, key):
                yield key, f"`trains: {trains}` trains these parameters; expected true"


def _of_retraining(entry: Retraining) -> Iterator[tuple[str, str]]:
    if entry.micro_batch is not None and entry.micro_batch > entry.batch:
        yield "micro_batch", f"found {entry.micro_batch}; expected at most the batch, {entry.batch}"
    if entry.residency != "auto" and entry.memory_gb is not None:
        yield "memory_gb", "only `residency: auto` has a memory budget; expected no such key"
