"""The shapes of a study's models: from a model's own config.json if it is on disk, and otherwise
from `architecture` in the study.
"""

import json
from collections.abc import Iterator, Mapping
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
    """Return the shapes of a model; None if they are not known yet.

    A config.json that leaves shapes to defaults is passed over: once it is fetched, it is complete.

    Raises:
        UserError: No model can have the shapes in its config.json.
    """
    dtype = dtype_of(study, model)
    for path, config in _configs(study, model):
        check_shapes(config, path)
        with suppress(ValueError, KeyError, TypeError, AttributeError):
            shapes = Shapes.of_whole(config, dtype)
            # `null` in place of a number survives until it is used.
            if None not in (shapes.blocks, shapes.intermediate):
                return shapes
    architecture = study.model(model).architecture
    return None if architecture is None else Shapes.of(architecture.as_json(), dtype)


def config_of(study: Study, model: str) -> Mapping[str, Any]:
    """Return what is known of a model's config; empty if nothing is."""
    for _, config in _configs(study, model):
        return config
    architecture = study.model(model).architecture
    return {} if architecture is None else architecture.as_json()


def is_gguf(study: Study, model: str) -> bool:
    """Return whether a model is a GGUF file."""
    entry = study.model(model)
    if isinstance(entry, LocalModel):
        return gguf_of(Path(entry.path), f"models.{model}.path") is not None
    return isinstance(entry, WheelModel)


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
    for _, config in _configs(study, model):
        # transformers wrote `torch_dtype` before version 5.
        stated = config.get("dtype") or config.get("torch_dtype")
        # Fetching refuses any other dtype.
        if isinstance(stated, str) and stated in DTYPE_BYTES:
            return stated
    return "bfloat16"


def _configs(study: Study, model: str) -> Iterator[tuple[Path, dict[str, Any]]]:
    """Yield each config.json that a model has on disk and that is JSON: in its own folder, and in
    the fetched model's.
    """
    entry, folders = study.model(model), [fetched_model(study, model)]
    # What lies beside a GGUF file is not used.
    if isinstance(entry, LocalModel) and not is_gguf(study, model):
        folders.insert(0, Path(entry.path))
    for folder in filter(None, folders):
        with suppress(OSError, ValueError, RecursionError):
            config = json.loads((folder / "config.json").read_text())
            if isinstance(config, dict):
                yield folder / "config.json", config
