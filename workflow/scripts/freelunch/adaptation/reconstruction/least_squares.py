"""Masked least squares: the best weights of a matrix under its mask, solved instead of trained.

Row i of a matrix keeps the weights at S. With G the Gram matrix of the inputs and C the cross-Gram
matrix of targets and inputs, the kept weights solve G_SS w = C_iS (the objective of ALPS, arXiv
2406.07831, with a fixed mask). Damping by a share of G's mean diagonal pulls w to the pruned
weights, so that a direction that no token excites stays as it was.
"""

import torch
from torch import Tensor, nn

from freelunch.adaptation.job import WindowResult
from freelunch.adaptation.reconstruction.train_window import WindowModules, mean_squared_error
from freelunch.core.errors import UserError
from freelunch.model.tensor_file import HiddenStates
from freelunch.model.transfer import read_batches
from freelunch.study.adaptations import LeastSquares


@torch.no_grad()
def solve_window_(
    window: WindowModules, inputs: HiddenStates, targets: HiddenStates, settings: LeastSquares
) -> WindowResult:
    """Set the kept weights of a window of one linear layer, float32, to the least-squares solution
    for its inputs, (sequences, length, in), and targets, (sequences, length, out). The losses of
    the result are on all sequences, on which the solution is optimal.
    """
    ((_, linear, keep),) = window.masked()
    judged = mean_squared_error, torch.float32, len(inputs)
    before = window.loss(inputs, targets, *judged)
    train_bias = isinstance(linear.bias, Tensor) and settings.train_biases
    gram, cross = _sums(linear, inputs, targets, train_bias)
    start = linear.weight.double()
    if train_bias:
        # A bias is the weight of an input that is always 1.
        start = torch.cat([start, linear.bias.double()[:, None]], dim=1)
        keep = torch.cat([keep, keep.new_ones(len(keep), 1)], dim=1)
    solved = solve_rows(gram, cross, keep, start, settings.damping)
    if train_bias:
        linear.bias.copy_(solved[:, -1])
        solved = solved[:, :-1]
    linear.weight.copy_(solved)
    window.round_()
    return window.result_(before, window.loss(inputs, targets, *judged), 0, int(keep.sum()))


def solve_rows(gram: Tensor, cross: Tensor, keep: Tensor, start: Tensor, damping: float) -> Tensor:
    """Return the weights of each row, (out, in), float64, that solve the kept part of G w = c;
    pruned weights are 0. Rows are solved one by one: batches of systems are not factorised
    faster, and would need padding. UserError: the damping is too small for a unique solution.

    Args:
        gram: Sum over tokens of x x^T, (in, in), float64.
        cross: Sum over tokens of y x^T, (out, in), float64.
        keep: Mask, (out, in), bool, True where the weight is kept.
        start: Weights to which the damping pulls the solution, (out, in), float64; 0 where pruned.
        damping: Strength of this pull, as a share of the Gram matrix's mean diagonal.
    """
    # With an all-zero Gram matrix, any damping keeps the pruned weights.
    pull = damping * float(gram.diagonal().mean()) if gram.any() else 1.0
    right = cross + pull * start
    solved = torch.zeros_like(start)
    for row, kept in enumerate(keep):
        at = kept.nonzero()[:, 0]
        system = gram[at][:, at]
        system.diagonal().add_(pull)
        factor, failed = torch.linalg.cholesky_ex(system)
        if failed:
            raise UserError(
                "a Gram matrix cannot be factorised",
                where="least_squares",
                found=f"damping {damping:g}",
                expected="more damping, because the tokens do not excite all inputs",
                todo="raise `damping`, or use more calibration sequences",
            )
        solved[row, at] = torch.cholesky_solve(right[row, at, None], factor)[:, 0]
    return solved


def _sums(
    linear: nn.Linear, inputs: HiddenStates, targets: HiddenStates, train_bias: bool
) -> tuple[Tensor, Tensor]:
    """Return the Gram matrix of the inputs and the cross-Gram of targets and inputs, float64.

    A bias that is not trained is subtracted from the targets; a trained bias has an input of 1.
    """
    device, columns = linear.weight.device, linear.in_features + train_bias
    gram = torch.zeros(columns, columns, dtype=torch.float64, device=device)
    cross = torch.zeros(linear.out_features, columns, dtype=torch.float64, device=device)
    rows = [slice(row, row + 1) for row in range(len(inputs))]
    for entering, wanted in read_batches(device, rows, inputs, targets):
        x, y = entering[0].double(), wanted[0].double()
        if train_bias:
            x = nn.functional.pad(x, (0, 1), value=1.0)
        elif isinstance(linear.bias, Tensor):
            y = y - linear.bias.double()
        gram.addmm_(x.T, x)
        cross.addmm_(y.T, x)
    return gram, cross
