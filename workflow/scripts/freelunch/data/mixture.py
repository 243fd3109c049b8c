"""Mix texts: the documents of all parts, one part after another, each document once.

Documents of different parts are compared as a whole, without regard to spaces and case. What is
held out is kept apart from what is trained on by 13 tokens in a row (`mixture_drawing`).
"""

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from freelunch.core.artifact import Artifact
from freelunch.core.artifact_writer import ArtifactWriter
from freelunch.core.digest import SHA256
from freelunch.core.errors import UserError
from freelunch.data.documents import document_line, read_documents
from freelunch.study.steps import DOCUMENTS, TEXT

# The largest share of a part's characters that earlier parts may hold, too. With more, the shares
# would not be those of different texts.
LARGEST_OVERLAP = 0.1


def mix_text(
    name: str,
    settings: Mapping[str, Any],
    parts: Mapping[str, Artifact],
    folder: Path,
    fingerprint: str,
) -> Artifact:
    """Write the documents of several texts as one text, an artifact of kind "text".

    Beside the facts of any text, it has `parts`, in their order: the `name` of each, its
    `documents` and `characters`, `duplicates` (how many were dropped since they came before) and
    `text` (the digest of its artifact). The shares are kept when samples are drawn
    (`mixture_drawing`), since they are shares of tokens. UserError if a part repeats too much of
    those before it.
    """
    writer = ArtifactWriter(folder, TEXT, fingerprint)
    lines: list[str] = []
    facts: list[dict[str, Any]] = []
    read = ((part, read_documents(text.folder)) for part, text in parts.items())
    for part, documents, dropped in documents_of_parts(name, read):
        lines += map(document_line, documents)
        counts = {"documents": len(documents), "characters": sum(map(len, documents))}
        digest = parts[part].digest
        facts.append({"name": part, **counts, "duplicates": dropped, "text": digest})
    writer.add_text(DOCUMENTS, "".join(lines))
    files = {f"{part}/{DOCUMENTS}": text.files[DOCUMENTS][SHA256] for part, text in parts.items()}
    return writer.finish(
        settings=dict(settings),
        origin={"source": settings["source"], "files": files},
        parts=facts,
        documents=sum(each["documents"] for each in facts),
        characters=sum(each["characters"] for each in facts),
        duplicates=sum(each["duplicates"] for each in facts),
    )


def documents_of_parts(
    name: str, parts: Iterable[tuple[str, Iterable[str]]]
) -> Iterator[tuple[str, list[str], int]]:
    """Yield each part of a mixture, its documents, each once and in no earlier part, and how many
    were dropped. Those of different parts are compared without regard to spaces and case; those
    without a word are left out.

    UserError if a part repeats too much of the parts before it.
    """
    before: set[bytes] = set()
    for part, documents in parts:
        written = [document for document in documents if document.strip()]
        # A table may repeat its own rows.
        digests = {document: _digest(document) for document in written}
        repeated = [document for document, digest in digests.items() if digest in before]
        share = sum(map(len, repeated)) / max(sum(map(len, digests)), 1)
        if share > LARGEST_OVERLAP:
            raise UserError(
                "the parts of the mixture overlap",
                where=f"texts.{name}.parts.{part}",
                found=f"{share:.1%} of its characters, in {len(repeated):,} of its "
                f"{len(digests):,} documents, are in the parts before it, too",
                expected=f"at most {LARGEST_OVERLAP:.0%}",
                todo="leave out one of the parts",
            )
        new = [document for document, digest in digests.items() if digest not in before]
        before.update(digests.values())
        yield part, new, len(written) - len(new)


def _digest(document: str) -> bytes:
    """Return a digest of a document without spaces, in one case."""
    return hashlib.sha256("".join(document.split()).casefold().encode()).digest()
