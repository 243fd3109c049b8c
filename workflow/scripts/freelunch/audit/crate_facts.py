"""The properties of what is in a crate, in the words of schema.org."""

from pathlib import Path
from typing import Any
from urllib.parse import quote

from freelunch.core.digest import file_digest
from freelunch.reporting.formatting import parts_text
from freelunch.study.sources import AnyText, Hub, InWheel, Mixture, Model, Task

# By suffix; Python's own table differs between machines.
FORMATS = {
    "": "text/plain",
    ".csv": "text/csv",
    ".gz": "application/gzip",
    ".html": "text/html",
    ".json": "application/json",
    ".md": "text/markdown",
    ".pdf": "application/pdf",
    ".png": "image/png",
    ".sha256": "text/plain",
    ".svg": "image/svg+xml",
    ".tex": "application/x-tex",
    ".yaml": "application/yaml",
}


def source_of(registry: str, entry: Model | AnyText | Task) -> dict[str, str]:
    """Return what identifies a model, text or task at its source."""
    match entry:
        case InWheel():
            package = package_url(entry.package, entry.version)
            return {
                "identifier": f"{package}?checksum=sha256:{entry.sha256}",
                "url": f"https://pypi.org/project/{entry.package}/{entry.version}/",
                "version": entry.version,
            }
        case Hub():
            kind = "" if registry == "models" else "datasets/"
            place = f"https://huggingface.co/{kind}{entry.repository}"
            return {"url": f"{place}/tree/{entry.revision}", "version": entry.revision}
        case Mixture():
            return {"alternateName": f"mixture of {parts_text(entry.parts)}"}
        case _:
            return {"alternateName": entry.path}


def package_url(package: str, version: str) -> str:
    """Return the package URL (github.com/package-url) of a Python package."""
    return f"pkg:pypi/{package}@{quote(version)}"


def known(**properties: Any) -> dict[str, Any]:
    """Return the properties that have a value; a list of one as its value, as RO-Crate asks."""
    return {
        key: value[0] if isinstance(value, list) and len(value) == 1 else value
        for key, value in properties.items()
        if value
    }


def facts_of(path: Path) -> dict[str, str]:
    """Return the name, size, digest and format of a file."""
    return {
        "name": path.name,
        "contentSize": str(path.stat().st_size),
        "sha256": file_digest(path),
        "encodingFormat": FORMATS.get(path.suffix, "application/octet-stream"),
    }
