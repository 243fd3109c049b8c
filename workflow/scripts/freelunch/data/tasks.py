"""Fetch the documents of an evaluation task and write them in the form that lm-eval reads, and find
lm-eval's own tasks without importing lm-eval, which takes many seconds.

A task becomes `documents.jsonl`: one document per line, in the order of the source, with the fields
that lm-eval's own task of that name expects. Prompts, choices and metrics remain lm-eval's.
"""

import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import cache, partial
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import yaml

from freelunch.core.artifact import Artifact
from freelunch.core.artifact_writer import ArtifactWriter
from freelunch.core.errors import UserError, nearest
from freelunch.data.sources import fetching, obtain
from freelunch.data.unpacked import lines_of
from freelunch.study.sources import Task
from freelunch.study.steps import DOCUMENTS, TASK

# OLMo's files repeat each document under a higher number for every prompt variant.
_REPEATED = 1_000_000
_QUESTION, _ANSWER = "Question: ", "\nAnswer:"
_UNREADABLE = (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError)
# The task's name is on a line of its file.
_NAME = re.compile(rb"^task: *[\"']?([^\s\"'#]+)", re.MULTILINE)

Document = dict[str, Any]


class _TaskLoader(yaml.SafeLoader):
    """Read lm-eval's YAML, with `!function` tags as text."""


_TaskLoader.add_constructor("!function", lambda loader, node: str(node.value))


def fetch_task(
    name: str, entry: Task, stock: Mapping[str, str], folder: Path, fingerprint: str
) -> Artifact:
    """Obtain the documents of a task of lm-eval and write them; `stock` is what `stock_task`
    returns.

    Return an artifact of kind "task", with the facts `settings` (the entry), `origin`, `documents`
    (how many), and `stock`. UserError if the documents cannot be obtained or are not in the format
    that the entry names, or if their number is wrong.
    """
    where = f"tasks.{name}"
    with fetching(folder) as scratch:
        obtained = obtain(where, entry, scratch)
        try:
            documents = list(_FORMATS[entry.format](obtained.path))
        except _UNREADABLE as error:
            raise UserError(
                f"the documents are not in the format {entry.format!r}",
                where=f"{where}.format",
                found=f"{type(error).__name__}: {error}",
                todo="correct `format` or `member`",
            ) from error
        if len(documents) != entry.documents:
            raise UserError(
                "the number of documents differs from the config's",
                where=f"{where}.documents",
                found=len(documents),
                expected=entry.documents,
                todo="correct `member` or `documents`; a part of a task does not measure the task",
            )
        lines = (json.dumps(document, ensure_ascii=False) + "\n" for document in documents)
        writer = ArtifactWriter(folder, TASK, fingerprint)
        writer.add_text(DOCUMENTS, "".join(lines))
    facts = {"origin": obtained.origin, "documents": len(documents), "stock": dict(stock)}
    return writer.finish(settings=entry.deciding(), **facts)


def _arrow(path: Path) -> Iterable[Document]:
    """Return the rows of an Arrow stream, the format in which the datasets library stores them."""
    import pyarrow

    with pyarrow.memory_map(str(path)) as source:
        rows: list[Document] = pyarrow.ipc.open_stream(source).read_all().to_pylist()
    return rows


def _parquet(path: Path) -> Iterable[Document]:
    from pyarrow import parquet

    rows: list[Document] = parquet.read_table(path).to_pylist()
    return rows


def _jsonl(path: Path) -> Iterable[Document]:
    return (dict(json.loads(line)) for line in lines_of(path) if line.strip())


def _requests(path: Path) -> Iterator[Document]:
    """Yield each document of a file of OLMo's requests once: the file has a line for each choice,
    and may repeat all of them for other prompt variants.
    """
    for line in lines_of(path):
        request = json.loads(line)
        if request["idx"] == 0 and request["doc_id"] < _REPEATED:
            yield request["doc"]


def _question_of(query: str, marker: str) -> tuple[str, str]:
    """Return the text before the last marker, and the text between it and the query's end."""
    before, found, rest = query.removesuffix(_ANSWER).rpartition(marker)
    if not found or not query.endswith(_ANSWER):
        raise ValueError(f"{query[-80:]!r} does not end in {marker!r} ... {_ANSWER!r}")
    return before, rest


def _boolq_requests(path: Path) -> Iterator[Document]:
    """Yield documents in SuperGLUE's form: the passage begins with its title, label 1 is yes."""
    for document in _requests(path):
        passage, question = _question_of(document["query"], f"\n{_QUESTION}")
        label = {"no": 0, "yes": 1}[document["choices"][document["gold"]]]
        yield {"passage": passage, "question": question.removesuffix("?"), "label": label}


def _choice_requests(field: str, path: Path) -> Iterator[Document]:
    """Yield questions whose choices have letters, each question in `field`."""
    for document in _requests(path):
        before, question = _question_of(document["query"], _QUESTION)
        if before:
            raise ValueError(f"{before[:80]!r} stands before {_QUESTION!r}")
        letters = [chr(ord("A") + at) for at in range(len(document["choices"]))]
        yield {
            "id": document["id"],
            field: question,
            "choices": {"text": document["choices"], "label": letters},
            "answerKey": letters[document["gold"]],
        }


def _lambada_requests(path: Path) -> Iterator[Document]:
    for document in _requests(path):
        (answer,) = document["choices"]
        yield {"text": f"{document['query']} {answer}"}


_FORMATS: dict[str, Callable[[Path], Iterable[Document]]] = {
    "arrow": _arrow,
    "parquet": _parquet,
    "jsonl": _jsonl,
    "boolq_requests": _boolq_requests,
    "arc_requests": partial(_choice_requests, "question"),
    "openbookqa_requests": partial(_choice_requests, "question_stem"),
    "lambada_requests": _lambada_requests,
}


def stock_task(name: str) -> dict[str, str]:
    """Return the task's file, relative to lm-eval's tasks, and its split; UserError if lm-eval has
    no such task, or the task is of another kind.
    """
    files, where = _stock_files(), f"tasks.{name}"
    if name not in files:
        raise UserError(
            "lm-eval has no such task",
            where=where,
            found=f"lm-eval {version('lm-eval')}",
            expected=nearest(name, files)[:300],
            todo="name a single task, as lm-eval does",
        )
    config = _read(files[name])
    kind = config.get("output_type")
    if kind not in ("multiple_choice", "loglikelihood"):
        raise UserError(
            "not a multiple-choice or log-likelihood task",
            where=where,
            found=kind or "a program",
            expected="multiple_choice or loglikelihood",
            todo="name single tasks of that kind",
        )
    split = config.get("test_split") or config["validation_split"]
    return {"file": str(files[name].relative_to(_folder())), "split": split}


def _folder() -> Path:
    spec = find_spec("lm_eval")
    assert spec is not None and spec.submodule_search_locations  # A pinned dependency.
    return Path(spec.submodule_search_locations[0]) / "tasks"


@cache
def _stock_files() -> Mapping[str, Path]:
    paths = sorted(_folder().rglob("*.yaml"))
    names = ((_NAME.search(path.read_bytes()), path) for path in paths)
    return {match[1].decode(): path for match, path in names if match}


def _read(path: Path) -> dict[str, Any]:
    """Return the file's settings merged over those of the files it includes."""
    config: dict[str, Any] = yaml.load(path.read_text(encoding="utf-8"), Loader=_TaskLoader)
    included: dict[str, Any] = {}
    names = config.pop("include", [])
    for name in [names] if isinstance(names, str) else names:
        included |= _read(path.parent / name)
    return included | config
