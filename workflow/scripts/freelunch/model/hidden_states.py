"""Hidden states of the calibration sample: through the dense model, and through the sparse one.

The folder of dense hidden states that a dense pass keeps is a cache. Any of it may be missing, or
all: what is asked for is then computed from the nearest boundary before it, from the calibration
tokens if need be.
"""

from collections.abc import Callable
from pathlib import Path

from torch import nn

from freelunch.core.artifact import MANIFEST, Artifact, check_belongs
from freelunch.model.block_pass import BlockPass
from freelunch.model.checkpoint import StreamedModel
from freelunch.model.hidden_file import HiddenStates, create_hidden, hidden_file, open_hidden
from freelunch.model.token_ids import read_tokens
from freelunch.study.steps import HIDDEN_STATES

KIND = HIDDEN_STATES


def kept_states(folder: Path, model: Artifact, calibration: Artifact) -> Artifact | None:
    """Return the hidden states that a dense pass kept; None if it kept none.

    Raises:
        UserError: They belong to another model or calibration sample, or are damaged.
    """
    if not (folder / MANIFEST).is_file():
        return None
    kept = Artifact(folder, KIND)
    check_belongs(kept, "model", model)
    check_belongs(kept, "calibration", calibration)
    return kept


def open_states(
    model: StreamedModel, calibration: Artifact, folder: Path, scratch: Path
) -> "DenseStates":
    """Return the dense hidden states of a calibration sample, of which a folder may keep some.

    Of one that extends another sample, none are kept.

    Raises:
        UserError: As `kept_states`.
    """
    extends = "calibration" in calibration.facts
    kept = None if extends else kept_states(folder, model.artifact, calibration)
    return DenseStates(model, calibration, kept, scratch)


class DenseStates:
    """Hidden states of the calibration sample on its way through the dense model.

    Args:
        model: The dense model.
        calibration: Token ids.
        kept: Those that are on disk.
        scratch: A folder for those that are made again, the last two boundaries of them.

    Attributes:
        scratch: That folder, for whoever makes more of them.
        calibration: The sample.
        input_ids: Its token ids, (sequences, length), int64.
        sequences: How many.
        length: Tokens in each.
        blocks: How the model passes them through its blocks.
        passed: How many blocks had to be passed to make again what was not on disk.
    """

    def __init__(
        self, model: StreamedModel, calibration: Artifact, kept: Artifact | None, scratch: Path
    ) -> None:
        self._model, self.scratch = model, scratch
        self.input_ids = read_tokens(calibration)
        self.calibration = calibration
        self.sequences, self.length = self.input_ids.shape
        self.blocks = BlockPass(model, self.sequences, self.length)
        self._paths: dict[int, Path] = {}
        self._made: list[int] = []
        self.passed = 0
        for boundary in range(model.num_blocks + 1):
            if kept is not None and (name := hidden_file(boundary)) in kept.files:
                self.found(boundary, kept.path(name))

    def create(self, path: Path) -> HiddenStates:
        """Return the hidden states of one boundary, (sequences, length, d), to be filled."""
        shape = (self.sequences, self.length, self._model.config.hidden_size)
        return create_hidden(path, shape, self._model.dtype)

    def found(self, boundary: int, path: Path) -> None:
        """Take note of hidden states that are on disk."""
        self._paths[boundary] = path

    def make(self, boundary: int, work: Callable[[Path], None]) -> None:
        """Have hidden states written into the scratch folder; the last two boundaries stay."""
        path = self.scratch / hidden_file(boundary)
        work(path)
        self.found(boundary, path)
        self._made.append(boundary)
        for old in self._made[:-2]:
            self._paths.pop(old).unlink()
        self._made = self._made[-2:]

    def at(self, boundary: int) -> HiddenStates:
        """Return the hidden states before block `boundary`, (sequences, length, d).

        They are made again if they are nowhere, from the nearest ones before them.
        """
        if boundary not in self._paths:
            self.make(boundary, lambda path: self._pass_to(boundary, path))
        return open_hidden(self._paths[boundary])

    def _pass_to(self, boundary: int, path: Path) -> None:
        made = self.create(path)
        start = max((at for at in self._paths if at < boundary), default=None)
        if start is None:
            self.blocks.embed_(self.input_ids, made)
        states = made if start is None else open_hidden(self._paths[start])
        for index in range(start or 0, boundary):
            self.blocks.through_(index, self._model.load_block(index), states, made)
            states = made
            self.passed += 1


class SparseStates:
    """Hidden states of the calibration sample on its way through a model that is being made.

    Args:
        dense: Those of the dense model; before the first block the two are the same.

    Attributes:
        hidden: Those before the next block, (sequences, length, d).
    """

    def __init__(self, dense: DenseStates) -> None:
        self.blocks = dense.blocks
        self.hidden = dense.at(0)
        self._outputs = dense.create(dense.scratch / "sparse.safetensors")

    def on(self, index: int, block: nn.Module) -> None:
        """Pass on to the next block what this one makes of its inputs."""
        self.blocks.through_(index, block, self.hidden, self._outputs)
        self.hidden = self._outputs
