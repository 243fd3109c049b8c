"""What a distillation learns from: the dense model's predictions for the training sample."""

import logging
from dataclasses import replace
from pathlib import Path

from torch import Tensor

from freelunch.core.artifact_writer import ArtifactWriter
from freelunch.core.job_cost import Spent
from freelunch.model.checkpoint import StreamedModel
from freelunch.model.hidden_file import hidden_file, open_hidden
from freelunch.model.hidden_states import KIND, DenseStates

log = logging.getLogger(__name__)


class Teacher:
    """The dense model, whose hidden states after the last block are on disk; its logits are not,
    since they are many times as large.

    Computing these states takes about a fifth of a distillation of one epoch, so an interrupted one
    keeps them.

    Args:
        model: The dense model.
        states: The training sample.
        folder: Where the hidden states are kept, unless a dense pass of the study has kept them;
            the caller removes it after the training.
        fingerprint: Digest of everything that the training depends on.

    Attributes:
        spent: What earlier attempts spent on the hidden states.
    """

    def __init__(
        self, model: StreamedModel, states: DenseStates, folder: Path, fingerprint: str
    ) -> None:
        self._model, self._input_ids = model, states.input_ids
        self.spent = Spent()
        last = model.num_blocks
        if last in states:
            self._hidden = states.at(last)
            return
        # One folder further down, so that `.dense.checked`, which an artifact has beside it, is
        # removed with it.
        writer, name = ArtifactWriter(folder / "dense", KIND, fingerprint), hidden_file(last)
        if name not in writer:
            log.info("first, the dense model passes all %d sequences", states.sequences)
            writer.add(name, lambda path: states.write(last, path))
        kept = writer.finish()
        # The training counts the attempts.
        self.spent = replace(kept.spent, attempts=0)
        self._hidden = open_hidden(kept.path(name))

    def logits(self, rows: Tensor) -> Tensor:
        """Return the dense model's logits for sequences, (rows, length, vocabulary)."""
        hidden = self._hidden[rows].to(self._model.device)
        return self._model.logits(self._input_ids[rows], hidden)
