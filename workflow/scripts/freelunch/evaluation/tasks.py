"""Zero-shot tasks with lm-evaluation-harness: its prompts and metrics, our documents and passes.

A stock task keeps everything except the source of its documents: a YAML file of ours includes the
stock file and names a local file. (A dict with a stock task's name would replace the task.) The
harness asks for the log-likelihoods of all tasks at once, so that the model is streamed once for
all of them.
"""

import gzip
import json
import math
import os
import random
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from statistics import fmean
from typing import Any, TypedDict

# lm-eval and datasets read these when they are imported. All documents are on this machine.
os.environ.setdefault("TQDM_DISABLE", "1")
os.environ.setdefault("HF_DATASETS_OFFLINE", "1")

import datasets
import lm_eval
import lm_eval.tasks
import yaml
from lm_eval.api.instance import Instance
from lm_eval.api.model import TemplateLM
from lm_eval.evaluator import evaluate
from torch import nn
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from freelunch.core.artifact import Artifact
from freelunch.core.digest import json_digest
from freelunch.core.errors import UserError, first_line
from freelunch.evaluation.likelihood import LikelihoodRequest, LogLikelihood
from freelunch.evaluation.measurements import Measured, MeasurementSpec
from freelunch.model.checkpoint import StreamedModel, folder_of_texts
from freelunch.study.families import positions_of
from freelunch.study.steps import ANSWERS, BOS, DOCUMENTS, TASK

METRIC = "acc"
SPLITS = ("training_split", "validation_split", "test_split", "fewshot_split")
STOCK = Path(lm_eval.tasks.__file__).parent
_CORRECT = "take documents with these fields, or correct `format` or `member`"


class Asked(Exception):
    """The harness has made its requests, and stops here."""


class DocumentAnswer(TypedDict):
    """The answer to a document: its index in the whole task, the log-likelihoods of its choices,
    and whether it is right.
    """

    document: int
    log_likelihoods: list[float]
    right: bool


class PackedLM(TemplateLM):  # type: ignore[misc]
    """The model that the harness asks for log-likelihoods: it first notes the requests, truncated
    to what the model takes, then answers with `values`. `truncated` counts longer `requests`,
    and `tokens` of their contexts that were left out. It tokenises as lm-eval's own class for
    Hugging Face models does, but it is the study that decides whether prompts begin with the
    beginning-of-sequence token, `bos`.
    """

    def __init__(self, model: StreamedModel, bos: int | None = None) -> None:
        super().__init__()
        self._streamed, self._bos = model, bos
        self.tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(
            folder_of_texts(model.artifact), trust_remote_code=False
        )
        self.requests: list[LikelihoodRequest] = []
        self.truncated = {"requests": 0, "tokens": 0}
        self.values: Sequence[tuple[float, bool]] | None = None

    @property
    def eot_token_id(self) -> int:
        return int(self.tokenizer.eos_token_id)

    @property
    def prefix_token_id(self) -> int:
        begin = self.tokenizer.bos_token_id
        return self.eot_token_id if begin is None else int(begin)

    @property
    def max_length(self) -> int:
        """Return the largest number of tokens that the model takes."""
        # A model that biases attention by distance alone (BLOOM) states none and takes any number.
        return positions_of(self._streamed.config.to_dict()) or sys.maxsize

    def tok_encode(
        self, string: str, add_special_tokens: bool | None = None, **kwargs: Any
    ) -> list[int]:
        """Return the tokens of a string, which has at most one beginning-of-sequence token."""
        tokens: list[int] = self.tokenizer.encode(string, add_special_tokens=False)
        if self._bos is None or add_special_tokens is False or tokens[:1] == [self._bos]:
            return tokens
        return [self._bos, *tokens]

    def loglikelihood(
        self, requests: list[Instance], disable_tqdm: bool = True
    ) -> list[tuple[float, bool]]:
        """Return the log-likelihood of each continuation, and whether it is the most likely."""
        return super().loglikelihood(requests, disable_tqdm)  # type: ignore[no-any-return]

    def _loglikelihood_tokens(
        self, requests: list[tuple[tuple[str, str], list[int], list[int]]], **kwargs: Any
    ) -> list[tuple[float, bool]]:
        if self.values is not None:
            return list(self.values)
        asked = [LikelihoodRequest(context, continuation) for _, context, continuation in requests]
        self.requests = [request.truncated(self.max_length) for request in asked]
        for request, other in zip(asked, self.requests, strict=True):
            lost = len(request.context) - len(other.context)
            self.truncated["requests"] += lost > 0
            self.truncated["tokens"] += lost
            if not other.context:
                raise UserError(
                    "an answer fills the whole context of this model",
                    where=self._streamed.folder,
                    found=f"{len(request.continuation)} tokens",
                    expected=f"fewer than {self.max_length}, the positions of the model",
                    todo="leave this task out, or use a model with more positions",
                )
        raise Asked

    def loglikelihood_rolling(self, requests: list[Instance], **kwargs: Any) -> Any:
        """Refuse: perplexity has a step of its own, and nothing is generated."""
        raise NotImplementedError("tasks of log-likelihoods of choices only")

    generate_until = loglikelihood_rolling


class TaskAccuracy:
    """Measure how a checkpoint answers the documents of zero-shot tasks: `limit` documents of each,
    or all, in a sample by the seed. The harness runs twice: first until it asks for all
    log-likelihoods, and again with the answers, once all requests have passed through the
    blocks. The scratch folder is for hidden states and for the files that lm-eval writes.
    UserError: as in `load_tasks`, or an answer is longer than the model takes.
    """

    def __init__(
        self,
        model: StreamedModel,
        tasks: Mapping[str, Artifact],
        limit: int | None,
        seed: int,
        scratch: Path,
        bos: int | None = None,
    ) -> None:
        self._tasks = tasks
        self._documents = {name: task.facts["documents"] for name, task in tasks.items()}
        self._samples = {
            name: sample(count, limit, seed) for name, count in self._documents.items()
        }
        self._lm = PackedLM(model, bos)
        self._loaded = load_tasks(tasks, self._samples, scratch)
        with suppress(Asked):
            self._harness()
        self._likelihood = LogLikelihood(model, self._lm.requests, scratch)

    def through_(self, index: int, block: nn.Module) -> None:
        """Pass all requests through a block."""
        self._likelihood.through_(index, block)

    def result(self) -> Measured:
        """Return, for each task, `accuracy`, its standard error and what was asked; and `accuracy`
        and its standard error for the plain mean over tasks. A file of its own has a
        `DocumentAnswer` for each task and document.
        """
        passed = self._likelihood.values()
        self._lm.values = passed.values
        results = self._harness()
        answers = {
            name: _answers(results["samples"][name], self._samples[name]) for name in self._tasks
        }
        each = {
            name: {
                **_accuracy([answer["right"] for answer in answers[name]]),
                "documents": len(answers[name]),
                "documents_in_all": self._documents[name],
                "version": results["versions"][name],
                "prompts_sha256": json_digest(
                    [[one["prompt_hash"], one["target_hash"]] for one in results["samples"][name]]
                ),
                "sample_sha256": json_digest(self._samples[name]),
                "task": task.digest,
            }
            for name, task in self._tasks.items()
        }
        errors = [task["accuracy_standard_error"] for task in each.values()]
        counts = {key: value for key, value in vars(passed).items() if key != "values"}
        metrics = {
            "tasks": each,
            "truncated": self._lm.truncated,
            **counts,
            "accuracy": fmean(task["accuracy"] for task in each.values()),
            "accuracy_standard_error": math.hypot(*errors) / len(errors),
        }
        counts = {"tokens": passed.passed_tokens, **counts}
        return Measured(metrics, counts, {ANSWERS: answers_bytes(answers)})

    def _harness(self) -> Mapping[str, Any]:
        return evaluate(self._lm, self._loaded, bootstrap_iters=0, log_samples=True)  # type: ignore[no-any-return]


def begin(model: StreamedModel, spec: MeasurementSpec, scratch: Path) -> TaskAccuracy:
    """Return the measurement, whose inputs are how sequences begin, and folders named after their
    tasks.
    """
    beginning, *folders = spec.inputs
    tasks = {folder.name: Artifact(folder, TASK) for folder in folders}
    bos = Artifact(beginning, BOS).facts["token_id"]
    return TaskAccuracy(model, tasks, spec.settings["limit"], spec.settings["seed"], scratch, bos)


def sample(documents: int, limit: int | None, seed: int) -> list[int]:
    """Return the sorted indices of the documents to ask: the first ones of a seeded shuffle."""
    order = list(range(documents))
    # The first documents of a task do not represent all of them.
    random.Random(seed).shuffle(order)
    return sorted(order[:limit])


def answers_bytes(answers: Mapping[str, object]) -> bytes:
    """Return answers as compressed JSON; equal answers give equal bytes."""
    return gzip.compress(json.dumps(answers, sort_keys=True).encode(), mtime=0)


def load_tasks(
    tasks: Mapping[str, Artifact], samples: Mapping[str, Sequence[int]], scratch: Path
) -> Any:
    """Return the tasks that the harness evaluates: stock tasks without examples, on the documents
    with these indices. UserError: a task has no accuracy, or its documents lack a field or a
    right answer.
    """
    datasets.disable_progress_bars()
    folder = scratch / "tasks"
    folder.mkdir(exist_ok=True)
    for name, artifact in tasks.items():
        # Write only the sample: lm-eval formats every document that it is given, several times. Do
        # not use `splitlines`, which would also cut documents at U+2028 and similar characters.
        with artifact.path(DOCUMENTS).open(encoding="utf-8", newline="\n") as file:
            lines = file.readlines()
        documents = folder / f"{name}.jsonl"
        documents.write_text("".join(lines[index] for index in samples[name]), encoding="utf-8")
        stock = artifact.facts["stock"]
        changes = {
            "include": str(STOCK / stock["file"]),
            "task": name,
            "dataset_path": "json",
            "dataset_name": None,
            "dataset_kwargs": {
                "data_files": {stock["split"]: str(documents.resolve())},
                "cache_dir": str((scratch / "datasets").resolve()),
            },
            # The other splits do not exist here.
            **dict.fromkeys(SPLITS),
            "test_split" if stock["split"] == "test" else "validation_split": stock["split"],
            "num_fewshot": 0,
        }
        (folder / f"{name}.yaml").write_text(yaml.safe_dump(changes), encoding="utf-8")
    # Load these tasks only.
    manager = lm_eval.tasks.TaskManager(include_path=str(folder), include_defaults=False)
    loaded = {
        name: _loaded(manager, name, artifact.facts["stock"]["file"], samples[name])
        for name, artifact in tasks.items()
    }
    return {"tasks": loaded, "groups": {}, "group_map": {}}


def _loaded(manager: Any, name: str, file: str, documents: Sequence[int]) -> Any:
    where = f"tasks.{name}"
    try:
        task = manager.load(name)["tasks"][name]
        _check_fields(task, where)
        if len(task.task_docs) != len(documents):
            todo = f"leave out what lm_eval/tasks/{file} leaves out, and correct `documents`"
            problem, rest = "lm-eval's task leaves out some documents", len(task.task_docs)
            raise _refusal(problem, where, rest, len(documents), todo)
        _check_right_answers(task, documents, where)
    except (UserError, OSError, MemoryError):
        raise
    except Exception as error:  # Whatever lm-eval's code or templates for this task raise.
        found, takes = first_line(error), f"documents as lm_eval/tasks/{file} takes them"
        problem = "lm-eval cannot make its task of these documents"
        raise _refusal(problem, where, found, takes) from error
    if METRIC not in task.aggregation():
        found = ", ".join(task.aggregation())
        raise _refusal("this task has no accuracy", where, found, METRIC, "leave this task out")
    return task


def _refusal(
    problem: str, where: str, found: object, expected: object, todo: str = _CORRECT
) -> UserError:
    return UserError(problem, where=where, found=found, expected=expected, todo=todo)


def _check_fields(task: Any, where: str) -> None:
    """lm-eval would put a name that is no field, as text, into each prompt."""
    for setting in ("doc_to_text", "doc_to_target", "doc_to_choice"):
        name = getattr(task.config, setting)
        if isinstance(name, str) and name.isidentifier() and name not in task.features:
            problem, found = "the documents lack a field of lm-eval's task", sorted(task.features)
            raise _refusal(problem, where, ", ".join(found), f"{name} ({setting})")


def _check_right_answers(task: Any, documents: Sequence[int], where: str) -> None:
    """lm-eval would count what has no right answer, as in secret test splits, as answered
    wrongly.
    """
    if task.OUTPUT_TYPE != "multiple_choice":
        return
    # Unlike `eval_docs`, these are not made anew each time that one asks for them.
    for number, document in zip(documents, task.task_docs, strict=True):
        # A document has several contexts and one continuation, or the other way round.
        right = (task.doc_to_text if task.multiple_input else task.doc_to_target)(document)
        choices = task.doc_to_choice(document)
        each = right if isinstance(right, list) else [right]
        if not all(one in choices or one in range(len(choices)) for one in each):
            problem = "the right answer of a document is not among its choices"
            numbers, todo = f"a number from 0 to {len(choices) - 1}", "take a split with answers"
            raise _refusal(problem, f"{where}, document {number}", right, numbers, todo)


def _answers(
    samples: Sequence[Mapping[str, Any]], documents: Sequence[int]
) -> list[DocumentAnswer]:
    return [
        {
            "document": documents[each["doc_id"]],
            "log_likelihoods": [float(value) for value, _ in each["filtered_resps"]],
            "right": bool(each[METRIC]),
        }
        for each in samples
    ]


def _accuracy(right: Sequence[bool]) -> dict[str, float]:
    mean = fmean(right)
    # With a single answer, the variance is not known.
    variance = mean * (1 - mean) / (len(right) - 1) if len(right) > 1 else math.nan
    return {"accuracy": mean, "accuracy_standard_error": math.sqrt(variance)}
