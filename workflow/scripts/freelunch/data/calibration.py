"""The calibration sample, the held-out sample, and samples that go beyond the calibration sample.

All three are drawn from one text by one stream of random numbers: first the calibration sample,
then the held-out sample, then the extension of the calibration sample. The artifact of a sample
keeps its spans and the state of the random generator (`drawing.DRAWN`), from which the next sample
continues.
"""

from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from freelunch.core.artifact import Artifact, check_belongs
from freelunch.core.errors import UserError
from freelunch.data.documents import TOKEN_IDS
from freelunch.data.drawing import DRAWN, Drawing, distinct_tokens, read_spans
from freelunch.model.token_ids import check_vocabulary, read_tokens, write_tokens
from freelunch.study.steps import READY_TOKENS


def sample_calibration(
    model: Artifact,
    text: Artifact,
    samples: int,
    length: int,
    seed: int,
    folder: Path,
    fingerprint: str,
) -> Artifact:
    """Write the token ids of a calibration sample, (samples, length), int64.

    `Drawing` draws them from a text. Ready token ids are used as they are, and must have the shape
    that the config states.

    Args:
        model: For its tokenizer and its vocabulary.
        text: A text, or ready token ids.
        samples: Number of sequences.
        length: Tokens in a sequence.
        seed: The cell's seed.
        folder: Output folder.
        fingerprint: Digest of everything the result depends on.

    Raises:
        UserError: No document of the text is longer than one sequence, or ready token ids have
            another shape or do not belong to the model's vocabulary.
    """
    files: dict[str, str] = {}
    if text.kind == READY_TOKENS:
        input_ids = load_file(text.path(TOKEN_IDS))["input_ids"]
        if input_ids.shape != (samples, length):
            raise UserError(
                "the ready token ids have another shape than `study.calibration` announces",
                where=text.folder,
                found=tuple(input_ids.shape),
                expected=(samples, length),
                todo="set `samples` and `length` to the shape of the file",
            )
        # The documents they come from are unknown: only repeated sequences can be recognised.
        distinct = len({tuple(row) for row in input_ids.tolist()}) * length
    else:
        drawing = Drawing.begin(model, text, length, seed)
        input_ids = drawing.draw(samples)
        distinct = distinct_tokens(drawing.spans, length)
        files[DRAWN] = drawing.drawn()
    check_vocabulary(input_ids, model, text.folder)
    return write_tokens(
        folder,
        fingerprint,
        input_ids,
        files=files,
        settings={"samples": samples, "length": length, "seed": seed},
        distinct_tokens=distinct,
        model=model.digest,
        text=text.digest,
    )


def sample_held_out(
    model: Artifact,
    text: Artifact,
    calibration: Artifact,
    samples: int,
    measured: int,
    folder: Path,
    fingerprint: str,
) -> Artifact:
    """Write the token ids, (samples + measured, length), int64, of held-out text.

    The first sequences are those on which candidates are compared, the others those on which cells
    are measured. The two and the calibration sample are apart: they share no document, and no 13
    tokens in a row.

    Args:
        model: For its tokenizer.
        text: The text that the calibration sample was drawn from.
        calibration: The calibration sample; its length and seed apply here too.
        samples: Number of sequences on which candidates are compared.
        measured: Number of sequences on which cells are measured.
        folder: Output folder.
        fingerprint: Digest of everything the result depends on.

    Raises:
        UserError: The calibration sample was drawn from another text, or no text is left that is
            apart.
    """
    drawing = Drawing.resume(model, text, calibration)
    drawn, spans = [], read_spans(calibration)
    for count in filter(None, (samples, measured)):
        drawing.keep_apart(spans)
        drawn.append(drawing.draw(count))
        spans += drawing.spans
    input_ids = torch.cat(drawn)
    drawing.spans = spans[-len(input_ids) :]
    return write_tokens(
        folder,
        fingerprint,
        input_ids,
        files={DRAWN: drawing.drawn()},
        settings={**calibration.facts["settings"], "samples": samples, "measured": measured},
        model=model.digest,
        text=text.digest,
        calibration=calibration.digest,
    )


def extend_calibration(
    model: Artifact,
    text: Artifact,
    calibration: Artifact,
    held_out: Artifact | None,
    samples: int,
    folder: Path,
    fingerprint: str,
) -> Artifact:
    """Write token ids, (samples, length), int64, that begin with the calibration sample.

    A smaller sample is the beginning of the calibration sample. A larger one continues with
    sequences that are apart from the held-out sample.

    Args:
        model: For its tokenizer.
        text: The text that both samples were drawn from.
        calibration: The calibration sample.
        held_out: The held-out sample; a sample no larger than the calibration sample does not need
            it.
        samples: Number of sequences.
        folder: Output folder.
        fingerprint: Digest of everything the result depends on.

    Raises:
        UserError: One of the samples was drawn from another text, or no document is left.
    """
    input_ids, length = read_tokens(calibration), calibration.facts["settings"]["length"]
    facts: dict[str, Any] = {}
    if held_out is not None and samples > len(input_ids):
        check_belongs(held_out, "calibration", calibration)
        drawing = Drawing.resume(model, text, held_out)
        drawing.keep_apart(read_spans(held_out))
        input_ids = torch.cat([input_ids, drawing.draw(samples - len(input_ids))])
        distinct = distinct_tokens([*read_spans(calibration), *drawing.spans], length)
        facts["held_out"] = held_out.digest
    else:
        input_ids = input_ids[:samples]
        distinct = calibration.facts["distinct_tokens"]
        if text.kind != READY_TOKENS:
            distinct = distinct_tokens(read_spans(calibration)[:samples], length)
    return write_tokens(
        folder,
        fingerprint,
        input_ids,
        settings={**calibration.facts["settings"], "samples": samples},
        distinct_tokens=min(distinct, input_ids.numel()),
        model=model.digest,
        text=text.digest,
        calibration=calibration.digest,
        **facts,
    )
