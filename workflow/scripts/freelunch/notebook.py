"""Prune, adapt and evaluate a model that transformers has loaded, such as in a notebook.

    pruned = prune(model, documents, tokenizer, criterion="wanda", pattern="u50")
    adapted = reconstruct(pruned, model, documents, tokenizer, window=1)
    evaluate(adapted, other_documents, tokenizer)["perplexity"]

These functions run what the workflow's jobs run, and return its numbers. No function changes a
model that it gets: what it returns is another copy, on the same device. Hidden states are in a
temporary folder (`TMPDIR`) until it returns.

- `text` is a list of documents, from which the seed draws `samples` sequences of `length` tokens;
  or it is token ids, int64, (sequences, length), all of which are used, and needs no tokenizer.
- `bos` says whether sequences begin with the beginning-of-sequence token (always, never); auto
  measures the model on the text, as a study does. Token ids are used as they are.
- Unless `learning_rate` is set, short trainings on a part of the text find it, as in a study.
- `progress` says whether there are progress bars.
- Further settings have the names and the defaults of docs/guide/settings.md.

UserError: a setting is wrong; a model is not in the memory of one device, or not in float32,
bfloat16 or float16, or its blocks cannot be pruned; a text is too short; training diverges.
"""

import math
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import transformers
from safetensors.torch import load_file
from torch import Tensor
from tqdm.auto import tqdm
from transformers import PreTrainedModel

from freelunch.adaptation.job import AdaptationJob, at_rate_of
from freelunch.adaptation.rate_search import find_rate
from freelunch.adaptation.reconstruction.windows_in_turn import reconstruct_windows
from freelunch.adaptation.retraining.training_run import retrain_model
from freelunch.core.artifact import Artifact
from freelunch.core.artifact_writer import ArtifactWriter
from freelunch.core.errors import UserError
from freelunch.core.progress import Report
from freelunch.data.documents import document_line
from freelunch.data.samples import TokenJob, sample_text
from freelunch.data.text_windows import cut_windows
from freelunch.data.texts import fetch_text
from freelunch.evaluation.bos import decide_bos
from freelunch.evaluation.perplexity import of_text
from freelunch.model.blocks import block_linears
from freelunch.model.checkpoint import OUTER
from freelunch.model.hidden_states import DenseStates, pass_through
from freelunch.model.loaded_model import LoadedModel, blocks_of, copied
from freelunch.model.mask_store import load_pruned_block
from freelunch.model.token_ids import check_vocabulary, write_tokens
from freelunch.pruning.dense_pass import capture_dense
from freelunch.pruning.prune import prune_model
from freelunch.pruning.sharing import Pruning
from freelunch.study.cell import NONE
from freelunch.study.config import Config
from freelunch.study.families import positions_of
from freelunch.study.methods import DISTILLATION
from freelunch.study.patterns import Pattern
from freelunch.study.retraining import Retraining
from freelunch.study.search import SEARCHED, finds_rate
from freelunch.study.sources import LocalText
from freelunch.study.steps import CALIBRATION, MASKS, TEXT_WINDOWS
from freelunch.study.study import Study
from freelunch.study.windows import AUTO, KEEP_NONE, MODEL, Window, split_windows

Text = Tensor | Sequence[str]
# Some quantised models have a fifth of their weights at 0; u01 prunes every hundredth.
_MOST_ZEROS_OF_DENSE, _LEAST_ZEROS_OF_PRUNED = 0.25, 0.005
# The name of entries, and the digest of code: a temporary folder has the work of one call.
_NAME = "notebook"


def prune(
    model: PreTrainedModel,
    text: Text,
    tokenizer: Any = None,
    *,
    criterion: str = "wanda",
    pattern: str = "u50",
    samples: int = 32,
    length: int = 256,
    seed: int = 0,
    bos: str = "auto",
    progress: bool = True,
    **settings: Any,
) -> PreTrainedModel:
    """Return a pruned copy of a dense model, with exactly the zeros that the pattern asks for.

    Args:
        model: The dense model.
        text: What to calibrate on.
        criterion: `score` of a criterion: magnitude, wanda, ria, sparsegpt, flap, ...
        pattern: uNN, NofM or sNN, such as u50, 2of4 or s20.
        settings: Settings of the criterion, such as `scope` or `swaps`.

    UserError: the model is pruned already: a quarter of its weights are 0, or about as many as the
    pattern asks for.
    """
    sampling, entry = (samples, length, seed), {"score": criterion, **settings}
    asked: dict[str, Any] = {"criterion": entry, "pattern": pattern, "bos": bos}
    with _work(model, text, tokenizer, sampling, **asked) as work:
        (dense, config, states), zeros = work, sparsity(model)
        if zeros >= min(_MOST_ZEROS_OF_DENSE, 0.9 * Pattern.parse(pattern).sparsity):
            raise UserError(
                "this model is pruned already",
                where=type(model).__name__,
                found=f"{100 * zeros:.1f} % zeros",
                todo="prune the model that you loaded, which `prune` has left as it is",
            )
        chosen, scratch = config.criteria[_NAME], states.scratch
        folders = scratch / "dense", scratch / "hidden", _NAME, scratch
        source = states.calibration
        if chosen.statistics == "dense":
            with _bar("dense pass", progress) as report:
                asked = {"keep": KEEP_NONE, "gram": chosen.needs_gram, "dense_limit": math.inf}
                source = capture_dense(dense, source, *folders, **asked, report=report)
        job = seed, scratch / "masks", _NAME, dense.artifact, source
        with _bar(f"prune by {criterion}", progress) as report:
            pruning = Pruning.of(chosen.as_json(), pattern, *job)
            masks = prune_model(dense, source, pruning, states, report)
        blocks = (load_pruned_block(dense, masks, at)[0] for at in range(dense.num_blocks))
        return copied(model, blocks, config=masks.facts["config"])


def reconstruct(
    pruned: PreTrainedModel,
    dense: PreTrainedModel,
    text: Text,
    tokenizer: Any = None,
    *,
    method: str = "reconstruction",
    samples: int = 32,
    length: int = 256,
    seed: int = 0,
    bos: str = "auto",
    progress: bool = True,
    **settings: Any,
) -> PreTrainedModel:
    """Return a copy of a pruned model, trained window by window to match the dense model.

    Args:
        pruned: A model pruned by `prune` or any other tool: its zeros are its masks.
        dense: The model that it was pruned from.
        text: What to train on; as in `prune`, the seed also decides the sample.
        method: reconstruction, or least_squares: the exact optimum of each matrix.
        settings: Settings of the method, such as `window`, `learning_rate` or `epochs`.

    UserError: the model is not pruned, or has fewer blocks than the window.
    """
    sampling, entry = (samples, length, seed), {"method": method, **settings}
    return _adapted(pruned, dense, text, tokenizer, sampling, entry, bos, progress)


def retrain(
    pruned: PreTrainedModel,
    text: Text,
    tokenizer: Any = None,
    *,
    dense: PreTrainedModel | None = None,
    method: str = "full",
    samples: int = 32,
    length: int = 256,
    seed: int = 0,
    bos: str = "auto",
    progress: bool = True,
    **settings: Any,
) -> PreTrainedModel:
    """Return a copy of a pruned model, trained as a whole under its masks.

    Args:
        pruned: As in `reconstruct`.
        text: What to train on.
        dense: The model that it was pruned from, for `loss="distillation"`.
        method: A method of docs/guide/retraining.md, such as full, masklora or biases_norms.
        settings: Settings of the method, such as `learning_rate`, `epochs` or `rank`.

    UserError: the model is not pruned.
    """
    sampling, entry = (samples, length, seed), {"method": method, **settings}
    if entry.get("loss") == DISTILLATION and dense is None:
        raise UserError(
            "distillation needs the model that this one was pruned from",
            where="dense",
            found="none",
            todo="give it: retrain(pruned, text, tokenizer, dense=model, ...)",
        )
    return _adapted(pruned, dense or pruned, text, tokenizer, sampling, entry, bos, progress)


def evaluate(
    model: PreTrainedModel,
    text: Text,
    tokenizer: Any = None,
    *,
    length: int = 256,
    bos: str = "auto",
    progress: bool = True,
    **settings: Any,
) -> dict[str, Any]:
    """Return what a record has as `metrics.perplexity`: `perplexity` per token and its standard
    error, `loss` (nats per token), `bits_per_byte`, `window_losses` and more.

    Args:
        model: A dense or a pruned model.
        text: Documents, which are cut into windows, or the token ids of windows.
        length: Tokens in a window.
        settings: Settings of study.evaluation.perplexity: `windows`, `cut`, `stride`.
    """
    with _work(model, text, tokenizer, (2, length, 0), evaluation=settings, bos=bos) as work:
        loaded, _, states = work
        windows = of_text(loaded, states.calibration, states.scratch)
        with _bar("evaluate", progress) as report:
            pass_through(loaded, [windows], report)
        return dict(windows.result().metrics)


def sparsity(model: PreTrainedModel) -> float:
    """Return the share of zeros in the linear layers of a model's blocks, in [0, 1]."""
    linears = [each for block in blocks_of(model) for each in block_linears(block).values()]
    zeros = sum(int((linear.weight == 0).sum()) for linear in linears)
    return zeros / sum(linear.weight.numel() for linear in linears)


@contextmanager
def _work(
    module: PreTrainedModel,
    text: Text,
    tokenizer: Any,
    sampling: tuple[int, int, int],
    **asked: Any,
) -> Iterator[tuple[LoadedModel, Config, DenseStates]]:
    """Open a model, check settings, and make token ids: windows if an evaluation is asked for, else
    the sample of (samples, length, seed). Meanwhile, transformers reports nothing.
    """
    found = "no tokenizer" if tokenizer is None else None
    if isinstance(text, str):
        found = "one string"
    if isinstance(text, Tensor):
        is_ids = text.dim() == 2 and text.dtype == torch.int64 and not asked.get("evaluation")
        found = None if is_ids else f"{text.dtype}, {tuple(text.shape)}, {asked}"
        sampling = (*text.shape[:1], *text.shape[-1:], sampling[2])
    if found is not None:
        raise UserError(
            "neither a list of documents, with a tokenizer, nor token ids",
            where="text",
            found=found,
            expected="strings; or int64 of shape (sequences, length), and no settings of windows",
        )
    said: Any = transformers.logging
    level, has_bars = said.get_verbosity(), said.is_progress_bar_enabled()
    said.set_verbosity_error()
    said.disable_progress_bar()
    try:
        with tempfile.TemporaryDirectory(prefix="freelunch-") as folder:
            model = LoadedModel(module, Path(folder) / "model", tokenizer)
            config = _checked(model, sampling, **asked)
            sample = _tokens(model, text, config, "evaluation" in asked)
            yield model, config, DenseStates(model, sample, None, Path(folder))
    finally:
        said.set_verbosity(level)
        if has_bars:
            said.enable_progress_bar()


def _checked(
    model: LoadedModel,
    sampling: tuple[int, int, int],
    criterion: dict[str, Any] | None = None,
    pattern: str = "u50",
    adaptation: dict[str, Any] | None = None,
    evaluation: dict[str, Any] | None = None,
    bos: str = AUTO,
) -> Config:
    """Return settings as those of a study with one cell; UserError as for a study."""
    samples, length, seed = sampling
    positions = positions_of(model.config.to_dict())
    if positions is not None and length > positions:
        raise UserError(
            "the sequences are longer than the model takes",
            where="length",
            found=length,
            expected=f"at most {positions}",
        )
    local, dtype = {"source": "path", "path": str(model.folder)}, str(model.dtype)
    cell = {"models": [_NAME], "criteria": [_NAME], "patterns": [pattern], "seeds": [seed]}
    study = {
        "name": _NAME,
        "calibration": {"text": _NAME, "samples": samples, "length": length},
        "evaluation": {"perplexity": {"text": _NAME, "length": length, **(evaluation or {})}},
        "grids": [{**cell, "adaptations": [_NAME if adaptation else NONE]}],
    }
    content = {
        "models": {_NAME: {**local, "dtype": dtype.removeprefix("torch."), "bos": bos}},
        "texts": {_NAME: {**local, "format": "plain"}},
        "criteria": {_NAME: criterion or {"score": "wanda"}},
        "adaptations": {_NAME: adaptation} if adaptation else {},
        "study": study,
    }
    return Study.check(content, _NAME).config


def _tokens(model: LoadedModel, text: Text, config: Config, is_evaluation: bool) -> Artifact:
    folder, study = model.folder.parent, config.study
    if isinstance(text, Tensor):
        check_vocabulary(text, model.artifact, "text")
        # What is known of windows of documents only.
        unknown: dict[str, Any] = dict.fromkeys(("bytes", "words", "documents", "text"))
        facts = {"model": model.artifact.digest, "stride": text.shape[1], **unknown}
        kind = TEXT_WINDOWS if is_evaluation else CALIBRATION
        return write_tokens(folder / "tokens", _NAME, text.cpu(), kind=kind, **facts)
    path = folder / "documents.jsonl"
    path.write_text("".join(map(document_line, text)), encoding="utf-8")
    entry = LocalText(source="path", path=str(path), format="jsonl")
    documents = fetch_text(_NAME, entry, folder / "text", _NAME)
    (scratch := folder / "windows").mkdir()
    asked = config.models[_NAME].bos, study.calibration.length
    begins = decide_bos(model, documents, *asked, folder / "bos", _NAME, scratch)
    token = begins.facts["token_id"]
    job = TokenJob(model.artifact, documents, folder / "tokens", _NAME, bos=token)
    if is_evaluation:
        return cut_windows(job, study.evaluation.perplexity.cutting())
    drawn = study.calibration.model_dump(include={"samples", "length"})
    return sample_text(job, {**drawn, "seed": study.grids[0].seeds[0]})


def _adapted(
    pruned: PreTrainedModel,
    dense: PreTrainedModel,
    text: Text,
    tokenizer: Any,
    sampling: tuple[int, int, int],
    entry: dict[str, Any],
    bos: str,
    progress: bool,
) -> PreTrainedModel:
    for key, value in entry.items():
        is_open = value == AUTO or (key in SEARCHED and isinstance(value, list))
        is_found = (key, value) == ("learning_rate", AUTO)
        if (is_open and not is_found) or key in ("budget", "memory_gb"):
            raise UserError(
                "only a study can decide this setting",
                where=key,
                found=value,
                expected="one value; `samples` and `length` say how much text there is",
                todo="choose a value, or run a study (docs/guide/own_study.md)",
            )
    rate = {"learning_rate": AUTO} if entry["method"] != "least_squares" else {}
    with _work(dense, text, tokenizer, sampling, adaptation=rate | entry, bos=bos) as work:
        model, config, states = work
        settings, folder = config.adaptations[_NAME], states.scratch / "adapted"
        writer = ArtifactWriter(states.scratch / "masks", MASKS, _NAME)
        loaded, zeros = LoadedModel(pruned, states.scratch / "pruned"), sparsity(pruned)
        if zeros < _LEAST_ZEROS_OF_PRUNED or (dense is not pruned and zeros <= sparsity(dense)):
            raise UserError(
                "this model is not pruned",
                where=type(pruned).__name__,
                found=f"{100 * zeros:.2f} % zeros",
                expected="more zeros than the dense model has",
                todo="prune it first",
            )
        model.write_difference(loaded, writer)
        belongs = {"model": model.artifact.digest, "calibration": states.calibration.digest}
        masks = writer.finish(**belongs)
        given = settings, sampling[2], folder, _NAME
        job: AdaptationJob[Any] = AdaptationJob(model, masks, states, *given)
        is_streamed = isinstance(settings, Retraining) and settings.residency == "streamed"
        window: Window = MODEL if isinstance(settings, Retraining) else settings.window
        if finds_rate(settings):
            with _bar("find the learning rate", progress) as report:
                probes = replace(job, folder=states.scratch / "rate", report=report)
                found = find_rate(probes, _NAME, window, is_streamed)
            job = replace(job, settings=at_rate_of(found, settings))
        with _bar(settings.rule, progress) as report:
            job = replace(job, report=report)
            if window == MODEL:
                made = retrain_model(job, streamed=is_streamed)
            else:
                windows = split_windows(model.num_blocks, window)
                made = reconstruct_windows(job, window, windows)
        outer = load_file(made.path(OUTER)) if OUTER in made.files else {}
        blocks = (model.load_block(index, made) for index in range(model.num_blocks))
        return copied(pruned, blocks, outer)


@contextmanager
def _bar(title: str, shown: bool) -> Iterator[Report]:
    with tqdm(desc=title, disable=not shown) as bar:

        def report(done: int, total: int, note: str) -> None:
            bar.total = total
            bar.set_postfix_str(note, refresh=False)
            bar.update(done - bar.n)

        yield report
