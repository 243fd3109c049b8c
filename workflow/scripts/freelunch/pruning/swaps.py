"""Refine a mask: swap a kept and a pruned weight as long as this lowers the calibration error.

SparseSwaps (arXiv 2512.10922): rows are independent, and the Gram matrix of the inputs gives the
change of a row's squared error for any swap, so that the best of all swaps can be made repeatedly.
We deviate from the paper: where its formula has the dense value of a kept weight, ours has the
value that SparseGPT may have updated, and a restored weight gets its dense value; the best swap
within a row is found through lower bounds (`_RowSearch`), in a fifth of the time of trying every
pair; and a swap is made only if its gain exceeds the rounding of the Gram matrix.

All arithmetic is float64. Products and sums are separate operations, so that no fused operation
makes the result of a row depend on its place in memory. Except for the first product of residual
and Gram matrix, nothing depends on how the rows are split.
"""

from collections.abc import Callable
from dataclasses import dataclass, fields

import torch
from torch import Tensor

# Elements of the largest temporary: few enough for the caches of a CPU core, enough to keep a GPU
# busy.
_CPU_ELEMENTS, _GPU_ELEMENTS = 2**20, 2**25
# Rows of the Gram matrix that are processed at once.
_STRIP = 256
# Kept weights of a row that are tried at once.
_TRIED = 8
# Where the lower envelope of `_RowSearch` is evaluated, as shares of its largest argument. Most
# arguments are small, because rows have outliers.
_KNOTS = (0.0, *(2.0**-power for power in reversed(range(8))))
# Share of its terms by which a bound is lowered to cover float64 rounding: 4,096 times epsilon.
_BOUND_ROUNDING = 2.0**-40
# Share of its terms below which a gain counts as none: the Gram matrix is no more accurate.
_GAIN_ROUNDING = torch.finfo(torch.float32).eps


@dataclass(frozen=True)
class Refined:
    """A refined mask, (R, C), bool, True where the weight is kept; the refined pruned weight, (R,
    C), float32; the swaps made, over all rows; and the squared error of the outputs, summed over
    calibration tokens and rows, before and after, which is never above that before.
    """

    keep: Tensor
    weight: Tensor
    swaps: int
    error_before: float
    error_after: float


@torch.no_grad()
def refine(
    dense: Tensor, pruned: Tensor, keep: Tensor, gram: Tensor, group: int | None, swaps: int
) -> Refined:
    """Make the best swap in every row repeatedly; return the refined mask and weight. Each row, and
    each group, keeps as many weights as before.

    With the residual r = dense - pruned of a row, its error is r^T G r. Pruning the kept weight i,
    whose value is p_i, and restoring the pruned weight j to its dense value w_j changes the error
    by p_i^2 G_ii + 2 p_i (Gr)_i + w_j^2 G_jj - 2 w_j (Gr)_j - 2 p_i w_j G_ij. The swap with the
    lowest sum is made if the sum is negative beyond rounding; ties: the lowest i, then the lowest
    j.

    Args:
        dense, pruned: The weight before and after pruning, (R, C); 0 where not kept.
        keep: The mask before refinement, (R, C), bool, True where the weight is kept.
        gram: X^T X, summed over calibration tokens, (C, C), symmetric.
        group: None if any kept and pruned weight of a row may be swapped; m if both must lie in the
            same group of m consecutive columns, so that an N:M pattern is preserved.
        swaps: Largest number of swaps per row.
    """
    gram = gram.double()
    rows = _Rows.of(dense.double(), pruned.double(), keep, gram)
    before = after = _error(rows, rows.product)
    search: _Search = _RowSearch(gram) if group is None else _GroupSearch(gram, group)
    elements = _CPU_ELEMENTS if gram.device.type == "cpu" else _GPU_ELEMENTS
    height = max(1, elements // (len(gram) * (group or _TRIED)))
    made = 0
    for start in range(0, len(dense), height):
        made += _swap_(rows.part(slice(start, start + height)), gram, search, swaps)
    if made:
        # Recompute the product, which was updated swap by swap.
        after = _error(rows, (rows.dense - rows.weight) @ gram)
    return Refined(rows.cut_bar == 0.0, rows.weight.float(), made, before, after)


def _error(rows: "_Rows", product: Tensor) -> float:
    return float(((rows.dense - rows.weight) * product).sum())


@dataclass(frozen=True)
class _Rows:
    """Some rows of a weight, updated with each swap; all tensors are (R, C), float64. Masks are
    stored as bars to be added: on a CPU, adding takes a tenth of the time of a masked fill.
    """

    dense: Tensor
    weight: Tensor  # pruned
    lost: Tensor  # the dense weight where pruned, else 0
    product: Tensor  # Gr
    cut_bar: Tensor  # 0 where kept, else infinite
    gain_bar: Tensor  # 0 where pruned, else infinite

    @classmethod
    def of(cls, dense: Tensor, pruned: Tensor, keep: Tensor, gram: Tensor) -> "_Rows":
        zeros = torch.zeros_like(dense)
        return cls(
            dense,
            pruned.clone(),
            dense.masked_fill(keep, 0.0),
            (dense - pruned) @ gram,
            zeros.masked_fill(~keep, torch.inf),
            zeros.masked_fill(keep, torch.inf),
        )

    def part(self, rows: slice) -> "_Rows":
        return _Rows(*(getattr(self, field.name)[rows] for field in fields(self)))


class _Terms:
    """The terms of a swap's effect, cut_i + gain_j - 2 p_i w_j G_ij, with i kept and j pruned, for
    some rows, (R, C): p (0 where pruned), w (0 where kept), cut = p_i^2 G_ii + 2 p_i (Gr)_i
    (infinite where pruned) and gain = w_j^2 G_jj - 2 w_j (Gr)_j (infinite where kept).
    """

    def __init__(self, rows: _Rows, chosen: Tensor, diagonal: Tensor) -> None:
        self.weight, self.lost = rows.weight[chosen], rows.lost[chosen]
        twice = 2 * rows.product[chosen]
        self.cut = self.weight * (self.weight * diagonal + twice) + rows.cut_bar[chosen]
        self.gain = self.lost * (self.lost * diagonal - twice) + rows.gain_bar[chosen]


# The best swap of each row: i, j and its effect on the error, each (R,). If an effect is not
# negative, no swap helps, and i and j mean nothing.
_Best = tuple[Tensor, Tensor, Tensor]
_Search = Callable[[_Terms], _Best]


def _swap_(rows: _Rows, gram: Tensor, search: _Search, swaps: int) -> int:
    """Swap in place, in each row until no swap helps, and return how many swaps were made."""
    diagonal = gram.diagonal()
    # A row that keeps all or none of its weights has no swap, and no bounds.
    going = (rows.cut_bar.amin(1) + rows.gain_bar.amin(1) == 0.0).nonzero()[:, 0]
    made = 0
    for _ in range(swaps):
        if len(going) == 0:
            break
        terms = _Terms(rows, going, diagonal)
        kept, pruned, effect = search(terms)
        helps = effect < -_rounding(terms, diagonal, kept, pruned)
        going, kept, pruned = going[helps], kept[helps], pruned[helps]
        made += len(going)
        cut, restored = rows.weight[going, kept], rows.dense[going, pruned]
        rows.product[going] += cut[:, None] * gram[kept] - restored[:, None] * gram[pruned]
        rows.weight[going, kept], rows.weight[going, pruned] = 0.0, restored
        rows.lost[going, kept], rows.lost[going, pruned] = rows.dense[going, kept], 0.0
        rows.cut_bar[going, kept], rows.cut_bar[going, pruned] = torch.inf, 0.0
        rows.gain_bar[going, kept], rows.gain_bar[going, pruned] = 0.0, torch.inf
    return made


def _rounding(terms: _Terms, diagonal: Tensor, kept: Tensor, pruned: Tensor) -> Tensor:
    """Return how much of the gain of each row's best swap may be rounding alone, (R,): float32's
    epsilon times the magnitude of the effect's terms (the two squares bound the mixed term). It
    is far above the rounding of float64, so that no swap increases the error.
    """
    row = torch.arange(len(kept), device=diagonal.device)
    squares = terms.weight[row, kept] ** 2 * diagonal[kept]
    squares += terms.lost[row, pruned] ** 2 * diagonal[pruned]
    return _GAIN_ROUNDING * (squares + terms.cut[row, kept].abs() + terms.gain[row, pruned].abs())


class _GroupSearch:
    """Find the best swap within groups of m columns by trying every pair."""

    def __init__(self, gram: Tensor, group: int) -> None:
        self.group, groups = group, len(gram) // group
        blocks = gram.reshape(groups, group, groups, group).diagonal(dim1=0, dim2=2)
        self.blocks = blocks.permute(2, 0, 1).contiguous()  # (groups, m, m)

    def __call__(self, terms: _Terms) -> _Best:
        grouped = (len(terms.weight), -1, self.group)  # (R, groups, m)
        effect = terms.lost.reshape(grouped)[:, :, None] * self.blocks  # (R, groups, m, m)
        effect *= -2 * terms.weight.reshape(grouped)[..., None]
        effect += terms.gain.reshape(grouped)[:, :, None]
        effect += terms.cut.reshape(grouped)[..., None]
        best = effect.flatten(1).min(1)
        # The index runs over groups, then kept, then pruned weights: the first minimum has the
        # lowest i.
        kept = best.indices // self.group
        pruned = kept // self.group * self.group + best.indices % self.group
        return kept, pruned, best.values


class _RowSearch:
    """Find the best swap within whole rows, trying few of the kept weights.

    For scales s_j > 0, here sqrt(G_jj), and reach_i the largest abs(G_ij) / s_j over all j but i,
    effect_ij >= cut_i + gain_j - 2 u_i v_j with u_i = abs(p_i) reach_i, v_j = abs(w_j) s_j. The
    minimum of gain_j - 2 u v_j over j is a concave function of u alone, so it lies above its
    chords. Known at a few u, it bounds all swaps of each i from below. Kept weights are tried with
    every j, in the order of their bounds, until the bounds of all others exceed the lowest effect
    found. (Cauchy-Schwarz would allow sqrt(G_ii) for reach_i, but ten times as many weights would
    have to be tried.)
    """

    def __init__(self, gram: Tensor) -> None:
        self.gram = gram
        scale = gram.diagonal().clamp_min(0.0).sqrt()
        self.scale = torch.where(scale > 0, scale, 1.0)
        self.reach = torch.empty_like(scale)
        for start in range(0, len(gram), _STRIP):
            strip = (gram[start : start + _STRIP] / self.scale).abs_()
            strip.diagonal(start).zero_()
            self.reach[start : start + _STRIP] = strip.amax(1)

    def __call__(self, terms: _Terms) -> _Best:
        bounds = self._bounds(terms)
        rows, columns = bounds.shape
        row = torch.arange(rows, device=bounds.device)
        effect, kept = bounds.new_zeros(rows), torch.zeros_like(row)
        going, count = row, min(_TRIED, columns)
        while len(going):
            lowest = bounds[going].topk(count, largest=False)
            # Rows whose lowest bound equals the best effect stay in: an equal swap may have a lower
            # i.
            undecided = lowest.values[:, 0] <= effect[going]
            going, tried = going[undecided], lowest.indices[undecided].sort(1).values
            effects = self._try(terms, going, tried).amin(2) + terms.cut[going[:, None], tried]
            best = effects.min(1)
            index = tried.gather(1, best.indices[:, None])[:, 0]
            equal = best.values == effect[going]
            better = (best.values < effect[going]) | (equal & (index < kept[going]))
            effect[going] = torch.where(better, best.values, effect[going])
            kept[going] = torch.where(better, index, kept[going])
            bounds[going[:, None], tried] = torch.inf
        pruned = self._try(terms, row, kept[:, None]).argmin(2)[:, 0]
        return kept, pruned, effect

    def _try(self, terms: _Terms, rows: Tensor, tried: Tensor) -> Tensor:
        """Return gain_j - 2 p_i w_j G_ij for the kept weights `tried` of some rows, (rows, tried,
        C).
        """
        columns = self.gram.index_select(0, tried.flatten())  # like indexing, in half the time
        effect = columns.view(*tried.shape, len(self.gram))
        effect *= terms.lost[rows][:, None]
        effect *= -2 * terms.weight[rows[:, None], tried][..., None]
        effect += terms.gain[rows][:, None]
        return effect

    def _bounds(self, terms: _Terms) -> Tensor:
        u, v = terms.weight.abs() * self.reach, terms.lost.abs() * self.scale
        largest = u.amax(1, keepdim=True)
        u /= torch.where(largest > 0, largest, 1.0)  # in [0, 1], like the knots
        v *= 2 * largest
        least = [(terms.gain - knot * v).amin(1, keepdim=True) for knot in _KNOTS]  # (R, 1) each
        bounds = torch.full_like(u, torch.inf)
        for knot in range(1, len(_KNOTS)):
            run, rise = _KNOTS[knot] - _KNOTS[knot - 1], least[knot] - least[knot - 1]
            # Extended beyond its ends, a chord of a concave function lies above the other chords:
            # the lowest counts.
            chord = rise / run * (u - _KNOTS[knot]) + least[knot]
            bounds = torch.minimum(bounds, chord)
        bounds -= _BOUND_ROUNDING * (least[-1].abs() + v.amax(1, keepdim=True))
        return bounds + terms.cut
