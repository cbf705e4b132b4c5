"""LeJEPA: views agree, and their embeddings are an isotropic Gaussian (Balestriero, LeCun, arXiv 2511.08544).

    loss = (1 - w) spread + w sketch

spread: the mean squared deviation of a view's embedding from the mean over its image's views (section 5.1). sketch
(SIGReg, section 4): embeddings projected on random unit directions a are compared with a standard normal by the
Epps-Pulley statistic, the distance of characteristic functions

    N integral over t of |mean_i exp(i t <a, z_i>) - exp(-t^2 / 2)|^2 exp(-t^2 / 2) dt

by the trapezoidal rule on [0, reach], doubled, since the integrand is even. A Gaussian in every direction is an
isotropic Gaussian (Cramer, Wold), so nothing collapses: no teacher, no stop-gradient, no queue. The statistic grows
with N, so a weight belongs to a batch size.

Small crops (multi-crop) are compared with the mean over the global views alone, and sketched like these.
"""

from __future__ import annotations

import math
from dataclasses import replace

import torch
from torch import Tensor, nn

from manyview.foundation.distributed import gather
from manyview.relations.precision import in_float32
from manyview.relations.reading import Port, Reading, check_alike, members_of
from manyview.views.ops.op import ROWS, check_whole


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
def spread(z: Tensor, others: Tensor | None = None) -> Tensor:
    """Mean squared deviation of embeddings from the mean over their image's views, a scalar.

    z: [V, B, D], V views of B images. others: further views [W, B, D], which deviate from that mean and are not in it.
    A mean over images: processes need no gather. Raises ValueError for other numbers of dimensions.
    """
    if z.ndim != 3 or (others is not None and (others.ndim != 3 or others.shape[1:] != z.shape[1:])):
        got = " and ".join(str(tuple(each.shape)) for each in (z, others) if each is not None)
        raise ValueError(f"expected embeddings [V, B, D], got {got}")
    every = z if others is None else torch.cat([z, others])
    return (every - z.mean(dim=0)).square().mean()


def directions_at(seed: Tensor, update: Tensor, dim: int, count: int) -> Tensor:
    """Random unit columns [dim, count], evenly on the sphere: a function of seed and update alone, and of nothing kept.

    seed, update: integers, scalars, on the device where the directions are made; nothing is asked of it. Normal numbers
    by Box and Muller of a counter's hash.
    """
    counter = torch.arange(2 * dim * count, device=seed.device)
    bits = _hashed(_hashed(counter ^ _hashed(seed)) ^ _hashed(update + 1))
    uniform = ((bits >> 8).float() + 0.5) / 2**24  # in (0, 1), so that its logarithm is finite
    radius, angle = (-2 * uniform[: dim * count].log()).sqrt(), 2 * math.pi * uniform[dim * count :]
    columns = (radius * angle.cos()).view(dim, count)
    return columns / columns.norm(dim=0)


def _hashed(x: Tensor) -> Tensor:
    """32 bits, held in 64, mixed by shifts and products: Wellons, "Prospecting for Hash Functions", 2018, lowbias32."""
    low = 0xFFFFFFFF
    x = x & low
    x = ((x ^ (x >> 16)) * 0x7FEB352D) & low
    x = ((x ^ (x >> 15)) * 0x846CA68B) & low
    return x ^ (x >> 16)


class LeJepa(nn.Module):
    """`lejepa(z(a), z(b), others=z(local), sketch=0.05, directions=256, knots=17, reach=3.0)`: two or more views.

    Gives its parts `spread` and `sketch`, weighted by 1 - sketch and sketch. others: small crops, a view or a family.
    directions: so many are drawn anew for each update, the same on all processes and for all parts of a batch. The
    sketch looks at the rows of all processes, and grows with their number in a part of a batch. The authors take
    sketch=0.02 to 0.05, 256 to 1,024 directions.
    """

    symmetric = True
    whole_batch = True

    def __init__(
        self,
        *views: Port,
        others: Port | None = None,
        sketch: float = 0.05,
        directions: int = 256,
        knots: int = 17,
        reach: float = 3.0,
    ) -> None:
        super().__init__()
        if sum(view.members for view in views) + (others.members if others is not None else 0) < 2 or not views:
            raise ValueError("lejepa reads at least two views, as in lejepa(z(a), z(b))")
        if type(sketch) not in (int, float) or not 0 <= sketch <= 1:
            raise ValueError(f"sketch is the share of the sketch in the loss, in [0, 1], got {sketch!r}")
        check_whole("directions", directions, most=ROWS)
        check_whole("knots", knots, least=2, most=ROWS)
        if type(reach) not in (int, float) or not 0 < reach < math.inf:
            raise ValueError(f"reach must be a positive number, got {reach!r}")
        for port in (*views[1:], *([] if others is None else [others])):
            check_alike(replace(views[0], members=port.members), port)
        self.sketch, self.directions, self.knots, self.reach = sketch, directions, knots, reach
        self.register_buffer("seed", torch.randint(2**31, ()))
        self.register_buffer("updates", torch.zeros((), dtype=torch.long))
        self.seed: Tensor
        self.updates: Tensor

    def forward(self, *views: Reading, others: Reading | None = None) -> dict[str, Tensor]:
        z = [rows for view in views for rows in members_of(view)]
        small = [] if others is None else members_of(others)
        directions = directions_at(self.seed, self.updates, z[0].shape[1], self.directions)
        sketches = [sigreg(gather(rows), directions, self.knots, self.reach) for rows in (*z, *small)]
        return {
            "spread": (1 - self.sketch) * spread(torch.stack(z), torch.stack(small) if small else None),
            "sketch": self.sketch * torch.stack(sketches).mean(),
        }

    @torch.no_grad()
    def after_step(self) -> None:
        """The next update has directions of its own."""
        self.updates += 1
