"""Negative cosine: SimSiam (Chen, He, CVPR 2021, eq. 1-2) and BYOL (Grill et al., NeurIPS 2020, eq. 2).

    D(p, z) = - mean over rows of  <p, z> / (|p| |z|),    z a constant

SimSiam's loss is D(p_a, z_b)/2 + D(p_b, z_a)/2. The stopped gradient is what keeps it from collapse (its section 4.1):
part of the function; in a recipe it is written out. BYOL's squared distance of unit vectors is |p - z|^2 = 2 + 2 D:
the same gradient as D with weight 2 a direction.
"""

from __future__ import annotations

import warnings

import torch.nn.functional as F
from torch import Tensor, nn

from manyview.errors import ManyviewWarning
from manyview.relations.precision import in_float32
from manyview.relations.reading import Port, Reading, check_alike, same_shape


def negative_cosine(p: Tensor, z: Tensor) -> Tensor:
    """Minus the mean over rows of the cosine of p and z, a scalar in [-1, 1]; no gradient to z.

    p, z: [B, D], of any length: rows are normalised here. A mean over rows: processes need no gather.
    Raises ValueError for unlike shapes.
    """
    return _negative_cosine(p, z.detach())


@in_float32
def _negative_cosine(p: Tensor, z: Tensor) -> Tensor:
    same_shape(p, z)
    return -F.cosine_similarity(p, z, dim=1).mean()


class Cosine(nn.Module):
    """`cosine(p(a), toward=stop(z(b)), weight=0.5, swapped=True)`: minus the mean cosine, in [-1, 1].

    The gradient reaches all that is not stopped, so that a recipe shows where it ends. Where `toward` is neither
    stopped nor an EMA's, both sides move, and what two views agree on soonest is a constant: a ManyviewWarning says so.
    """

    def __init__(self, p: Port, *, toward: Port) -> None:
        super().__init__()
        check_alike(p, toward)
        if not toward.constant:
            warnings.warn(
                f"cosine({p}, toward={toward}): the gradient also moves {toward}, which leads to collapse; "
                f"write toward=stop({toward}), or read an EMA branch",
                ManyviewWarning,
                stacklevel=2,
            )

    def forward(self, p: Reading, *, toward: Reading) -> Tensor:
        return _negative_cosine(p.value, toward.value)
