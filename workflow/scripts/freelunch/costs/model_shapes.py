"""The shapes of a study's models: from a model's own config.json if it is on disk, and otherwise
from `architecture` in the study.
"""

import json
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from freelunch.costs.shapes import DTYPE_BYTES, Shapes
from freelunch.study.fetched import fetched_model
from freelunch.study.model_limits import check_shapes
from freelunch.study.source_files import gguf_of
from freelunch.study.sources import LocalModel, WheelModel
from freelunch.study.study import Study


def shapes_of(study: Study, model: str) -> Shapes | None:
    """Return the shapes of a model; None if they are not known yet."""
    entry, dtype = study.model(model), dtype_of(study, model)
    for place in _configs(study, model):
        if found := _read_shapes(place, dtype):
            return found
    if entry.architecture is None:
        return None
    return Shapes.of(entry.architecture.as_json(), dtype)


def config_of(study: Study, model: str) -> Mapping[str, Any]:
    """Return what is known of a model's config; empty if nothing is."""
    for place in _configs(study, model):
        with suppress(ValueError, RecursionError):
            config = json.loads(place.read_text())
            if isinstance(config, dict):
                return config
    architecture = study.model(model).architecture
    return {} if architecture is None else architecture.as_json()


def is_gguf(study: Study, model: str) -> bool:
    """Return whether a model is a GGUF file."""
    entry = study.model(model)
    if isinstance(entry, LocalModel):
        return gguf_of(Path(entry.path), f"models.{model}.path") is not None
    return isinstance(entry, WheelModel)


def _configs(study: Study, model: str) -> list[Path]:
    """Return the paths of a model's own config.json that exist."""
    entry, fetched = study.model(model), fetched_model(study, model)
    places = [fetched / "config.json"] if fetched else []
    # What lies beside a GGUF file is not used.
    if isinstance(entry, LocalModel) and not is_gguf(study, model):
        places.insert(0, Path(entry.path) / "config.json")
    return [place for place in places if place.is_file()]


def dtype_of(study: Study, model: str) -> str:
    """Return the dtype in which a model is stored: the entry's, or else the checkpoint's own.

    A GGUF file is dequantised to float32. Other models that are not on disk yet are assumed to be
    bfloat16, as today's checkpoints are.
    """
    entry = study.model(model)
    if entry.dtype is not None:
        return entry.dtype
    if is_gguf(study, model):
        return "float32"
    for place in _configs(study, model):
        with suppress(ValueError, AttributeError, TypeError, RecursionError):
            config = json.loads(place.read_text())
            # transformers wrote `torch_dtype` before version 5.
            found = config.get("dtype") or config.get("torch_dtype")
            # Fetching refuses any other dtype.
            if found in DTYPE_BYTES:
                return str(found)
    return "bfloat16"


def _read_shapes(config_json: Path, dtype: str) -> Shapes | None:
    """Return the shapes in a model's config; None if it is damaged or leaves them to defaults.

    Fetching the model then says what is wrong, or writes a complete config.

    Raises:
        UserError: No model can have these shapes.
    """
    try:
        check_shapes(json.loads(config_json.read_text()), config_json)
        shapes = Shapes.read(config_json, dtype)
        # `null` in place of a number survives until it is used.
        return None if None in (shapes.blocks, shapes.intermediate) else shapes
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None
