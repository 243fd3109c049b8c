"""What the records of a study say, taken together, of the run they come from."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote

from freelunch.cell import Cell
from freelunch.comparison import Records
from freelunch.study import Study


@dataclass
class Input:
    """A model, text or task that cells were made from.

    Attributes:
        registry: `models`, `texts` or `tasks`.
        name: Its key there.
        entry: What the config says of it.
        files: The files that were taken from its source, each with its sha256; empty where the
            records do not say.
    """

    registry: str
    name: str
    entry: Mapping[str, Any]
    files: set[tuple[str, str]] = field(default_factory=set)

    @property
    def source(self) -> dict[str, str]:
        """Return what identifies it where it comes from, by words of schema.org."""
        entry = self.entry
        if entry["source"] == "wheel":
            package, version = entry["package"], entry["version"]
            return {
                "identifier": f"{package_url(package, version)}?checksum=sha256:{entry['sha256']}",
                "url": f"https://pypi.org/project/{package}/{version}/",
                "version": version,
            }
        if entry["source"] == "hub":
            kind = "" if self.registry == "models" else "datasets/"
            place = f"https://huggingface.co/{kind}{entry['repository']}"
            return {"url": f"{place}/tree/{entry['revision']}", "version": entry["revision"]}
        return {"alternateName": entry["path"]}


def inputs(study: Study, records: Records) -> list[Input]:
    """Return what the cells were made from, sorted by registry and name."""
    found: dict[tuple[str, str], Input] = {}
    for cell, record in records.items():
        for registry, name, origin in _origins(cell, record):
            entry = study.config[registry][name]
            item = found.setdefault((registry, name), Input(registry, name, entry))
            item.files.update(origin.get("files", {}).items())
    return [found[key] for key in sorted(found)]


def commits(records: Records) -> list[str]:
    """Return the commits that steps were run at; -dirty: with changes that were not committed."""
    found = {(each["commit"], each["uncommitted_changes"]) for each in environments(records)}
    return sorted(f"{commit}-dirty" if changed else commit for commit, changed in found if commit)


def packages(records: Records) -> list[tuple[str, str]]:
    """Return name and version of the Python packages, in every version that a step had."""
    found = {item for each in environments(records) for item in each["packages"].items()}
    return sorted((name, version) for name, version in found if version)


def pythons(records: Records) -> list[str]:
    """Return the versions of Python."""
    return sorted({f"Python {each['python']}" for each in environments(records)})


def machines(records: Records) -> str:
    """Return the machines that steps ran on, in words."""
    facts = ("device_name", "device", "processor", "platform")
    found = {
        ", ".join(each[fact] for fact in facts if fact in each) for each in environments(records)
    }
    return "; ".join(sorted(found)) or "a machine that is not known"


def package_url(package: str, version: str) -> str:
    """Return the package URL (github.com/package-url) of a Python package: that of its build."""
    return f"pkg:pypi/{package}@{quote(version)}"


def finished(records: Records) -> list[str]:
    """Return when steps were done, of those that say so."""
    return [
        time for record in records.values() for time in record["provenance"]["finished"].values()
    ]


def environments(records: Records) -> list[dict[str, Any]]:
    """Return code, packages and machine of each step of each cell."""
    steps = [record["provenance"]["environments"] for record in records.values()]
    return [environment for each in steps for environment in each.values()]


def _origins(cell: Cell, record: Mapping[str, Any]) -> Iterator[tuple[str, str, Mapping[str, Any]]]:
    """Yield registry, name and origin of each model, text and task that a cell was made from."""
    spec, provenance = record["spec"], record["provenance"]
    yield "models", cell.model, provenance["model_origin"]
    uses = {"evaluation": spec["evaluation"]["perplexity"], "calibration": spec.get("calibration")}
    for use, settings in uses.items():
        if settings:
            yield "texts", settings["text"]["name"], provenance["text_origins"].get(use, {})
    for name in spec["evaluation"].get("tasks", {}).get("tasks", {}):
        yield "tasks", name, provenance.get("task_origins", {}).get(name, {})
