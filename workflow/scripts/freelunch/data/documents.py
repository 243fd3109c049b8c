"""Read what was fetched: the documents of a text or of a task, or ready token ids.

This is all that computing needs of a text. Nothing that computes imports the modules that fetch, so
an edit there repeats no computation.
"""

import json
from pathlib import Path

from freelunch.core.artifact import Artifact
from freelunch.study.steps import DOCUMENTS, READY_TOKENS, TEXT

# Ready token ids are the int64 matrix `input_ids`, (samples, length), of this file.
TOKEN_IDS = "tokens.safetensors"


def open_text(manifest: str | Path) -> Artifact:
    """Return the artifact of a manifest: a text, or ready token ids."""
    folder = Path(manifest).parent
    return Artifact(folder, READY_TOKENS if (folder / TOKEN_IDS).is_file() else TEXT)


def read_documents(folder: Path) -> list[str]:
    """Return the documents of a text in order; UserError if the folder holds no text."""
    path = Artifact(folder, TEXT).path(DOCUMENTS)
    # `splitlines` would also split at U+2028 and similar characters inside of a document.
    with path.open(encoding="utf-8") as file:
        return [json.loads(line)["text"] for line in file]


def document_line(document: str) -> str:
    """Return the line of a text's file that holds a document."""
    return json.dumps({"text": document}, ensure_ascii=False) + "\n"
