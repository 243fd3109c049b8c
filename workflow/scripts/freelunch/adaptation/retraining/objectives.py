"""What a retraining minimises: the next-token loss, or the distance from the dense model."""

import logging
from dataclasses import replace
from pathlib import Path

from torch import Tensor, nn

from freelunch.core.artifact_writer import ArtifactWriter
from freelunch.core.job_cost import Spent
from freelunch.model.checkpoint import StreamedModel
from freelunch.model.hidden_file import hidden_file, open_hidden
from freelunch.model.hidden_states import KIND, DenseStates

log = logging.getLogger(__name__)


def next_token(logits: Tensor, input_ids: Tensor) -> Tensor:
    """Return the mean over tokens of -log p(next token), nats, 0-d, float32.

    Args:
        logits: (batch, length, vocabulary).
        input_ids: (batch, length), int64, on the same device.
    """
    predicted = logits[:, :-1].float().flatten(0, 1)
    return nn.functional.cross_entropy(predicted, input_ids[:, 1:].flatten())


def distillation(logits: Tensor, teacher: Tensor) -> Tensor:
    """Return the mean over tokens of KL(dense model || trained model), nats, 0-d, float32.

    This is knowledge distillation (arXiv 1503.02531) at temperature 1, without an additional
    next-token loss.

    Args:
        logits: Logits of the trained model, (batch, length, vocabulary).
        teacher: Logits of the dense model, the same shape.
    """
    ours = logits.float().log_softmax(-1).flatten(0, 1)
    theirs = teacher.float().log_softmax(-1).flatten(0, 1)
    return nn.functional.kl_div(ours, theirs, reduction="batchmean", log_target=True)


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
        stored = writer.finish()
        # The training counts the attempts.
        self.spent = replace(stored.spent, attempts=0)
        self._hidden = open_hidden(stored.path(name))

    def logits(self, rows: Tensor) -> Tensor:
        """Return the dense model's logits for sequences, (rows, length, vocabulary)."""
        hidden = self._hidden[rows].to(self._model.device)
        return self._model.logits(self._input_ids[rows], hidden)
