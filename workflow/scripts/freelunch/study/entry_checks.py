"""Contradictions within one entry of a registry."""

import os
from collections.abc import Iterator

from freelunch.study.adaptations import Adaptation, Local, Reconstruction
from freelunch.study.config import Config
from freelunch.study.methods import FULL, LOW_RANK, SCALED
from freelunch.study.retraining import Retraining
from freelunch.study.source_files import files_at, has_braces
from freelunch.study.sources import REFUSE, LocalText, Mixture, Source, Tokens
from freelunch.study.windows import ALL, AUTO, HALVES, MATRIX


def adaptation_problems(entry: Adaptation) -> Iterator[tuple[str, str]]:
    """Yield a key and a message for each setting of an adaptation that contradicts another."""
    if isinstance(entry, Local):
        yield from _targets(entry)
    if isinstance(entry, Reconstruction):
        yield from _window(entry)
        yield from _trained(entry)
    if isinstance(entry, Retraining):
        if entry.micro_batch is not None and entry.micro_batch > entry.batch:
            yield (
                "micro_batch",
                f"found {entry.micro_batch}; expected at most the batch, {entry.batch}",
            )
        if entry.residency != "auto" and entry.memory_gb is not None:
            yield "memory_gb", "only `residency: auto` has a memory budget; expected no such key"


def _targets(entry: Local) -> Iterator[tuple[str, str]]:
    if entry.local_targets and not entry.sparse_inputs:
        yield (
            "targets",
            "with dense inputs, local targets equal the dense model's activations; expected dense, "
            "or inputs: sparse",
        )
    window = entry.window if isinstance(entry, Reconstruction) else MATRIX
    if entry.targets_behind_sparse and window != MATRIX:
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


def _window(entry: Reconstruction) -> Iterator[tuple[str, str]]:
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


def _trained(entry: Reconstruction) -> Iterator[tuple[str, str]]:
    trained, trains = entry.trained, entry.trains or FULL
    if entry.window == MATRIX and trained.norms:
        key, wanted = ("train_norms", "false") if trained.weights else ("trains", "another method")
        yield (
            key,
            f"a window of one matrix holds no norm; expected {wanted}, and the same in the "
            "windows it is compared with",
        )
    for key, methods in (("rank", LOW_RANK), ("alpha", SCALED)):
        if getattr(entry, key) is not None and trains not in methods:
            yield key, f"`trains: {trains}` has no {key}; expected no such key"
    if trained.weights is None and entry.window != MATRIX:
        for key, needed in (("train_norms", trained.norms), ("train_biases", trained.biases)):
            if needed and not getattr(entry, key):
                yield key, f"`trains: {trains}` trains these parameters; expected true"


def mixture_problems(name: str, entry: Mixture, config: Config) -> Iterator[str]:
    """Yield what is wrong with the parts of a mixture."""
    where, study = f"texts.{name}.parts", config.study
    evaluated = study.evaluation.perplexity.text
    refuses = entry.evaluation_text == REFUSE and study.calibration.text == name
    first: dict[str, str] = {}
    for part in entry.parts:
        text = config.texts[part]
        if isinstance(text, Mixture):
            yield f"{where}.{part}: found a mixture; expected a text that is not one itself"
        elif isinstance(text, Tokens):
            yield f"{where}.{part}: a `tokens` source has no documents to mix; expected a text"
        settings = text.deciding()
        if refuses and settings == config.texts[evaluated].deciding():
            yield (
                f"{where}.{part}: this is the evaluation text, {evaluated}, whose documents the "
                "mixture refuses; expected another text, or `evaluation_text: leave_out` in the "
                "mixture"
            )
        if isinstance(text, LocalText):
            settings |= {"path": os.path.realpath(text.path)}
        other = first.setdefault(str(sorted(settings.items())), part)
        if other != part:
            yield f"{where}.{part}: this is the same text as {other}; expected another text"


def path_problems(where: str, source: Source, is_model: bool) -> Iterator[str]:
    """Yield why the path of an entry cannot be used, if it has one."""
    path = getattr(source, "path", None)
    if path is None:
        return
    if not os.path.exists(path):
        looked = "" if os.path.isabs(path) else f", looked for at {os.path.abspath(path)}"
        kind = "folder or a GGUF file" if is_model else "file"
        yield (
            f"{where}: there is nothing at {path}{looked}; expected a {kind} (absolute, or "
            "relative to the folder in which the study is run)"
        )
    elif named := [file for file in files_at(path) if has_braces(file)]:
        yield (
            f"{where}: found {named[0]}; expected a name without {{ and }}, between which "
            "Snakemake reads wildcards; rename it"
        )
