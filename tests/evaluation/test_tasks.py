"""Zero-shot tasks against lm-eval's own model class, and where their documents come from."""

import gzip
import json
import math
import random
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from lm_eval.evaluator import evaluate
from lm_eval.models.huggingface import HFLM
from transformers import AutoModelForCausalLM, AutoTokenizer

from freelunch.core.artifact import Artifact
from freelunch.core.errors import UserError
from freelunch.data.tasks import fetch_task, stock_task
from freelunch.evaluation.tasks import (
    PackedLM,
    load_tasks,
    sample,
)
from freelunch.model.checkpoint import StreamedModel
from freelunch.study.sources import read_task
from freelunch.study.steps import DOCUMENTS
from measuring import accuracy_of
from refusals import refused
from tiny_models import fetch_tiny_model

FIXTURES = Path(__file__).resolve().parents[1] / "fixtures"
COUNT = 50
FORMATS = {
    "boolq": "boolq_requests",
    "arc_easy": "arc_requests",
    "arc_challenge": "arc_requests",
    "openbookqa": "openbookqa_requests",
    "hellaswag": "arrow",
    "winogrande": "arrow",
}
# Ours: RTE has no licence that lets us keep it here.
RTE = [
    {"sentence1": f"{name} bought {count} apples.", "sentence2": f"{name} has apples.", "label": 0}
    for name in ("Ann", "Bob", "Cem", "Dee", "Eve")
    for count in range(2, 12)
]


def entry_of(task: str, folder: Path) -> dict[str, Any]:
    if task == "rte":
        path, kind = folder / "rte.jsonl", "jsonl"
        path.write_text("".join(json.dumps(document) + "\n" for document in RTE))
    else:
        kind = FORMATS[task]
        path = FIXTURES / "tasks" / f"{task}.{'arrow' if kind == 'arrow' else 'jsonl.gz'}"
    return {"source": "path", "path": str(path), "format": kind, "documents": COUNT}


@pytest.fixture(scope="module")
def tasks(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Artifact]:
    folder = tmp_path_factory.mktemp("tasks")
    return {
        name: fetch_task(
            name, read_task(entry_of(name, folder)), stock_task(name), folder / name, "print"
        )
        for name in (*FORMATS, "rte")
    }


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    """A random model that takes 256 tokens: some contexts are longer."""
    return fetch_tiny_model(
        FIXTURES / "tiny-llama", tmp_path_factory.mktemp("model") / "checkpoint"
    )


def documents_of(task: Artifact) -> list[dict[str, Any]]:
    return [json.loads(line) for line in task.path(DOCUMENTS).read_text().splitlines()]


def test_documents_have_the_fields_of_the_stock_tasks(tasks: dict[str, Artifact]) -> None:
    found = {name: documents_of(task) for name, task in tasks.items()}
    assert {len(documents) for documents in found.values()} == {COUNT}
    assert found["boolq"][0]["passage"].startswith("Ethanol fuel -- All biomass goes through")
    assert found["boolq"][0]["question"] == "does ethanol take more energy make that produces"
    assert found["boolq"][0]["label"] == 0
    assert {document["label"] for document in found["boolq"]} == {0, 1}
    for name, field in (("arc_easy", "question"), ("openbookqa", "question_stem")):
        for document in found[name]:
            assert not document[field].startswith("Question")
            assert document["choices"]["label"] == list("ABCDE")[: len(document["choices"]["text"])]
            assert document["answerKey"] in document["choices"]["label"]
        assert len({document["id"] for document in found[name]}) == COUNT
    assert found["hellaswag"][0]["label"] == "3" and len(found["hellaswag"][0]["endings"]) == 4
    assert tasks["arc_easy"].facts["stock"] == {"file": "arc/arc_easy.yaml", "split": "test"}
    assert tasks["boolq"].facts["stock"]["split"] == "validation"


@pytest.mark.parametrize("limit", [None, 7])
def test_equal_to_lm_evals_own_class(
    tasks: dict[str, Artifact], checkpoint: Artifact, tmp_path: Path, limit: int | None
) -> None:
    """Its log-softmax in float64: in float32 its sums are off by a few 1e-4."""
    metrics, answers = accuracy_of(StreamedModel(checkpoint.folder), tasks, limit, 3, tmp_path)
    theirs = HFLM(
        pretrained=AutoModelForCausalLM.from_pretrained(checkpoint.folder),
        tokenizer=AutoTokenizer.from_pretrained(checkpoint.folder),
        batch_size=8,
        softmax_dtype="float64",
    )
    samples = {name: sample(COUNT, limit, 3) for name in tasks}
    loaded = load_tasks(tasks, samples, tmp_path)
    expected = evaluate(theirs, loaded, bootstrap_iters=100, log_samples=True)
    for name in tasks:
        for mine, other in zip(answers[name], expected["samples"][name], strict=True):
            values = [value for value, _ in other["filtered_resps"]]
            assert mine["log_likelihoods"] == pytest.approx(values, abs=1e-4)
        found, wanted = metrics["tasks"][name], expected["results"][name]
        assert found["accuracy"] == wanted["acc,none"]
        assert found["accuracy_standard_error"] == pytest.approx(wanted["acc_stderr,none"])
        assert found["version"] == expected["versions"][name]
        assert found["documents"] == (limit or COUNT)
    accuracies = [metrics["tasks"][name]["accuracy"] for name in tasks]
    assert metrics["accuracy"] == pytest.approx(sum(accuracies) / len(tasks))
    # Longer than 256 tokens, as lm-eval would cut them.
    assert limit or metrics["truncated"]["requests"] > 0


def test_a_constant_model_takes_the_shortest_answer(
    tasks: dict[str, Artifact], tmp_path: Path
) -> None:
    """Every token is equally likely, so fewer are more likely."""
    source = shutil.copytree(FIXTURES / "tiny-llama", tmp_path / "source")
    model = AutoModelForCausalLM.from_pretrained(source)
    with torch.no_grad():
        model.get_output_embeddings().weight.fill_(0.01)
    model.save_pretrained(source)
    constant = StreamedModel(fetch_tiny_model(source, tmp_path / "checkpoint").folder)
    tokenizer = AutoTokenizer.from_pretrained(source)
    asked = {"arc_easy": tasks["arc_easy"]}
    metrics, answers = accuracy_of(constant, asked, None, 0, tmp_path)
    right = 0
    for document, answer in zip(documents_of(tasks["arc_easy"]), answers["arc_easy"], strict=True):
        counts = [len(tokenizer.encode(f" {text}")) for text in document["choices"]["text"]]
        expected = [-count * math.log(len(tokenizer)) for count in counts]
        assert answer["log_likelihoods"] == pytest.approx(expected, rel=1e-5)
        right += counts.index(min(counts)) == "ABCDE".index(document["answerKey"])
    assert metrics["tasks"]["arc_easy"]["accuracy"] == right / COUNT


def test_a_sample_is_drawn_after_shuffling() -> None:
    assert sample(5, None, 0) == sample(5, 9, 0) == [0, 1, 2, 3, 4]
    order = list(range(100))
    random.Random(7).shuffle(order)
    assert sample(100, 10, 7) == sorted(order[:10]) != list(range(10))
    assert sample(100, 10, 7) != sample(100, 10, 8)


def test_an_answer_longer_than_the_model_is_refused(checkpoint: Artifact) -> None:
    lm = PackedLM(StreamedModel(checkpoint.folder))
    tokens = [5] * (lm.max_length + 1)
    with refused(where=checkpoint.folder, found=f"{len(tokens)} tokens"):
        lm._loglikelihood_tokens([(("a", "b"), [5, 6], tokens)])
    # An empty context begins with the first token.
    assert lm.prefix_token_id == lm.eot_token_id == lm.tokenizer.eos_token_id
    assert lm.tok_encode("<|end|>the laws") == lm.tok_encode("<|end|>the laws", False)


@pytest.mark.parametrize(
    ("name", "problem"),
    [
        ("hellaswagg", r"hellaswag \(nearest\)"),
        ("mmlu", "has no such task"),
        ("gsm8k", "not a multiple-choice or log-likelihood task"),
    ],
)
def test_tasks_that_cannot_be_asked(name: str, problem: str) -> None:
    with pytest.raises(UserError, match=problem) as error:
        stock_task(name)
    assert f"tasks.{name}" in str(error.value)


def fetch_documents(name: str, documents: list[dict[str, Any]], folder: Path) -> Artifact:
    """Write documents as lines of JSON and fetch them as those of a task."""
    path = folder / "documents.jsonl"
    path.write_text("".join(json.dumps(document) + "\n" for document in documents))
    count = len(documents)
    entry = {"source": "path", "path": str(path), "format": "jsonl", "documents": count}
    return fetch_task(name, read_task(entry), stock_task(name), folder / "task", "print")


CHOICES = {"text": ["x", "y"], "label": ["A", "B"]}


@pytest.mark.parametrize(
    ("name", "document", "found", "expected"),
    [
        # lm-eval itself would ask about the words "question_stem", and nobody would notice.
        (
            "openbookqa",
            {"question": "a", "choices": CHOICES, "answerKey": "A"},
            "question",
            "_stem",
        ),
        ("rte", {"sentence1": "a", "sentence2": "b"}, "sentence1, sentence2", "label"),
        # Test splits keep their answers secret.
        ("rte", {**RTE[0], "label": -1}, "-1", "a number from 0 to 1"),
        (
            "arc_easy",
            {"question": "a", "choices": CHOICES},
            "'answerKey'",
            "tasks/arc/arc_easy.yaml",
        ),
        ("hellaswag", {"sentence1": "a"}, "KeyError: 'ctx_a'", "tasks/hellaswag/hellaswag.yaml"),
    ],
)
def test_documents_that_do_not_fit_their_task_are_refused(
    name: str, document: dict[str, Any], found: str, expected: str, tmp_path: Path
) -> None:
    task = fetch_documents(name, [document], tmp_path)
    with refused(where=f"tasks.{name}", found=found, expected=expected):
        load_tasks({name: task}, {name: [0]}, tmp_path)


def test_documents_that_the_task_itself_leaves_out_are_refused(tmp_path: Path) -> None:
    """They would shift the numbers of the others."""
    pairs = [{"sentence1": one, "sentence2": "It is so.", "label": 0} for one in ("", "It is.")]
    task = fetch_documents("paws_en", pairs, tmp_path)
    with refused(where="tasks.paws_en", found=1, expected=2):
        load_tasks({"paws_en": task}, {"paws_en": [0, 1]}, tmp_path)


@pytest.mark.parametrize(
    ("task", "changes", "problem"),
    [
        ("boolq", {"documents": 3270}, "found:    50"),
        ("boolq", {"documents": 49}, "found:    50"),
        ("boolq", {"format": "arrow"}, "not in the format 'arrow'"),
        ("arc_easy", {"format": "boolq_requests"}, "not in the format 'boolq_requests'"),
        ("hellaswag", {"format": "jsonl"}, "not in the format 'jsonl'"),
        ("hellaswag", {"format": "parquet"}, "not in the format 'parquet'"),
    ],
)
def test_documents_that_are_refused(
    task: str, changes: dict[str, Any], problem: str, tmp_path: Path
) -> None:
    entry = {**entry_of(task, tmp_path), **changes}
    stock = {"file": "none", "split": "test"}
    with pytest.raises(UserError, match=problem) as error:
        fetch_task(task, read_task(entry), stock, tmp_path / "task", "print")
    assert f"tasks.{task}" in str(error.value)
    assert not (tmp_path / "task").exists()


def test_lambada_is_its_text(tmp_path: Path) -> None:
    path = tmp_path / "lambada.jsonl.gz"
    line = {"idx": 0, "doc_id": 0, "doc": {"query": "I saw the", "choices": ["sea"]}}
    path.write_bytes(gzip.compress(json.dumps(line).encode()))
    entry = {"source": "path", "path": str(path), "format": "lambada_requests", "documents": 1}
    stock = stock_task("lambada_openai")
    found = fetch_task("lambada_openai", read_task(entry), stock, tmp_path / "task", "print")
    assert documents_of(found) == [{"text": "I saw the sea"}]


def test_a_document_is_a_line_whatever_it_holds(tmp_path: Path) -> None:
    """U+2028 separates lines in Unicode, and no documents here."""
    documents = [
        {**document, "sentence1": f"{at}\u2028 apples."} for at, document in enumerate(RTE)
    ]
    task = fetch_documents("rte", documents, tmp_path)
    loaded = load_tasks({"rte": task}, {"rte": [0, 7]}, tmp_path)["tasks"]["rte"]
    assert [document["sentence1"][0] for document in loaded.eval_docs] == ["0", "7"]
