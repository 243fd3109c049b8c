"""`archive`: one file with what an artifact evaluation wants of a finished study. The same study
and commit give the same bytes.
"""

import gzip
import hashlib
import io
import shlex
import subprocess
import tarfile
from collections.abc import Iterator
from pathlib import Path

from freelunch.audit.layouts import computed_text
from freelunch.audit.output_checks import check_finished
from freelunch.audit.output_files import AUDIT_SUMS, audit_outputs, own_files
from freelunch.audit.provenance import gather_costs, gather_provenance
from freelunch.cli.verify import check_intact
from freelunch.core.errors import UserError, first_of
from freelunch.core.files import no_half_file
from freelunch.core.units import amount, duration
from freelunch.records.read import load_records
from freelunch.study.registry import REPOSITORY
from freelunch.study.study import Study

# What the archive says of itself, and how others check it.
_README = REPOSITORY / "workflow" / "data" / "artifact.md"


def write_archive(study: Study) -> Path:
    """Write the archive of a study into the folder of its results, and return its path.

    UserError: the study is not whole, or its file or something in the repository is not committed.
    """
    check_finished(study)
    check_intact(study, anew=True)
    file = _committed(study)
    members = [*_code(), *_results(study, file)]
    sums = "".join(
        f"{hashlib.sha256(content).hexdigest()}  {member.name}\n"
        for member, content in members
        if member.isfile()
    )
    members.append((tarfile.TarInfo("SHA256SUMS"), sums.encode()))
    path = study.paths.root / f"{study.name}-artifact.tar.gz"
    temporary = path.with_name(f".{path.name}.part")
    with no_half_file(temporary):
        # Without names, times and owners of this machine.
        with (
            temporary.open("wb") as raw,
            gzip.GzipFile("", "wb", mtime=0, fileobj=raw) as packed,
            tarfile.open(mode="w", fileobj=packed) as archive,
        ):
            for member, content in members:
                member.name, member.size = f"{study.name}-artifact/{member.name}", len(content)
                archive.addfile(member, io.BytesIO(content))
        temporary.replace(path)
    return path


def _committed(study: Study) -> str:
    """Return the name of the study's file in the repository, all of which has to be committed."""
    file = Path(study.source).resolve()
    changes = _git("status", "--porcelain", "--untracked-files=all").decode()
    uncommitted = [line[3:] for line in changes.splitlines()]
    uncommitted += [] if file.is_relative_to(REPOSITORY) else [str(file)]
    if uncommitted:
        raise UserError(
            "an archive has the code of a commit, and these files are in none as they are",
            where=REPOSITORY,
            found=", ".join(first_of(uncommitted)),
            todo="commit them, or remove what does not belong to the study; then run the same "
            "command again",
        )
    return file.relative_to(REPOSITORY).as_posix()


def _code() -> Iterator[tuple[tarfile.TarInfo, bytes]]:
    """Yield the members of the commit, in git's order, which is fixed."""
    with tarfile.open(fileobj=io.BytesIO(_git("archive", "HEAD"))) as code:
        for member in code:
            content = code.extractfile(member)
            member.name, member.pax_headers = f"code/{member.name}", {}
            yield member, content.read() if content and member.isfile() else b""


def _results(study: Study, file: str) -> Iterator[tuple[tarfile.TarInfo, bytes]]:
    """Yield what the study found, and how others check it."""
    for name in sorted({*own_files(study), *audit_outputs(study), AUDIT_SUMS}):
        # A cell has answers only if it was asked tasks.
        if (found := study.paths.root / name).is_file():
            yield tarfile.TarInfo(f"results/{name}"), found.read_bytes()
    records = load_records(study)
    costs = gather_costs(records)
    named = shlex.quote(file)
    text = _README.read_text(encoding="utf-8").format(
        name=study.name,
        reproduce=f"make -C code study compare STUDY={named}{study.part_words} A={named} "
        "B=../results",
        cells=len(records),
        time=duration(sum(cost.wall_s for cost in costs)),
        memory=amount(max(cost.peak_bytes for cost in costs)),
        commit=_git("rev-parse", "HEAD").decode().strip(),
        computed=computed_text(gather_provenance(study, records)),
    )
    yield tarfile.TarInfo("README.md"), text.encode()


def _git(*arguments: str) -> bytes:
    """Return what git prints; UserError if the code is not in a repository."""
    command = ["git", "-C", str(REPOSITORY), *arguments]
    try:
        return subprocess.run(command, capture_output=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError) as error:
        said = getattr(error, "stderr", b"").decode(errors="replace").strip() or str(error)
        raise UserError(
            "git cannot tell the commit",
            where=REPOSITORY,
            found=said,
            todo="run this in a clone of the repository, with git installed",
        ) from error
