"""Losses that keep the dimensions of an embedding spread and different: VICReg and Barlow Twins. No negatives.

VICReg (Bardes, Ponce, LeCun, ICLR 2022, eq. 1-6), on embeddings as they are:

    invariance  mean over B*D of (z1 - z2)^2
    variance    1/2 sum over both views of the mean over D of max(0, 1 - sqrt(Var + 1e-4))
    covariance  sum over both views of 1/D sum_{i != j} Cov_ij^2,   Var and Cov over B - 1

with weights 25, 25, 1 (section 4.2). The paper's eq. 5 takes squared distances of rows, D times as large, and its
eq. 6 has no half in the variance; the authors' code has the mean over B*D and the half, and trained with these weights:
we follow the code.

Barlow Twins (Zbontar et al., ICML 2021, eq. 1-2), on the correlations C [D, D] of dimensions of view 1 with those of
view 2 over the batch:

    loss = sum_i (1 - C_ii)^2 + lambd sum_{i != j} C_ij^2

lambd = 0.0051 in the authors' code (5e-3 in the paper). That code's BatchNorm adds 1e-5 to the variance, so its C is
not quite the paper's; here the variance is only kept from falling under 1e-8. A dead dimension has correlation 0.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from manyview.foundation.distributed import gather
from manyview.relations.precision import in_float32
from manyview.relations.reading import Port, Reading, check_alike, same_shape
from manyview.views.ops.op import check_not_negative


@in_float32
def vicreg(z1: Tensor, z2: Tensor, invariance: float = 25.0, variance: float = 25.0, covariance: float = 1.0) -> Tensor:
    """VICReg's loss, a scalar: its three terms, each times the weight of its name.

    z1, z2: [B, D], not normalised: the variance term asks for a standard deviation of 1. On several processes give
    the gathered rows of all. Raises ValueError for unlike shapes and fewer than two rows.
    """
    _check(z1, z2, "vicreg")
    apart = F.mse_loss(z1, z2)
    spread = (_missing_spread(z1) + _missing_spread(z2)) / 2
    return invariance * apart + variance * spread + covariance * (_covariance(z1) + _covariance(z2))


def _missing_spread(z: Tensor) -> Tensor:
    """Mean over dimensions of max(0, 1 - std); the 1e-4 keeps the root's gradient finite at collapse."""
    return F.relu(1 - (z.var(dim=0) + 1e-4).sqrt()).mean()


def _covariance(z: Tensor) -> Tensor:
    """Sum of the squared off-diagonal covariances, over D."""
    centred = z - z.mean(dim=0)
    return _off_diagonal(centred.T @ centred / (len(z) - 1)) / z.shape[1]


def _off_diagonal(matrix: Tensor) -> Tensor:
    """Sum of squares off the diagonal."""
    # not as a difference of two sums, in which a large diagonal would drown the rest
    return (matrix - matrix.diagonal().diag()).square().sum()


@in_float32
def barlow_twins(z1: Tensor, z2: Tensor, lambd: float = 0.0051) -> Tensor:
    """Barlow Twins' loss, a scalar: a sum over dimensions, hence in the hundreds at first for thousands of them.

    z1, z2: [B, D]; every dimension is centred and scaled over the batch here. On several processes give the gathered
    rows of all. Raises ValueError for unlike shapes, fewer than two rows and lambd < 0.
    """
    _check(z1, z2, "barlow_twins")
    if not lambd >= 0:
        raise ValueError(f"lambd must not be negative, got {lambd}")
    correlation = _standardised(z1).T @ _standardised(z2) / len(z1)
    return (1 - correlation.diagonal()).square().sum() + lambd * _off_diagonal(correlation)


def _standardised(z: Tensor) -> Tensor:
    centred = z - z.mean(dim=0)
    return centred * centred.square().mean(dim=0).clamp_min(1e-8).rsqrt()


def _check(z1: Tensor, z2: Tensor, name: str) -> None:
    same_shape(z1, z2)
    if len(z1) < 2:
        raise ValueError(f"{name} compares dimensions over at least two rows, got {len(z1)}")


class VicReg(nn.Module):
    """`vicreg(z(a), z(b), invariance=25, variance=25, covariance=1)`, over the rows of all processes."""

    symmetric = True
    whole_batch = True

    def __init__(
        self, a: Port, b: Port, *, invariance: float = 25.0, variance: float = 25.0, covariance: float = 1.0
    ) -> None:
        super().__init__()
        self.weights = {"invariance": invariance, "variance": variance, "covariance": covariance}
        for name, weight in self.weights.items():
            check_not_negative(name, weight)
        check_alike(a, b)

    def forward(self, a: Reading, b: Reading) -> Tensor:
        return vicreg(gather(a.value), gather(b.value), **self.weights)


class BarlowTwins(nn.Module):
    """`barlow_twins(z(a), z(b), lambd=0.0051)`, over the rows of all processes."""

    symmetric = True
    whole_batch = True

    def __init__(self, a: Port, b: Port, *, lambd: float = 0.0051) -> None:
        super().__init__()
        check_not_negative("lambd", lambd)
        check_alike(a, b)
        self.lambd = lambd

    def forward(self, a: Reading, b: Reading) -> Tensor:
        return barlow_twins(gather(a.value), gather(b.value), self.lambd)
