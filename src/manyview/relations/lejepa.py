"""LeJEPA: views agree, and their embeddings are an isotropic Gaussian (Balestriero, LeCun, arXiv 2511.08544).

    loss = (1 - w) spread + w sketch

spread: the mean squared deviation of a view's embedding from the mean over its image's views (section 5.1). sketch
(SIGReg, section 4): embeddings projected on random unit directions a are compared with a standard normal by the
Epps-Pulley statistic, the distance of characteristic functions

    N integral over t of |mean_i exp(i t <a, z_i>) - exp(-t^2 / 2)|^2 exp(-t^2 / 2) dt

by the trapezoidal rule on [0, reach], doubled, since the integrand is even. A Gaussian in every direction is an
isotropic Gaussian (Cramer, Wold), so nothing collapses: no teacher, no stop-gradient, no queue. The statistic grows
with N, so a weight belongs to a batch size.
"""

from __future__ import annotations

import torch
from torch import Tensor

from manyview.relations.precision import in_float32


@in_float32
def sigreg(z: Tensor, directions: Tensor, knots: int = 17, reach: float = 3.0) -> Tensor:
    """How far embeddings are from a standard normal, a scalar: the mean over directions of Epps-Pulley's statistic.

    z: [B, D], as they are. directions: unit columns [D, M]; no gradient. knots: points of the integral on [0, reach].
    Holds [B, M, knots]. On several processes give the gathered rows of all.
    Raises ValueError for shapes that disagree, fewer than two knots and reach <= 0.
    """
    if z.ndim != 2 or directions.ndim != 2 or len(directions) != z.shape[1] or not z.numel() or not directions.numel():
        raise ValueError(
            f"expected rows [B, D] and directions [D, M], got {tuple(z.shape)} and {tuple(directions.shape)}"
        )
    if knots < 2:
        raise ValueError(f"knots must be at least 2, got {knots}")
    if not reach > 0:
        raise ValueError(f"reach must be positive, got {reach}")
    t = torch.linspace(0, reach, knots, dtype=z.dtype, device=z.device)
    normal = (-t.square() / 2).exp()
    weights = torch.full_like(t, 2 * reach / (knots - 1))
    weights[0] = weights[-1] = reach / (knots - 1)
    angles = (z @ directions.detach())[..., None] * t
    apart = (angles.cos().mean(dim=0) - normal).square() + angles.sin().mean(dim=0).square()
    return len(z) * (apart @ (weights * normal)).mean()


@in_float32
def spread(z: Tensor) -> Tensor:
    """Mean squared deviation of embeddings from the mean over their image's views, a scalar.

    z: [V, B, D], V views of B images. A mean over images: processes need no gather.
    Raises ValueError for another number of dimensions.
    """
    if z.ndim != 3:
        raise ValueError(f"expected embeddings [V, B, D], got {tuple(z.shape)}")
    return (z - z.mean(dim=0)).square().mean()
