"""Losses of retraining: next-token prediction and distillation."""

from torch import Tensor, nn


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
