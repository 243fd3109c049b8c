"""The samples of a mixture: calibration, larger samples to train on, and held-out text."""

from pathlib import Path
from typing import Any

import torch

from freelunch.core.artifact import Artifact, check_belongs
from freelunch.data.mixture_drawing import MEASURED, SELECTION, TRAINING, MixtureDrawing
from freelunch.model.token_ids import check_vocabulary, write_tokens


def sample_mixture(
    model: Artifact,
    text: Artifact,
    evaluation: Artifact,
    windows: Artifact,
    settings: dict[str, int],
    folder: Path,
    fingerprint: str,
    calibration: Artifact | None = None,
    most: int = 0,
) -> Artifact:
    """Write the token ids of a sample, (samples, length), int64.

    Args:
        model: For its tokenizer and its vocabulary.
        text: The mixture.
        evaluation: The evaluation text.
        windows: Its windows by the same tokenizer.
        settings: `samples`, `length` and `seed`; for held-out text also `measured`, the number of
            sequences on which cells are measured, which follow the `samples` on which candidates
            are compared.
        folder: Output folder.
        fingerprint: Digest of everything the result depends on.
        calibration: The calibration sample, if this is another one. A larger sample begins with it.
        most: Sequences of the largest sample that the study draws, so that a mixture that is too
            short for it is refused at once.

    Raises:
        UserError: A part of the mixture is too short or holds evaluation text, or the calibration
            sample is of another text or model.
    """
    samples, length = settings["samples"], settings["length"]
    facts: dict[str, Any] = {"model": model.digest, "text": text.digest, "windows": windows.digest}
    if calibration is not None:
        check_belongs(calibration, "text", text)
        check_belongs(calibration, "model", model)
        facts["calibration"] = calibration.digest
    drawing = MixtureDrawing.of(model, text, evaluation, windows, length, settings["seed"])
    if "measured" in settings:
        drawn = (drawing.draw(SELECTION, samples), drawing.draw(MEASURED, settings["measured"]))
        input_ids = torch.cat(drawn)
    else:
        input_ids = drawing.draw(TRAINING, max(samples, most))[:samples]
        facts["distinct_tokens"] = input_ids.numel()
    check_vocabulary(input_ids, model, text.folder)
    return write_tokens(
        folder,
        fingerprint,
        input_ids,
        settings=settings,
        parts={part.name: {"share": part.share, **part.facts} for part in drawing.parts},
        **facts,
    )
