"""The calibration sample, the held-out sample, and samples that go beyond the calibration sample.

All three are drawn from one text by one stream of random numbers: first the calibration sample,
then the held-out sample, then the extension of the calibration sample. The artifact of a sample
keeps its spans and the state of the random generator (`drawing.DRAWN`), from which the next sample
continues.
"""

import torch
from safetensors.torch import load_file

from freelunch.core.artifact import Artifact, check_belongs
from freelunch.core.errors import UserError
from freelunch.data.documents import TOKEN_IDS
from freelunch.data.drawing import DRAWN, Drawing, distinct_tokens, read_spans
from freelunch.data.token_job import TokenJob
from freelunch.model.token_ids import read_tokens
from freelunch.study.steps import READY_TOKENS


def sample_calibration(job: TokenJob, samples: int, length: int, seed: int) -> Artifact:
    """Write the token ids of a calibration sample, (samples, length), int64.

    `Drawing` draws them from a text. Ready token ids are used as they are, and must have this
    shape.

    Raises:
        UserError: No document of the text is longer than one sequence, or ready token ids have
            another shape or do not belong to the model's vocabulary.
    """
    files: dict[str, str] = {}
    if job.text.kind == READY_TOKENS:
        input_ids = load_file(job.text.path(TOKEN_IDS))["input_ids"]
        if input_ids.shape != (samples, length):
            raise UserError(
                "the ready token ids have another shape than `study.calibration` announces",
                where=job.text.folder,
                found=tuple(input_ids.shape),
                expected=(samples, length),
                todo="set `samples` and `length` to the shape of the file",
            )
        # The documents they come from are unknown: only repeated sequences can be recognised.
        distinct = len({tuple(row) for row in input_ids.tolist()}) * length
    else:
        drawing = Drawing.begin(job, length, seed)
        input_ids = drawing.draw(samples)
        distinct = distinct_tokens(drawing.spans, length)
        files[DRAWN] = drawing.state()
    settings = {"samples": samples, "length": length, "seed": seed}
    return job.write(input_ids, files=files, settings=settings, distinct_tokens=distinct)


def sample_held_out(job: TokenJob, samples: int, measured: int) -> Artifact:
    """Write the token ids, (samples + measured, length), int64, of held-out text.

    The first sequences are those on which candidates are compared, the others those on which cells
    are measured. The two and the calibration sample are apart: they share no document, and no 13
    tokens in a row.

    Raises:
        UserError: The calibration sample was drawn from another text, or no text is left that is
            apart.
    """
    assert job.calibration is not None
    drawing = Drawing.resume(job, job.calibration)
    drawn, spans = [], read_spans(job.calibration)
    for count in filter(None, (samples, measured)):
        drawing.keep_apart(spans)
        drawn.append(drawing.draw(count))
        spans += drawing.spans
    input_ids = torch.cat(drawn)
    drawing.spans = spans[-len(input_ids) :]
    settings = {**job.calibration.facts["settings"], "samples": samples, "measured": measured}
    return job.write(
        input_ids,
        files={DRAWN: drawing.state()},
        settings=settings,
        last={"calibration": job.calibration.digest},
    )


def extend_calibration(job: TokenJob, samples: int) -> Artifact:
    """Write token ids, (samples, length), int64, that begin with the calibration sample.

    A smaller sample is the beginning of the calibration sample. A larger one needs the held-out
    sample, and continues with sequences that are apart from it.

    Raises:
        UserError: One of the samples was drawn from another text, or no document is left.
    """
    calibration, held_out = job.calibration, job.held_out
    assert calibration is not None
    input_ids, length = read_tokens(calibration), calibration.facts["settings"]["length"]
    made_from = {"calibration": calibration.digest}
    if held_out is not None and samples > len(input_ids):
        check_belongs(held_out, "calibration", calibration)
        drawing = Drawing.resume(job, held_out)
        drawing.keep_apart(read_spans(held_out))
        input_ids = torch.cat([input_ids, drawing.draw(samples - len(input_ids))])
        distinct = distinct_tokens([*read_spans(calibration), *drawing.spans], length)
        made_from["held_out"] = held_out.digest
    else:
        input_ids = input_ids[:samples]
        distinct = calibration.facts["distinct_tokens"]
        if job.text.kind != READY_TOKENS:
            distinct = distinct_tokens(read_spans(calibration)[:samples], length)
    return job.write(
        input_ids,
        settings={**calibration.facts["settings"], "samples": samples},
        distinct_tokens=min(distinct, input_ids.numel()),
        last=made_from,
    )
