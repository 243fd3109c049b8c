"""Losses of windows of text, while the blocks of a model pass by."""

from pathlib import Path

from torch import Tensor, nn

from freelunch.model.checkpoint import StreamedModel
from freelunch.model.hidden_states import BlockPass
from freelunch.model.tensor_file import create_hidden, hidden_file
from freelunch.model.token_loss import scored_tokens, window_losses


class WindowLosses:
    """Pass windows, (windows, length), int64, through a model; their hidden states are on disk, in
    `scratch`. From the start of one window to the start of the next there are `stride` tokens, and
    only the last `stride` tokens of a window are scored; None for windows that do not overlap.
    """

    def __init__(
        self, model: StreamedModel, input_ids: Tensor, scratch: Path, stride: int | None = None
    ) -> None:
        self._model, self._input_ids = model, input_ids
        windows, length = input_ids.shape
        self._stride = stride or length
        self._blocks = BlockPass(model, windows, length)
        shape = (windows, length, model.config.hidden_size)
        self._hidden = create_hidden(scratch / hidden_file(0), shape, model.dtype)
        self._blocks.embed_(input_ids, self._hidden)

    def through_(self, index: int, block: nn.Module) -> None:
        """Pass all windows through a block."""
        self._blocks.through_(index, block, self._hidden, self._hidden)

    def losses(self) -> Tensor:
        """Return the mean loss of each window, nats per token, (windows,), float64."""
        scored = scored_tokens(self._input_ids.shape[1], self._stride)
        return window_losses(self._model, self._input_ids, self._hidden, scored)
