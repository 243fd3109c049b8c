"""Prune, reconstruct, retrain and evaluate a model that transformers has loaded, in a notebook.

    from freelunch.notebook import evaluate, prune, reconstruct, retrain, sparsity

    pruned = prune(model, documents, tokenizer, criterion="wanda", pattern="u50")
    adapted = reconstruct(pruned, model, documents, tokenizer, window=1)
    evaluate(adapted, other_documents, tokenizer)["perplexity"]

These functions run the code of the workflow's jobs, and return its numbers. A model that they get
stays as it is, and the model that they return is another copy, on the same device. Hidden states
and statistics are in a temporary folder (`TMPDIR`) while a function runs.

`text` is a list of documents, of which `tokenizer` makes token ids as the workflow does, or the
token ids themselves, int64, (sequences, length). Further settings have the names and the values of
docs/guide/settings.md. Every function raises UserError if a setting is wrong, or if a model is not
in the memory of one device, is quantised, or is not a decoder that the workflow can prune.
"""

import math
import tempfile
from collections.abc import Iterator, Mapping, Sequence
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

from freelunch.adaptation.job import AdaptationJob
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
from freelunch.evaluation.measurements import pass_through
from freelunch.evaluation.perplexity import TextPerplexity
from freelunch.model.block_pass import DensePass
from freelunch.model.blocks import block_linears
from freelunch.model.checkpoint import OUTER
from freelunch.model.hidden_states import DenseStates
from freelunch.model.loaded_model import LoadedModel, blocks_of, copied
from freelunch.model.mask_store import load_pruned_block
from freelunch.model.token_ids import check_vocabulary, write_tokens
from freelunch.pruning.dense_pass import capture_dense
from freelunch.pruning.prune import prune_model
from freelunch.pruning.sharing import Pruning
from freelunch.study.cell import NONE
from freelunch.study.config import Config
from freelunch.study.patterns import Pattern
from freelunch.study.search import SEARCHED
from freelunch.study.sources import LocalText
from freelunch.study.steps import CALIBRATION, MASKS, TEXT_WINDOWS
from freelunch.study.study import Study
from freelunch.study.windows import AUTO, KEEP_NONE, split_windows

Text = Tensor | Sequence[str]
# Settings that a study resolves before its jobs run.
_OF_STUDIES = ("budget", "memory_gb")
# Some quantised models have a fifth of their weights at 0.
_MOST_ZEROS_OF_DENSE = 0.25
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
    progress: bool = True,
    **settings: Any,
) -> PreTrainedModel:
    """Return a pruned copy of a dense model, with exactly the zeros that the pattern asks for.

    Args:
        model: The dense model.
        text: Calibration text, of which `samples` sequences of `length` tokens are drawn by the
            seed; or token ids, all of which are used.
        tokenizer: The model's tokenizer, if the text is a list of documents.
        criterion: The `score` of a criterion, such as magnitude, wanda, ria or sparsegpt.
        pattern: uNN, NofM or sNN, such as u50, 2of4 or s20.
        samples, length: Sequences, and tokens in each.
        seed: Of the sample, and of criteria that draw random numbers.
        progress: Whether to show progress bars.
        settings: Other settings of the criterion, such as `scope` or `swaps`.

    Raises:
        UserError: The model is pruned already: a quarter of its weights, or nearly as many as the
            pattern asks for, are 0.
    """
    with _opened(model, tokenizer) as work:
        work.draw(text, samples, length, seed)
        entry = {"score": criterion, **settings}
        chosen = work.check(criterion=entry, pattern=pattern, seed=seed).criteria[_NAME]
        zeros, share = sparsity(model), Pattern.parse(pattern).sparsity
        if zeros >= min(_MOST_ZEROS_OF_DENSE, 0.9 * share):
            raise UserError(
                "this model is pruned already",
                where=type(model).__name__,
                found=f"{100 * zeros:.1f} % zeros",
                expected="a dense model",
                todo="prune the model that you loaded, which `prune` has left as it is",
            )
        dense, folder, states = work.model, work.folder, work.states()
        with _bar("dense pass", progress) as report:
            folders = folder / "statistics", folder / "hidden"
            passing = DensePass(
                dense, work.sample, KEEP_NONE, *folders, _NAME, states.scratch, report
            )
            statistics = capture_dense(passing, chosen.needs_gram, math.inf)
        pruning = Pruning.of(
            chosen.as_json(), pattern, seed, folder / "masks", _NAME, dense.artifact, statistics
        )
        with _bar(f"prune by {criterion}", progress) as report:
            masks = prune_model(dense, statistics, pruning, states, report)
        blocks = (load_pruned_block(dense, masks.folder, at)[0] for at in range(dense.num_blocks))
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
    progress: bool = True,
    **settings: Any,
) -> PreTrainedModel:
    """Return a copy of a pruned model, each window of which was trained to match the dense model.

    Args:
        pruned: A pruned model, by `prune` or by anything else: the zeros in the linear layers of
            its blocks are its masks.
        dense: The model that it was pruned from.
        text: Text to train on, as in `prune`; with the same arguments, the same sample.
        tokenizer: The model's tokenizer, if the text is a list of documents.
        method: reconstruction, or least_squares for the exact optimum of each matrix.
        samples, length: Sequences, and tokens in each.
        seed: Of the sample, and of the order of training.
        progress: Whether to show progress bars.
        settings: Other settings of the adaptation, such as `window` or `learning_rate`.

    Raises:
        UserError: The model is not pruned, it has fewer blocks than the window, or the training
            diverges.
    """
    with _opened(dense, tokenizer) as work:
        work.draw(text, samples, length, seed)
        job = work.adaptation(pruned, {"method": method, **settings}, False, seed)
        window = job.settings.window
        windows = split_windows(work.model.num_blocks, window)
        with _bar("reconstruct", progress) as report:
            made = reconstruct_windows(replace(job, report=report), window, windows)
        return work.adapted(pruned, made)


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
    progress: bool = True,
    **settings: Any,
) -> PreTrainedModel:
    """Return a copy of a pruned model that was trained as a whole, under its masks.

    Args:
        pruned: As in `reconstruct`.
        text: Text to train on, as in `prune`.
        tokenizer: The model's tokenizer, if the text is a list of documents.
        dense: The model that it was pruned from, for `loss="distillation"`.
        method: A method of docs/guide/retraining.md, such as full, masklora or biases_norms.
        samples, length: Sequences, and tokens in each.
        seed: Of the sample, of the order of training, and of initial values.
        progress: Whether to show progress bars.
        settings: Other settings of the adaptation, such as `learning_rate` or `epochs`.

    Raises:
        UserError: The model is not pruned, or the training diverges.
    """
    with _opened(dense or pruned, tokenizer) as work:
        work.draw(text, samples, length, seed)
        job = work.adaptation(pruned, {"method": method, **settings}, True, seed)
        if job.settings.distils and dense is None:
            raise UserError(
                "distillation needs the model that this one was pruned from",
                where="dense",
                found="none",
                todo="give it: retrain(pruned, text, tokenizer, dense=model, ...)",
            )
        with _bar("retrain", progress) as report:
            streamed = job.settings.residency == "streamed"
            made = retrain_model(replace(job, report=report), streamed)
        return work.adapted(pruned, made)


def evaluate(
    model: PreTrainedModel,
    text: Text,
    tokenizer: Any = None,
    *,
    progress: bool = True,
    **settings: Any,
) -> dict[str, Any]:
    """Return what the workflow measures on an evaluation text: `perplexity` (per token),
    `perplexity_standard_error` over windows, `loss` (nats per token), `bits_per_byte`, the loss of
    each window and more, in the form of a record's `metrics.perplexity`.

    Args:
        model: Any model, dense or pruned.
        text: Documents, or the token ids of windows, (windows, length), int64.
        tokenizer: The model's tokenizer, if the text is a list of documents.
        progress: Whether to show a progress bar.
        settings: Those of `study.evaluation.perplexity`: `length` (256 tokens), `windows` (all
            that the text has), `cut`, `stride`. Token ids are windows already, and take none.
    """
    with _opened(model, tokenizer) as work:
        work.cut(text, settings)
        windows = TextPerplexity(work.model, work.sample, work.folder)
        with _bar("evaluate", progress) as report:
            pass_through(work.model, [windows], report)
        return dict(windows.result().metrics)


def sparsity(model: PreTrainedModel) -> float:
    """Return the share of zeros in the linear layers of a model's blocks, in [0, 1]."""
    linears = [each for block in blocks_of(model) for each in block_linears(block).values()]
    zeros = sum(int((linear.weight == 0).sum()) for linear in linears)
    return zeros / sum(linear.weight.numel() for linear in linears)


class _Work:
    """A model and what is computed with it, in a temporary folder; `sample` is the artifact of the
    token ids, (samples, length).
    """

    sample: Artifact

    def __init__(self, folder: Path, module: PreTrainedModel, tokenizer: Any) -> None:
        self.folder, self._tokenizer = folder, tokenizer
        self.model = LoadedModel(module, folder / "model", tokenizer)
        self._shape = {"samples": 2, "length": 256}

    def draw(self, text: Text, samples: int, length: int, seed: int) -> None:
        """Draw a calibration sample, or take its token ids."""
        if isinstance(text, Tensor):
            return self._take(text, kind=CALIBRATION)
        self._shape = {"samples": samples, "length": length}
        self.check(seed=seed)
        self.sample = sample_text(self._token_job(text), {**self._shape, "seed": seed})

    def cut(self, text: Text, settings: Mapping[str, Any]) -> None:
        """Cut the windows of an evaluation text, or take their token ids."""
        cutting = self.check(evaluation=settings).study.evaluation.perplexity.cutting()
        if isinstance(text, Tensor):
            unknown = dict.fromkeys(("bytes", "words", "documents", "text"))
            stride = settings.get("stride", text.shape[-1])
            return self._take(text, kind=TEXT_WINDOWS, stride=stride, **unknown)
        self.sample = cut_windows(self._token_job(text), cutting)

    def check(
        self,
        criterion: Mapping[str, Any] | None = None,
        pattern: str = "u50",
        adaptation: Mapping[str, Any] | None = None,
        evaluation: Mapping[str, Any] | None = None,
        seed: int = 0,
    ) -> Config:
        """Return the settings as those of a study with one cell, which says what is wrong."""
        local, dtype = {"source": "path", "path": str(self.folder)}, str(self.model.dtype)
        perplexity = {"text": _NAME, "length": self._shape["length"], **(evaluation or {})}
        cell = {"models": [_NAME], "criteria": [_NAME], "patterns": [pattern], "seeds": [seed]}
        content = {
            "models": {_NAME: {**local, "dtype": dtype.removeprefix("torch.")}},
            "texts": {_NAME: {**local, "format": "plain"}},
            "criteria": {_NAME: criterion or {"score": "wanda"}},
            "adaptations": {_NAME: adaptation} if adaptation else {},
            "study": {
                "name": _NAME,
                "calibration": {"text": _NAME, **self._shape},
                "evaluation": {"perplexity": perplexity},
                "grids": [{**cell, "adaptations": [_NAME if adaptation else NONE]}],
            },
        }
        return Study.check(content, _NAME).config

    def states(self) -> DenseStates:
        """Return the dense model's hidden states on the sample, which are computed when needed."""
        scratch = self.folder / "scratch"
        scratch.mkdir(exist_ok=True)
        return DenseStates(self.model, self.sample, None, scratch)

    def adaptation(
        self, pruned: PreTrainedModel, entry: dict[str, Any], is_retraining: bool, seed: int
    ) -> AdaptationJob[Any]:
        """Return the job that adapts a pruned model."""
        settings = self.check(adaptation=entry, seed=seed).adaptations[_NAME]
        if settings.is_retraining != is_retraining:
            other = "retrain" if settings.is_retraining else "reconstruct"
            raise UserError(
                "another function adapts a model by this method",
                where="method",
                found=entry["method"],
                todo=f"call {other}",
            )
        undecided = {
            key: value
            for key, value in entry.items()
            if key in _OF_STUDIES
            or (key in ("window", *SEARCHED) and (value == AUTO or isinstance(value, list)))
        }
        if undecided:
            raise UserError(
                "only a study can decide this setting",
                where=", ".join(undecided),
                found=", ".join(map(str, undecided.values())),
                expected="one value of each setting; the arguments `samples` and `length` say how "
                "much text there is",
                todo="choose a value, or run a study (docs/guide/own_study.md)",
            )
        loaded = LoadedModel(pruned, self.folder / "pruned")
        writer = ArtifactWriter(self.folder / "masks", MASKS, _NAME)
        self.model.write_difference(loaded, writer)
        masks = writer.finish(model=self.model.artifact.digest, calibration=self.sample.digest)
        folder = self.folder / "adapted"
        return AdaptationJob(self.model, masks, self.states(), settings, seed, folder, _NAME)

    def adapted(self, pruned: PreTrainedModel, made: Artifact) -> PreTrainedModel:
        """Return a copy of a pruned model with adapted blocks, and the outer part if trained."""
        number = self.model.num_blocks
        blocks = (self.model.load_block(index, made.folder) for index in range(number))
        outer = load_file(made.path(OUTER)) if OUTER in made.files else {}
        return copied(pruned, blocks, outer)

    def _take(self, input_ids: Tensor, **facts: Any) -> None:
        if input_ids.dim() != 2 or input_ids.dtype != torch.int64 or not input_ids.numel():
            raise UserError(
                "these are no token ids",
                where="text",
                found=f"{input_ids.dtype} of shape {tuple(input_ids.shape)}",
                expected="int64 of shape (sequences, length)",
            )
        self._shape = dict(zip(("samples", "length"), input_ids.shape, strict=True))
        self.sample = write_tokens(self.folder / "tokens", _NAME, input_ids.cpu(), **facts)
        check_vocabulary(input_ids, self.model.artifact, "text")

    def _token_job(self, documents: Sequence[str]) -> TokenJob:
        if self._tokenizer is None or isinstance(documents, str):
            raise UserError(
                "a text is a list of documents, with a tokenizer, or a tensor of token ids",
                where="text",
                found="one string" if isinstance(documents, str) else "no tokenizer",
                todo="call with (model, [document, ...], tokenizer)",
            )
        path = self.folder / "documents.jsonl"
        path.write_text("".join(map(document_line, documents)), encoding="utf-8")
        entry = LocalText(source="path", path=str(path), format="jsonl")
        text = fetch_text(_NAME, entry, self.folder / "text", _NAME)
        return TokenJob(self.model.artifact, text, self.folder / "tokens", _NAME)


@contextmanager
def _opened(module: PreTrainedModel, tokenizer: Any) -> Iterator[_Work]:
    """Open a model for work in a temporary folder, in which transformers reports nothing."""
    said: Any = transformers.logging
    level, bars = said.get_verbosity(), said.is_progress_bar_enabled()
    said.set_verbosity_error()
    said.disable_progress_bar()
    try:
        with tempfile.TemporaryDirectory(prefix="freelunch-") as folder:
            yield _Work(Path(folder), module, tokenizer)
    finally:
        said.set_verbosity(level)
        if bars:
            said.enable_progress_bar()


@contextmanager
def _bar(title: str, shown: bool) -> Iterator[Report]:
    with tqdm(desc=title, disable=not shown) as bar:

        def report(done: int, total: int, note: str) -> None:
            bar.total = total
            bar.set_postfix_str(note, refresh=False)
            bar.update(done - bar.n)

        yield report
