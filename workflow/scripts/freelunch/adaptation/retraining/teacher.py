"""What a distillation learns from: the dense model's predictions for the training sample."""

import logging
from pathlib import Path

from torch import Tensor

from freelunch.core.artifact_writer import ArtifactWriter
from freelunch.core.spent import Spent
from freelunch.model.checkpoint import StreamedModel
from freelunch.model.hidden_file import hidden_file
from freelunch.model.hidden_states import KIND, DenseStates

log = logging.getLogger(__name__)


class Teacher:
    """The dense model, whose hidden states after the last block are on disk; its logits are not,
    since they are many times as large.

    Computing these states takes about a fifth of a distillation, so an interrupted one keeps them.

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
        if last not in states:
            # In a folder below, since the digests that are known stand beside an artifact.
            writer, name = ArtifactWriter(folder / "dense", KIND, fingerprint), hidden_file(last)
            if name not in writer:
                log.info("first, the dense model passes all %d sequences", states.sequences)
                writer.add(name, lambda path: states.write(last, path))
            kept = writer.finish()
            self.spent = kept.spent
            states.found(last, kept.path(name))
        self._hidden = states.at(last)

    def logits(self, rows: Tensor) -> Tensor:
        """Return the dense model's logits for sequences, (rows, length, vocabulary)."""
        hidden = self._hidden[rows].to(self._model.device)
        return self._model.logits(self._input_ids[rows], hidden)
