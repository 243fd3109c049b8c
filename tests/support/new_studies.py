"""Studies that `freelunch new` writes."""

import json
from pathlib import Path
from typing import Any

from freelunch.cli.new import write_study
from freelunch.costs.machine import Machine
from freelunch.study.study import Study
from own_models import machine
from tiny_models import save_tiny_model

HERE = machine()


def model(models: Path, family: str = "llama", **changes: Any) -> Path:
    folder = models / "-".join([family, *map(str, changes.values())])
    return folder if folder.exists() else save_tiny_model(folder, family, **changes)


def new(
    model: object,
    text: object,
    name: str | None = None,
    evaluation: Path | None = None,
    on: Machine | None = HERE,
) -> Study:
    other = str(evaluation) if evaluation else None
    path, _ = write_study(str(model), str(text), name, other, on)
    return Study.load(path)


def edit_config(folder: Path, **changes: Any) -> Path:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    return folder
