"""The paper's protocol beside this run's, setting by setting."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from freelunch.audit.data import DATA, checked
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


def load_protocol(path: Path = PROTOCOL) -> list[dict[str, Any]]:
    """Return the settings of a file.

    Raises:
        UserError: The file does not match `workflow/schemas/protocol.schema.json`, or a setting
            whose value in the paper is known does not say which of ours would be the same.
    """
    settings: list[dict[str, Any]] = checked(path, "protocol")["settings"]
    for setting in settings:
        says = "same" in setting if "text" in setting["ours"] else "same_as" in setting
        if setting["paper"] is not None and not says:
            raise UserError(
                "a setting does not say which of ours would be the paper's",
                where=f"{path}: {setting['id']}",
                expected="`same` beside a text, otherwise `same_as`",
            )
    return settings


def audit_protocol(study: Study, settings: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the paper's value of each setting, this run's, and whether they are the same."""
    return [_row(setting, study) for setting in settings]


def _row(setting: Mapping[str, Any], study: Study) -> dict[str, Any]:
    ours = values(setting["ours"], study)
    facts = ("id", "group", "setting", "paper", "matters", "why")
    return {
        **{key: setting[key] for key in facts},
        "ours": [_shown(value, setting.get("null_reads", "none")) for value in ours],
        "status": _status(setting, ours),
    }


def _status(setting: Mapping[str, Any], ours: list[Any]) -> str:
    if setting["paper"] is None:
        return UNKNOWN
    if not ours:
        return ABSENT
    if "same" in setting:
        return SAME if setting["same"] else DIFFERENT
    among = [value in setting["same_as"] for value in ours]
    return SAME if all(among) else PARTLY if any(among) else DIFFERENT


def values(ours: Mapping[str, Any], study: Study) -> list[Any]:
    """Return this run's values of a setting, each once; none if the run has no such setting."""
    kind = next(key for key in ours if key not in ("key", "scores", "windows"))
    found = _VALUES[kind](ours, study)
    return [value for at, value in enumerate(found) if value not in found[:at]]


def _fixed(ours: Mapping[str, Any], study: Study) -> list[Any]:
    return [ours["text"]]


def _of_study(ours: Mapping[str, Any], study: Study) -> list[Any]:
    value: Any = study.block.as_json()
    for key in ours["study"].split("."):
        if not isinstance(value, Mapping) or key not in value:
            return []
        value = value[key]
    return list(value) if isinstance(value, list) else [value]


def _of_grids(ours: Mapping[str, Any], study: Study) -> list[Any]:
    return [value for grid in study.block.grids for value in getattr(grid, ours["grids"])]


def _of_criteria(ours: Mapping[str, Any], study: Study) -> list[Any]:
    names = dict.fromkeys(cell.criterion for cell in study.cells if not cell.is_dense)
    entries = [study.criterion(name).as_json() for name in names]
    scores = ours.get("scores", [entry["score"] for entry in entries])
    key = ours["criteria"]
    return [entry[key] for entry in entries if key in entry and entry["score"] in scores]


def _of_adaptations(ours: Mapping[str, Any], study: Study) -> list[Any]:
    names = dict.fromkeys(cell.adaptation for cell in study.cells if cell.adaptation != NONE)
    found: list[Any] = []
    for name in names:
        settings = study.config.adaptations[name]
        if settings.is_retraining != (ours["adaptations"] == "retraining"):
            continue
        if "windows" in ours and not _has_windows(settings, ours["windows"]):
            continue
        if ours["key"] == "samples":
            found.append(study.samples(name))
        elif ours["key"] == "select_on" and not is_searched(settings):
            # Nothing is selected.
            continue
        elif (
            ours["key"] == "lost_residual"
            and isinstance(settings, Local)
            and settings.local_targets
        ):
            # The paper's code loses no residual with these targets either.
            continue
        elif (value := _value(settings, ours["key"])) is not None:
            found += value if isinstance(value, list) else [value]
    return found


def _has_windows(settings: Adaptation, windows: str) -> bool:
    """Return whether an adaptation reconstructs single matrices, or whole blocks."""
    if not isinstance(settings, Windowed):
        return False
    if windows == MATRIX:
        return settings.window == MATRIX
    return settings.window not in (MATRIX, HALVES)


def _value(settings: Adaptation, key: str) -> Any:
    """Return the value of a setting, also of one that is off and therefore not written; None if
    there is none.
    """
    return getattr(settings, key) if key in type(settings).model_fields else None


def _of_text(ours: Mapping[str, Any], study: Study) -> list[Any]:
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
            return text.path


_VALUES: dict[str, Callable[[Mapping[str, Any], Study], list[Any]]] = {
    "text": _fixed,
    "study": _of_study,
    "grids": _of_grids,
    "criteria": _of_criteria,
    "adaptations": _of_adaptations,
    "text_source": _of_text,
}


def _shown(value: Any, null: str) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if value is None:
        return null
    return f"{value:g}" if isinstance(value, float) else str(value)
