"""Samples of one text: the calibration sample, what is held out, and what goes beyond the first.

All three are drawn by one stream of random numbers: first the calibration sample, then the held-out
sample, then the extension of the calibration sample. The artifact of a sample keeps its spans and
the state of the random generator (DRAWN), from which the next sample continues.
"""

import json
import random
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import torch
from safetensors.torch import load_file
from torch import Tensor
from transformers import AutoTokenizer

from freelunch.core.artifact import Artifact, check_belongs, fingerprint
from freelunch.core.errors import UserError
from freelunch.data.documents import TOKEN_IDS, open_text, read_documents
from freelunch.model.checkpoint import folder_of_texts
from freelunch.model.token_ids import begin_with, check_vocabulary, read_tokens, write_tokens
from freelunch.study.cell import derive_seed
from freelunch.study.steps import BOS, CALIBRATION, CHECKPOINT, READY_TOKENS

# The file in a sample's artifact that says how it was drawn: `spans`, the document and the first
# token of each sequence; `generator`, the state of the random generator after the last one.
DRAWN = "drawn.json"

Span = tuple[int, int]
Gram = tuple[int, ...]
# Tokens in a row that two samples must not share if they are to be apart.
GRAM = 13
# Sequences in a row that may be refused before a drawing gives up, for each document.
_TRIES = 100


@dataclass(frozen=True)
class TokenJob:
    """A job that makes token ids of a text, or takes ready ones, by the tokenizer of a model. The
    fingerprint is the digest of everything that the result depends on; `calibration` and `held_out`
    are the samples that the result continues from, if it does. Sequences begin with the token
    `bos`, unless it is None.
    """

    model: Artifact
    text: Artifact
    folder: Path
    fingerprint: str
    calibration: Artifact | None = None
    held_out: Artifact | None = None
    bos: int | None = None

    @classmethod
    def of_manifests(
        cls, inputs: Mapping[str, Any], output: str, code: str, settings: object
    ) -> Self:
        """Return the job of a rule, whose inputs and output are paths of manifests: `model` and
        `text`; `bos`; `calibration` and a list of at most one `held_out`, if the rule has them. The
        result depends on the digest of the job's code and on the settings, too.
        """
        model, text = Artifact.at(inputs["model"], CHECKPOINT), open_text(inputs["text"])
        bos = Artifact.at(inputs["bos"], BOS)
        check_belongs(bos, "model", model)
        paths = [[inputs.get("calibration")], inputs.get("held_out", [])]
        calibration, held_out = [
            next((Artifact.at(at, CALIBRATION) for at in each if at), None) for each in paths
        ]
        earlier = [sample for sample in (calibration, held_out) if sample is not None]
        depends_on = fingerprint(code, settings, model, text, bos, *earlier)
        folder, token = Path(output).parent, bos.facts["token_id"]
        return cls(model, text, folder, depends_on, calibration, held_out, token)

    def write(
        self, input_ids: Tensor, last: Mapping[str, Any] | None = None, **facts: Any
    ) -> Artifact:
        """Write token ids, (samples, length), int64, with facts for the manifest, of which `last`
        follow the digests of the model and the text: their order decides the manifest's own digest.

        UserError if a token id is beyond the model's vocabulary.
        """
        check_vocabulary(input_ids, self.model, self.text.folder)
        facts |= {"model": self.model.digest, "text": self.text.digest, **(last or {})}
        return write_tokens(self.folder, self.fingerprint, input_ids, **facts)


def load_tokenizer(model: Artifact) -> Any:
    """Return a model's tokenizer."""
    return AutoTokenizer.from_pretrained(folder_of_texts(model), trust_remote_code=False)


def encode(tokenizer: Any, documents: str | list[str]) -> Any:
    """Return the token ids of a document, or of each of several, without special tokens: sequences
    from within documents get a beginning-of-sequence token afterwards, or none.
    """
    return tokenizer(documents, verbose=False, add_special_tokens=False)["input_ids"]


def sample_text(job: TokenJob, settings: Mapping[str, int]) -> Artifact:
    """Write the token ids of a sample of a text, (sequences, length), int64.

    Without an earlier sample, this is the calibration sample: `samples` sequences of `length`
    tokens, drawn by `seed`. With `measured`, it is held-out text: `samples` sequences on which
    candidates are compared, and `measured` ones on which cells are measured; the two and the
    calibration sample share no document, and no 13 tokens in a row. Otherwise it begins with the
    calibration sample, or is the beginning of it; what goes beyond is apart from the held-out
    sample, which the job then has. Ready token ids are used as they are, and must have the shape of
    the calibration sample.

    UserError if no document is left that is longer than a sequence, an earlier sample was drawn
    from another text, or ready token ids have another shape or do not belong to the model's
    vocabulary.
    """
    if job.calibration is None:
        return _calibration(job, settings["samples"], settings["length"], settings["seed"])
    if "measured" in settings:
        return _held_out(job, job.calibration, settings["samples"], settings["measured"])
    return _extended(job, job.calibration, settings["samples"])


def _calibration(job: TokenJob, samples: int, length: int, seed: int) -> Artifact:
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


def _held_out(job: TokenJob, calibration: Artifact, samples: int, measured: int) -> Artifact:
    drawing = Drawing.resume(job, calibration)
    drawn, spans = [], read_spans(calibration)
    for count in filter(None, (samples, measured)):
        drawing.keep_apart(spans)
        drawn.append(drawing.draw(count))
        spans += drawing.spans
    input_ids = torch.cat(drawn)
    drawing.spans = spans[-len(input_ids) :]
    return job.write(
        input_ids,
        files={DRAWN: drawing.state()},
        settings={**calibration.facts["settings"], "samples": samples, "measured": measured},
        last={"calibration": calibration.digest},
    )


def _extended(job: TokenJob, calibration: Artifact, samples: int) -> Artifact:
    held_out, length = job.held_out, calibration.facts["settings"]["length"]
    input_ids, made_from = read_tokens(calibration), {"calibration": calibration.digest}
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


class Drawing:
    """Draw documents with replacement, and from each a random sequence of tokens.

    A document that is not longer than a sequence is skipped, and so is one that is left out, and a
    sequence that shares GRAM tokens in a row with one that is kept apart. This is the full-length
    mode of the paper's third version: nothing is padded. Successive draws continue one stream of
    random numbers. `spans` has the document and the first token of each sequence of the last draw.
    """

    def __init__(
        self,
        documents: list[str],
        tokenizer: Any,
        length: int,
        seed: int,
        where: object,
        bos: int | None = None,
    ) -> None:
        self._documents, self._tokenizer, self._length = documents, tokenizer, length
        self._where, self._bos = where, bos
        self._generator = random.Random(derive_seed(seed, "calibration"))
        self._encoded: dict[int, list[int]] = {}
        self._left_out: frozenset[int] = frozenset()
        self._apart: frozenset[Gram] = frozenset()
        self.spans: list[Span] = []

    @classmethod
    def begin(cls, job: TokenJob, length: int, seed: int) -> "Drawing":
        """Return the drawing of a cell's first sample from a text."""
        documents = read_documents(job.text.folder)
        return cls(documents, load_tokenizer(job.model), length, seed, job.text.folder, job.bos)

    @classmethod
    def resume(cls, job: TokenJob, sample: Artifact) -> "Drawing":
        """Return a drawing that continues after a sample; UserError if the sample was not drawn
        from this text by this model's tokenizer.
        """
        check_belongs(sample, "text", job.text)
        check_belongs(sample, "model", job.model)
        settings = sample.facts["settings"]
        drawing = cls.begin(job, settings["length"], settings["seed"])
        version, state, gauss = json.loads(sample.path(DRAWN).read_text())["generator"]
        drawing._generator.setstate((version, tuple(state), gauss))
        return drawing

    def draw(self, count: int) -> Tensor:
        """Return the token ids of `count` sequences, (count, length), int64; UserError if no
        document is long enough, or all that are long enough are left out.
        """
        sequences: list[list[int]] = []
        seen: set[int] = set()
        refused = 0
        self.spans = []
        while len(sequences) < count:
            index = self._generator.randrange(len(self._documents))
            seen.add(index)
            tokens = [] if index in self._left_out else self._tokens(index)
            if len(tokens) > self._length:
                start = self._generator.randrange(len(tokens) - self._length + 1)
                sequence = tokens[start : start + self._length]
                if self._apart.isdisjoint(grams(sequence)):
                    refused = 0
                    sequences.append(sequence)
                    self.spans.append((index, start))
                    continue
                refused += 1
            elif not sequences and not refused and len(seen) == len(self._documents):
                raise self._nothing_left(refused)
            if refused > _TRIES * len(self._documents):
                raise self._nothing_left(refused)
        return begin_with(torch.tensor(sequences), self._bos)

    def keep_apart(self, spans: Iterable[Span]) -> None:
        """Skip from now on the documents of these spans, and sequences that share GRAM tokens in a
        row with one of them, and nothing else.
        """
        spans = list(spans)
        self._left_out = frozenset(document for document, _ in spans)
        self._apart = frozenset(
            gram
            for document, start in spans
            for gram in grams(self._tokens(document)[start : start + self._length])
        )

    def state(self) -> str:
        """Return the content of the file DRAWN after the last draw."""
        return json.dumps({"spans": self.spans, "generator": self._generator.getstate()}) + "\n"

    def _tokens(self, index: int) -> list[int]:
        if index not in self._encoded:
            document = self._documents[index]
            self._encoded[index] = encode(self._tokenizer, document)
        return self._encoded[index]

    def _nothing_left(self, refused: int) -> UserError:
        found = f"the longest document has {max(map(len, self._encoded.values()))} tokens"
        if self._left_out:
            found = f"{len(self._left_out)} documents that another sample has touched, and none "
            found += "beside them that is long enough"
        if refused:
            found = f"{GRAM} tokens in a row of every sequence are in another sample, too"
        return UserError(
            "no sequence is left to draw",
            where=self._where,
            found=found,
            expected=f"a document of more than study.calibration.length = {self._length} tokens, "
            "apart from all other samples",
            todo="use a text with more or longer documents, or fewer or shorter sequences "
            "(study.calibration, study.selection, study.evaluation.drift), or set `select_on: "
            "evaluation` if this is for a search",
        )


def grams(tokens: list[int]) -> Iterator[Gram]:
    """Yield each GRAM tokens in a row."""
    return (tuple(tokens[at : at + GRAM]) for at in range(len(tokens) - GRAM + 1))


def read_spans(sample: Artifact) -> list[Span]:
    """Return the document and the first token of each sequence of a sample, in its order."""
    spans = json.loads(sample.path(DRAWN).read_text())["spans"]
    return [(document, start) for document, start in spans]


def distinct_tokens(spans: Iterable[Span], length: int) -> int:
    """Return how many tokens of the text spans of a length cover, counting overlaps once."""
    covered, document, end = 0, -1, 0
    for here, start in sorted(spans):
        if here != document:
            document, end = here, 0
        covered += max(0, start + length - max(start, end))
        end = max(end, start + length)
    return covered
