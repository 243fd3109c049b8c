"""Zero-shot tasks through lm-evaluation-harness: its prompts and metrics, our data and our passes.

A stock task keeps everything but where its documents come from: a YAML file of ours includes the
stock file and names a file on this machine. (A dict with a stock task's name would replace it.) The
harness asks for log-likelihoods of all tasks at once: the model is streamed once for all of them.
"""

import gzip
import json
import math
import os
import random
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from statistics import fmean
from typing import Any

# Read when they are imported. What a task needs is on this machine.
os.environ.setdefault("TQDM_DISABLE", "1")
os.environ.setdefault("HF_DATASETS_OFFLINE", "1")

import datasets
import lm_eval
import lm_eval.tasks
import yaml
from lm_eval.api.instance import Instance
from lm_eval.api.model import TemplateLM
from lm_eval.evaluator import evaluate
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from freelunch.core.artifact import Artifact
from freelunch.core.digest import json_digest
from freelunch.core.errors import UserError, nearest
from freelunch.core.progress import Report, silent
from freelunch.data.documents import DOCUMENTS
from freelunch.evaluation.likelihood import log_likelihoods
from freelunch.evaluation.packing import Request
from freelunch.model.checkpoint import StreamedModel

METRIC = "acc"
SPLITS = ("training_split", "validation_split", "test_split", "fewshot_split")
STOCK = Path(lm_eval.tasks.__file__).parent


class PackedLM(TemplateLM):  # type: ignore[misc]
    """A model that the harness asks for log-likelihoods, which passes shared contexts once.

    It tokenises as lm-eval's own class for Hugging Face models does: both see the same tokens.

    Args:
        model: The model.
        scratch: A folder for hidden states.
        report: Told of each block.

    Attributes:
        truncated: Of requests that are longer than the model takes: how many `requests`, and how
            many `tokens` of their contexts were left out.
        passed: As in `Likelihoods`.
    """

    def __init__(self, model: StreamedModel, scratch: Path, report: Report = silent) -> None:
        super().__init__()
        self._streamed, self._scratch, self._report = model, scratch, report
        self.tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(
            model.folder, trust_remote_code=False
        )
        self.truncated = {"requests": 0, "tokens": 0}
        self.passed: dict[str, int] = {}

    @property
    def eot_token_id(self) -> int:
        return int(self.tokenizer.eos_token_id)

    @property
    def prefix_token_id(self) -> int:
        begin = self.tokenizer.bos_token_id
        return self.eot_token_id if begin is None else int(begin)

    @property
    def max_length(self) -> int:
        """The most tokens that the model takes."""
        return int(self._streamed.config.max_position_embeddings)

    def tok_encode(
        self, string: str, add_special_tokens: bool | None = None, **kwargs: Any
    ) -> list[int]:
        """Return the tokens of a string."""
        if add_special_tokens is None:
            if not string.startswith(str(self.tokenizer.decode([self.prefix_token_id]))):
                return self.tokenizer.encode(string)  # type: ignore[no-any-return]
            add_special_tokens = False
        return self.tokenizer.encode(  # type: ignore[no-any-return]
            string, add_special_tokens=add_special_tokens
        )

    def loglikelihood(
        self, requests: list[Instance], disable_tqdm: bool = True
    ) -> list[tuple[float, bool]]:
        """Return the log-likelihood of each continuation, and whether it is the most likely."""
        return super().loglikelihood(  # type: ignore[no-any-return]
            requests, disable_tqdm=disable_tqdm
        )

    def _loglikelihood_tokens(
        self, requests: list[tuple[tuple[str, str], list[int], list[int]]], **kwargs: Any
    ) -> list[tuple[float, bool]]:
        asked = [Request(context, continuation) for _, context, continuation in requests]
        fitting = [request.truncated(self.max_length) for request in asked]
        for request, other in zip(asked, fitting, strict=True):
            lost = len(request.context) - len(other.context)
            self.truncated["requests"] += lost > 0
            self.truncated["tokens"] += lost
            if not other.context:
                raise UserError(
                    "an answer is as long as all that the model takes",
                    where=self._streamed.folder,
                    found=f"{len(request.continuation)} tokens",
                    expected=f"fewer than max_position_embeddings = {self.max_length}",
                    todo="leave this task out, or use a model with more positions",
                )
        found = log_likelihoods(self._streamed, fitting, self._scratch, self._report)
        self.passed = {
            "passed_tokens": found.passed_tokens,
            "sequences": found.sequences,
            "predicted_tokens": found.predicted_tokens,
        }
        return list(found.values)

    def loglikelihood_rolling(
        self, requests: list[Instance], disable_tqdm: bool = False
    ) -> list[float]:
        """Refuse: perplexity has a step of its own."""
        raise NotImplementedError("tasks of log-likelihoods of choices only")

    def generate_until(self, requests: list[Instance], disable_tqdm: bool = False) -> list[str]:
        """Refuse: nothing is generated."""
        raise NotImplementedError("tasks of log-likelihoods of choices only")


def evaluate_tasks(
    model: StreamedModel,
    tasks: Mapping[str, Artifact],
    limit: int | None,
    seed: int,
    scratch: Path,
    report: Report = silent,
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return what a model's answers are worth, and the answers.

    Args:
        model: The checkpoint. What is evaluated is what lies on disk: the digest of every shard is
            compared with the manifest.
        tasks: Of kind "task", by the names of lm-eval's tasks.
        limit: How many documents of each; None for all of them.
        seed: Of the sample, if there is a limit.
        scratch: A folder for hidden states and what lm-eval writes.
        report: Told of each block.

    Returns:
        The metrics: for each task `accuracy`, its standard error, and what was asked; `accuracy`
        and its standard error of the plain mean over tasks. The answers: for each task and document
        the log-likelihoods of the choices, and whether the answer is right.

    Raises:
        UserError: A task has a name that lm-eval does not know, or is not one of choices.
    """
    model.artifact.verify()
    lm = PackedLM(model, scratch, report)
    documents = {name: artifact.facts["documents"] for name, artifact in tasks.items()}
    samples = {name: sample(count, limit, seed) for name, count in documents.items()}
    results = evaluate(lm, load_tasks(tasks, samples, scratch), bootstrap_iters=0, log_samples=True)
    answers = {name: _answers(results["samples"][name], samples[name]) for name in tasks}
    metrics: dict[str, Any] = {
        "tasks": {
            name: {
                **_accuracy([answer["right"] for answer in answers[name]]),
                "documents": len(answers[name]),
                "documents_in_all": documents[name],
                "version": results["versions"][name],
                "prompts_sha256": json_digest(
                    [
                        [each["prompt_hash"], each["target_hash"]]
                        for each in results["samples"][name]
                    ]
                ),
                "sample_sha256": json_digest(samples[name]),
                "task": artifact.digest,
            }
            for name, artifact in tasks.items()
        },
        "truncated": lm.truncated,
        **lm.passed,
    }
    each = metrics["tasks"].values()
    metrics["accuracy"] = fmean(task["accuracy"] for task in each)
    errors = [task["accuracy_standard_error"] for task in each]
    metrics["accuracy_standard_error"] = math.hypot(*errors) / len(errors)
    return metrics, answers


def sample(documents: int, limit: int | None, seed: int) -> list[int]:
    """Return which documents of a task are asked, in order: the first of a seeded shuffle."""
    order = list(range(documents))
    # The first documents of a task are not like all of them.
    random.Random(seed).shuffle(order)
    return sorted(order[:limit])


def write_answers(path: Path, answers: Mapping[str, Any]) -> None:
    """Write answers as compressed JSON; equal answers give equal files."""
    content = json.dumps(answers, sort_keys=True).encode()
    path.write_bytes(gzip.compress(content, mtime=0))


def load_tasks(
    tasks: Mapping[str, Artifact], samples: Mapping[str, Sequence[int]], scratch: Path
) -> Any:
    """Return what the harness evaluates: stock tasks without examples, of these documents.

    Args:
        tasks: Of kind "task", by the names of lm-eval's tasks.
        samples: Of each, which documents.
        scratch: A folder for what lm-eval reads and writes.
    """
    datasets.disable_progress_bars()
    folder = scratch / "tasks"
    folder.mkdir(exist_ok=True)
    for name, artifact in tasks.items():
        # The sample only: lm-eval formats every document that it is given, several times.
        # Not with `splitlines`, which would cut documents at U+2028 and its like.
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
            # Nothing else is there.
            **dict.fromkeys(SPLITS),
            "test_split" if stock["split"] == "test" else "validation_split": stock["split"],
            "num_fewshot": 0,
        }
        (folder / f"{name}.yaml").write_text(yaml.safe_dump(changes), encoding="utf-8")
    # These tasks only.
    manager = lm_eval.tasks.TaskManager(include_path=str(folder), include_defaults=False)
    loaded = manager.load(list(tasks))
    for name, task in loaded["tasks"].items():
        if METRIC not in task.aggregation():
            raise UserError(
                "this task has no accuracy",
                where=f"tasks.{name}",
                found=", ".join(task.aggregation()),
                expected=METRIC,
                todo="leave it out",
            )
    return loaded


@cache
def _stock_index() -> Mapping[str, Any]:
    """Return all that lm-eval has, by name; looking for it takes many seconds."""
    return lm_eval.tasks.TaskManager().task_index  # type: ignore[no-any-return]


def stock_task(name: str) -> dict[str, str]:
    """Return where lm-eval keeps a task, `file` below its tasks, and which `split` it asks.

    Raises:
        UserError: It knows no such task, or it is a group or of another kind.
    """
    index, where = _stock_index(), f"tasks.{name}"
    if name not in index:
        raise UserError(
            f"lm-eval {lm_eval.__version__} has no such task",
            where=where,
            expected=nearest(name, index)[:300],
            todo="name a task as lm-eval does",
        )
    path = index[name].yaml_path
    config = lm_eval.tasks.manager.load_yaml(path, resolve_func=False) if path else {}
    kind = config.get("output_type")
    if kind not in ("multiple_choice", "loglikelihood"):
        raise UserError(
            "this is no task of log-likelihoods of choices",
            where=where,
            found=kind or "a group or a program",
            expected="multiple_choice or loglikelihood",
            todo="name single tasks of that kind",
        )
    split = config.get("test_split") or config["validation_split"]
    return {"file": str(path.relative_to(STOCK)), "split": split}


def _answers(found: Sequence[Mapping[str, Any]], documents: Sequence[int]) -> list[dict[str, Any]]:
    """Return the answers to each document, by its place in the whole task."""
    return [
        {
            "document": documents[each["doc_id"]],
            "log_likelihoods": [float(value) for value, _ in each["filtered_resps"]],
            "right": bool(each[METRIC]),
        }
        for each in found
    ]


def _accuracy(right: Sequence[bool]) -> dict[str, float]:
    """Return the share of right answers and its standard error, as lm-eval has it."""
    mean = fmean(right)
    # Of n answers; of one it is not known.
    variance = mean * (1 - mean) / (len(right) - 1) if len(right) > 1 else math.nan
    return {"accuracy": mean, "accuracy_standard_error": math.sqrt(variance)}
