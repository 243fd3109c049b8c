"""Inputs of every job that makes token ids of a text: the model, the text, and earlier samples."""

from pathlib import Path
from typing import Any

from freelunch.core.artifact import Artifact, fingerprint
from freelunch.data.documents import open_text
from freelunch.study.steps import CALIBRATION, CHECKPOINT


def token_id_inputs(snakemake: Any, settings: Any) -> dict[str, Any]:
    """Return the arguments that the functions that make token ids share.

    Args:
        snakemake: The object that Snakemake hands to a script. Its inputs are `model` and `text`
            and, for a sample that goes on from earlier ones, `calibration` and `held_out` (a list).
        settings: Settings that the result depends on.
    """
    model = Artifact.at(snakemake.input.model, CHECKPOINT)
    text = open_text(Path(snakemake.input.text).parent)
    calibration = snakemake.input.get("calibration")
    earlier = {"calibration": Artifact.at(calibration, CALIBRATION)} if calibration else {}
    for path in snakemake.input.get("held_out", []):
        earlier["held_out"] = Artifact.at(path, CALIBRATION)
    code = snakemake.params.code
    return {
        "model": model,
        "text": text,
        **earlier,
        "folder": Path(snakemake.output.manifest).parent,
        "fingerprint": fingerprint(code, settings, model, text, *earlier.values()),
    }
