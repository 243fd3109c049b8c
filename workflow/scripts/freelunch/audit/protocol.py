"""The paper's protocol beside this run's, setting by setting."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from freelunch.audit.claims import DATA, load_data
from freelunch.core.errors import UserError
from freelunch.reporting.formatting import parts_text
from freelunch.study.adaptations import Adaptation, Local, Windowed
from freelunch.study.cell import NONE
from freelunch.study.search import is_searched
from freelunch.study.sources import AnyText, HubFile, Mixture, Wheel, WheelFiles
from freelunch.study.study import Study
from freelunch.study.windows import HALVES, MATRIX

PROTOCOL = DATA / "protocol.yaml"
SAME, PARTLY, DIFFERENT = "same", "partly the same", "different"
UNKNOWN, ABSENT = "unknown", "not in this run"
# Where this run's value of a setting comes from: the `ours` of the file.
Origin = Mapping[str, Any]


@dataclass(frozen=True)
class PaperSetting:
    """A setting of the paper, as `workflow/schemas/protocol.schema.json` explains its keys."""

    id: str
    group: str
    setting: str
    paper: str | None
    matters: str
    why: str


@dataclass(frozen=True)
class ProtocolSetting(PaperSetting):
    """A setting of the paper, where this run's values of it come from, and what equals the paper's.

    The schema explains these keys, too.
    """

    ours: Origin
    same_as: Sequence[Any] | None = None
    same: bool | None = None
    null_reads: str = "none"

    def status(self, ours: Sequence[Any]) -> str:
        """Return whether this run's values are the paper's."""
        if self.paper is None:
            return UNKNOWN
        if not ours:
            return ABSENT
        if self.same_as is None:
            return SAME if self.same else DIFFERENT
        among = [value in self.same_as for value in ours]
        return SAME if all(among) else PARTLY if any(among) else DIFFERENT


@dataclass(frozen=True)
class ComparedSetting(PaperSetting):
    """A setting of the paper beside this run's values of it."""

    ours: list[str]
    status: str


def load_protocol(path: Path = PROTOCOL) -> list[ProtocolSetting]:
    """Return the settings of a file. UserError: the file does not match
    `workflow/schemas/protocol.schema.json`, or a setting whose value in the paper is known does not
    say which of ours would be the same.
    """
    settings = [ProtocolSetting(**each) for each in load_data(path, "protocol")["settings"]]
    for each in settings:
        says = each.same if "text" in each.ours else each.same_as
        if each.paper is not None and says is None:
            raise UserError(
                "a setting does not say which of ours would be the paper's",
                where=f"{path}: {each.id}",
                expected="`same` beside a text, otherwise `same_as`",
            )
    return settings


def audit_protocol(study: Study, settings: Sequence[ProtocolSetting]) -> list[ComparedSetting]:
    """Return the paper's value of each setting, this run's, and whether they are the same."""
    compared = []
    for each in settings:
        ours = values(each.ours, study)
        facts = {key.name: getattr(each, key.name) for key in fields(PaperSetting)}
        texts = [_value_text(value, each.null_reads) for value in ours]
        compared.append(ComparedSetting(**facts, ours=texts, status=each.status(ours)))
    return compared


def values(ours: Origin, study: Study) -> list[Any]:
    """Return this run's values of a setting, each once; none if the run has no such setting."""
    kind = next(key for key in ours if key not in ("key", "scores", "windows"))
    found = _VALUES[kind](ours, study)
    return [value for at, value in enumerate(found) if value not in found[:at]]


def _of_study(ours: Origin, study: Study) -> list[Any]:
    value: Any = study.block.as_json()
    for key in ours["study"].split("."):
        if not isinstance(value, Mapping) or key not in value:
            return []
        value = value[key]
    return list(value) if isinstance(value, list) else [value]


def _of_criteria(ours: Origin, study: Study) -> list[Any]:
    names = dict.fromkeys(cell.criterion for cell in study.cells if cell.is_pruned)
    entries = [study.criterion(name).as_json() for name in names]
    scores = ours.get("scores", [entry["score"] for entry in entries])
    key = ours["criteria"]
    return [entry[key] for entry in entries if key in entry and entry["score"] in scores]


def _of_adaptations(ours: Origin, study: Study) -> list[Any]:
    names = dict.fromkeys(cell.adaptation for cell in study.cells if cell.adaptation != NONE)
    found: list[Any] = []
    for name in names:
        settings, key = study.config.adaptations[name], ours["key"]
        if not _is_meant(settings, ours):
            continue
        if key == "samples":
            found.append(study.samples(name))
        else:
            # A setting that is off is not written, so it is read from the entry's class.
            value = getattr(settings, key) if key in type(settings).model_fields else None
            found += value if isinstance(value, list) else [] if value is None else [value]
    return found


def _is_meant(settings: Adaptation, ours: Origin) -> bool:
    """Return whether an adaptation has the setting, and is of the kind that the paper's is."""
    if settings.is_retraining != (ours["adaptations"] == "retraining"):
        return False
    if windows := ours.get("windows"):
        window = settings.window if isinstance(settings, Windowed) else HALVES
        # Single matrices, or whole blocks.
        if window == HALVES or (window == MATRIX) != (windows == MATRIX):
            return False
    if ours["key"] == "select_on":
        return is_searched(settings)
    # The paper's code loses no residual with local targets either.
    is_local = isinstance(settings, Local) and settings.local_targets
    return not (ours["key"] == "lost_residual" and is_local)


def _of_text(ours: Origin, study: Study) -> list[Any]:
    settings = study.calibration if ours["text_source"] == "calibration" else study.perplexity
    return [text_identity(study.text(settings.text))]


def text_identity(text: AnyText) -> str:
    """Return where a text comes from, by its entry in the config, which tells it from others."""
    match text:
        case WheelFiles():
            return f"{text.package}: {text.members}"
        case Mixture():
            return f"mixture of {parts_text(text.parts)}"
        case Wheel():
            return f"{text.package}: {text.member}"
        case HubFile():
            return f"{text.repository}: {text.member}"
        case _:
            return text.place


_VALUES: dict[str, Callable[[Origin, Study], list[Any]]] = {
    "text": lambda ours, _: [ours["text"]],
    "study": _of_study,
    "grids": lambda ours, study: [
        value for grid in study.block.grids for value in getattr(grid, ours["grids"])
    ],
    "criteria": _of_criteria,
    "adaptations": _of_adaptations,
    "text_source": _of_text,
}


def _value_text(value: Any, null: str) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if value is None:
        return null
    return f"{value:g}" if isinstance(value, float) else str(value)
