"""The next-token loss of windows of text, and the limit that a dense model has to stay below."""

import math

import torch
from torch import Tensor, nn

from freelunch.core.errors import UserError
from freelunch.model.checkpoint import StreamedModel
from freelunch.model.tensor_file import HiddenStates
from freelunch.model.transfer import read_batches
from freelunch.study.steps import HEAD_PLACES


def scored_tokens(length: int, stride: int) -> int:
    """Return how many tokens of a window are scored; nothing predicts the first one."""
    return min(stride, length - 1)


@torch.no_grad()
def window_loss(
    model: StreamedModel, input_ids: Tensor, hidden: Tensor, scored: int | None = None
) -> Tensor:
    """Return the mean loss over a window's last `scored` tokens in nats, 0-d, float64; without it,
    of all but the first, which nothing predicts. The window is token ids, (length,), int64, and
    hidden states after the last block, (length, d), on the model's device. The logits of
    HEAD_PLACES tokens are in memory at a time.
    """
    first = len(input_ids) - (len(input_ids) - 1 if scored is None else scored)
    places = range(first - 1, len(input_ids) - 1)
    chunks = [places[at : at + HEAD_PLACES] for at in range(0, len(places), HEAD_PLACES)]
    losses = torch.stack([_mean_loss(model, input_ids, hidden, chunk) for chunk in chunks])
    counts = torch.tensor([len(chunk) for chunk in chunks], dtype=torch.float64)
    # A product of a float32 value and a count is exact in float64, so that the mean of a single
    # chunk stays as it is.
    return (losses.cpu().double() * counts).sum() / len(places)


def _mean_loss(model: StreamedModel, input_ids: Tensor, hidden: Tensor, places: range) -> Tensor:
    """Return the mean loss over the tokens that follow consecutive places, in nats, 0-d, float32.
    Logits take more memory than anything else here, so they are gone when this returns.
    """
    here = slice(places.start, places.stop)
    logits = model.logits(input_ids[None, here], hidden[None, here])[0]
    targets = input_ids[places.start + 1 : places.stop + 1].to(model.device)
    return nn.functional.cross_entropy(logits.float(), targets)


def window_losses(
    model: StreamedModel,
    input_ids: Tensor,
    hidden: HiddenStates | Tensor,
    scored: int | None = None,
) -> Tensor:
    """Return the result of `window_loss` for each window, (windows,), float64, from token ids and
    hidden states of all windows, which are read one window at a time.
    """
    windows = [slice(row, row + 1) for row in range(len(hidden))]
    pairs = zip(input_ids, read_batches(model.device, windows, hidden), strict=True)
    return torch.stack([window_loss(model, ids, states[0], scored) for ids, (states,) in pairs])


def check_dense(perplexity: float | None, limit: float, where: object) -> None:
    """Check that the dense model's perplexity is plausible; UserError if it is not finite, or above
    the limit.
    """
    if perplexity is None or not math.isfinite(perplexity) or perplexity > limit:
        raise UserError(
            "the dense model's perplexity is implausible, so comparisons with it would be "
            "meaningless",
            where=where,
            found="not finite" if perplexity is None else f"{perplexity:.4g}",
            expected=f"at most study.dense_limit = {limit}",
            todo="check the model, its tokenizer, its dtype and the text; raise the limit only for "
            "an untrained model",
        )
