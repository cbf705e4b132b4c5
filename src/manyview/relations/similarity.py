"""How far the features of two views lie apart: the loss of Tied-Augment (Kurtulus, Li, Dauphin, Cubuk, ICML 2023).

    loss = CE + w * S(h_a, h_b)

h are the pooled backbone features and S any of seven measures, all given here as a distance to minimise.
The authors' default is the mean squared error; its good weight depends on the features' scale (they searched
1 to 64). Where the official code differs from the measure's own paper:

- vicreg: the variance term carries the 1/2 of the VICReg authors' code (Bardes et al., ICLR 2022), which the
  Tied-Augment code drops, doubling its weight.
- cka: none. K is the RBF kernel (Kornblith et al., ICML 2019); sigma, the root of the median of the squared distances
  that are not zero, is a bandwidth and no path for gradients, in the official code as here. That code gives the
  similarity and leaves the sign to its weight; ours is 1 minus it.
- cosine_l2_norm: the official code maximises cosine - l2_norm; here both are distances, so they add up.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from manyview.errors import unknown
from manyview.foundation.distributed import gather
from manyview.relations.cross_entropy import targets_of
from manyview.relations.reading import Port, Reading, check_alike, check_classifies, same_shape
from manyview.relations.redundancy import vicreg
from manyview.relations.thresholds import check_threshold


def similarity(h1: Tensor, h2: Tensor, kind: str = "mse") -> Tensor:
    """How far the features of two views lie apart: a scalar to minimise, 0 when h1 equals h2 (but for vicreg).

    h1, h2: [B, D]. kind:
    mse, mae — mean over all B*D elements; cosine — 1 - mean over rows of the cosine;
    l2_norm — mse of the two matrices, each divided by its Frobenius norm; cosine_l2_norm — cosine + l2_norm;
    cka — 1 - CKA with RBF kernels, sigma the root of the median non-zero squared distance;
    vicreg — invariance + variance + covariance / 25.
    Raises ValueError for an unknown kind, unlike shapes, and fewer than two rows where the batch is compared
    with itself (cka, vicreg).
    """
    if kind not in KINDS:
        raise ValueError(unknown("kind of similarity", kind, KINDS, "kinds"))
    same_shape(h1, h2)
    if kind in ("cka", "vicreg") and len(h1) < 2:
        raise ValueError(f"similarity of kind '{kind}' needs at least two rows, got {len(h1)}")
    return KINDS[kind](h1, h2)


def _cosine(h1: Tensor, h2: Tensor) -> Tensor:
    return 1 - F.cosine_similarity(h1, h2, dim=1).mean()


def _l2_norm(h1: Tensor, h2: Tensor) -> Tensor:
    return F.mse_loss(_unit(h1), _unit(h2))


def _unit(matrix: Tensor) -> Tensor:
    """The matrix over its Frobenius norm; zero stays zero, with finite gradients."""
    return F.normalize(matrix.flatten(), dim=0).view_as(matrix)


def _cosine_l2_norm(h1: Tensor, h2: Tensor) -> Tensor:
    return _cosine(h1, h2) + _l2_norm(h1, h2)


def _cka(h1: Tensor, h2: Tensor) -> Tensor:
    k1, k2 = _centred_rbf(h1), _centred_rbf(h2)
    return 1 - (_unit(k1) * _unit(k2)).sum()


def _centred_rbf(h: Tensor) -> Tensor:
    """H K H, with K the RBF kernel [B, B] and H the centring matrix."""
    # not by matrix products, which give equal rows a distance other than zero
    squared = torch.cdist(h, h, compute_mode="donot_use_mm_for_euclid_dist").square()
    with torch.no_grad():
        distinct = squared[squared > 0]
        variance = distinct.median() if len(distinct) else squared.new_ones(())
    kernel = torch.exp(-squared / (2 * variance))
    return kernel - kernel.mean(dim=0) - kernel.mean(dim=1, keepdim=True) + kernel.mean()


KINDS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "mse": F.mse_loss,
    "mae": F.l1_loss,
    "cosine": _cosine,
    "l2_norm": _l2_norm,
    "cosine_l2_norm": _cosine_l2_norm,
    "cka": _cka,
    "vicreg": partial(vicreg, invariance=1.0, variance=1.0, covariance=1 / 25),
}

RIGHT = "right"  # in place of a threshold: rows whose largest logit is their label's

# Not a mean over rows, so that the mean over processes is not the value on the joined batch.
WHOLE_BATCH = ("l2_norm", "cosine_l2_norm", "cka", "vicreg")


ROWS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "mse": lambda h1, h2: F.mse_loss(h1, h2, reduction="none").mean(dim=1),
    "mae": lambda h1, h2: F.l1_loss(h1, h2, reduction="none").mean(dim=1),
    "cosine": lambda h1, h2: 1 - F.cosine_similarity(h1, h2, dim=1),
}  # the kinds that are a mean over rows: of each, [B]


class Similarity(nn.Module):
    """`similarity(h(a), h(b), kind="mse", weight=20)`; several layers are several lines, each with its weight.

    where: logits by which a row counts only if their largest probability is at least `threshold`, as Tied-FixMatch may
    be confined to, `similarity(h(weak), h(strong), kind="cosine", where=stop(logits(weak)), threshold=0.95)`; with
    `threshold="right"` only if it is that of the row's label (of a soft target, of its largest part). The mean stays
    one over all rows, as that of the pseudo-labels is, so that the term's weight follows how many count; kinds mse, mae
    and cosine.
    """

    symmetric = True
    labels_for: ClassVar = {"threshold": RIGHT}

    def __init__(
        self, a: Port, b: Port, *, kind: str = "mse", where: Port | None = None, threshold: float | str = 0.95
    ) -> None:
        super().__init__()
        if kind not in KINDS:
            raise ValueError(unknown("kind of similarity", kind, KINDS, "kinds"))
        check_alike(a, b)
        if threshold != RIGHT:
            check_threshold(threshold, f", or {RIGHT!r}")
        if where is not None:
            check_classifies(where)
            check_alike(a, replace(where, dim=a.dim))
            if kind not in ROWS:
                raise ValueError(f"where takes rows one by one, and {kind} is of them all; kinds: {', '.join(ROWS)}")
        elif threshold != 0.95:
            raise ValueError("threshold is of where=…, the logits that tell which rows count; give them, too")
        self.kind, self.threshold = kind, threshold

    @property
    def whole_batch(self) -> bool:
        """Whether its kind looks at the batch as one."""
        return self.kind in WHOLE_BATCH

    def forward(self, a: Reading, b: Reading, *, where: Reading | None = None) -> Tensor:
        h1, h2 = a.value, b.value
        if where is not None:
            return (ROWS[self.kind](h1, h2) * self._counts(where)).mean()
        if self.kind in WHOLE_BATCH:
            h1, h2 = gather(h1), gather(h2)
        return similarity(h1, h2, self.kind)

    def _counts(self, where: Reading) -> Tensor:
        logits = where.value.detach()
        if isinstance(self.threshold, str):
            (target,) = targets_of((where,))
            return logits.argmax(dim=1) == (target if target.ndim == 1 else target.argmax(dim=1))
        return logits.softmax(dim=1).max(dim=1).values >= self.threshold
