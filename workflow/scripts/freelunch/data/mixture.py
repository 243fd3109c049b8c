"""Mix texts: the documents of all parts, one part after another, each document once."""

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from freelunch.core.artifact import Artifact
from freelunch.core.artifact_writer import ArtifactWriter
from freelunch.core.digest import SHA256
from freelunch.core.errors import UserError
from freelunch.data.documents import document_line, read_documents
from freelunch.data.overlap import PassageIndex
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
    """Write the documents of several texts as one text.

    The shares of the parts are kept when samples are drawn (`mixture_drawing`), since they are
    shares of tokens.

    Args:
        name: Key in `texts`, for messages.
        settings: The mixture's settings, with those of its parts.
        parts: The text of each part, by its name.
        folder: Output folder.
        fingerprint: Digest of everything the result depends on.

    Returns:
        An artifact of kind "text" with the facts of any text (`freelunch.data.texts`), and `parts`,
        in the order of their documents: for each its `name`, `documents`, `characters`,
        `duplicates` (how many of its documents were dropped since they came before) and `text`
        (the digest of its artifact).

    Raises:
        UserError: A part repeats too much of the parts before it.
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
    were dropped. Those of different parts are compared without regard to spaces and case.

    Args:
        name: The mixture's key in `texts`, for messages.
        parts: Each part's name and documents; those without a word are left out.

    Raises:
        UserError: A part repeats too much of the parts before it.
    """
    before = PassageIndex()
    for part, documents in parts:
        written = [document for document in documents if document.strip()]
        # A table may repeat its own rows.
        once = list(dict.fromkeys(written))
        _check_overlap(f"texts.{name}.parts.{part}", once, before)
        new = [document for document in once if document not in before]
        before.add(once)
        yield part, new, len(written) - len(new)


def _check_overlap(where: str, documents: list[str], before: PassageIndex) -> None:
    """Refuse a part, whose documents are given, that repeats too much of the parts before it."""
    counts = [before.repeated(document) for document in documents]
    repeated = [count for count, _ in counts if count]
    share = sum(repeated) / max(sum(size for _, size in counts), 1)
    if share > LARGEST_OVERLAP:
        raise UserError(
            "the parts of the mixture overlap",
            where=where,
            found=f"{share:.1%} of its characters, in {len(repeated):,} of its {len(documents):,} "
            "documents, are in the parts before it, too",
            expected=f"at most {LARGEST_OVERLAP:.0%}",
            todo="leave out one of the parts",
        )
