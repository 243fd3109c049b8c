"""What was wrong with the samples of the real C4 text, measured on that text."""

from pathlib import Path

import pytest

from freelunch.core.artifact import Artifact
from freelunch.data.models import fetch_model
from freelunch.data.samples import GRAM, sample_text
from freelunch.data.texts import fetch_text
from freelunch.model.token_ids import read_tokens
from freelunch.study.study import Study
from repository import ROOT
from token_jobs import job_of

MODEL, TEXT = "smollm2-135m", "c4"


def grams(sample: Artifact) -> set[tuple[int, ...]]:
    """Return the different runs of 13 tokens of a sample."""
    rows = read_tokens(sample).tolist()
    return {tuple(row[at : at + GRAM]) for row in rows for at in range(len(row) - GRAM + 1)}


@pytest.mark.long  # It downloads the model, 90 MB, for its tokenizer.
def test_the_samples_of_the_kept_study_are_apart(tmp_path: Path) -> None:
    """Five documents stand twice in the file. Drawn from it as it stood, a sample of seed 0 had
    6,943 different tokens, noted as 7,672, and 71 of the 244 runs of 13 tokens of one held-out
    sequence were in it, too.
    """
    study = Study.load(Path("studies/full.yaml"), ROOT)
    model = fetch_model(MODEL, study.config.models[MODEL], tmp_path / "model", "test")
    text = fetch_text(TEXT, study.config.texts[TEXT], tmp_path / "text", "test")
    assert (text.facts["documents"], text.facts["duplicates"]) == (113, 5)

    drawn, drift = study.calibration, study.drift
    assert drift is not None
    for seed, distinct in ((0, 7_696), (1, 8_192), (2, 7_113)):
        job = job_of(model, text, tmp_path / f"sample{seed}")
        sample = sample_text(job, {"samples": drawn.samples, "length": drawn.length, "seed": seed})
        job = job_of(model, text, tmp_path / f"held_out{seed}", sample)
        held_out = sample_text(job, {"samples": 0, "measured": drift.samples})
        assert read_tokens(sample).shape == (32, 256)
        assert read_tokens(held_out).shape == (drift.samples, 256)
        assert sample.facts["distinct_tokens"] == distinct
        assert not grams(sample) & grams(held_out)
