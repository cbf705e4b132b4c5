"""How a run without labels fares: whether embeddings are spread, in how many directions, and whether views agree.

All of it looks at unit rows u = z / |z| of a batch, [B, d]:

    z_std           mean over dimensions of the standard deviation over the batch: 1/sqrt(d) where rows lie evenly on
                    the sphere, 0 where all are one (SimSiam, Chen & He, CVPR 2021, section 4.1); z_std_sqrt_d is
                    that times sqrt(d), so between 0 and 1 whatever the width
    effective_rank  exp of the entropy of the singular values over their sum (Roy & Vetterli, EUSIPCO 2007), between 1
                    and min(B, d). Rows are not centred: at collapse all have one direction, which reads 1, where
                    centring would leave the rank of the noise about it
    alignment       mean of |u1 - u2|^2 over the two views of an image: 0 where they are one
    uniformity      log of the mean of exp(-2 |u_i - u_j|^2) over pairs of images i < j of the first view: 0 at
                    collapse, about -4 where rows lie evenly on a sphere of many dimensions
                    (both: Wang & Isola, ICML 2020, with their alpha = 2 and t = 2)

Low dimensional rows that lie evenly and high dimensional ones that do not may have the same spread: hence the rank.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

ROWS = 256  # of a batch that pairs and ranks look at, the first ones: they cost some 10 ms
COLLAPSED = 0.1  # of z_std * sqrt(d)
PATIENCE = 5  # logged steps in a row


@torch.no_grad()
def health(z: Sequence[Tensor]) -> dict[str, float]:
    """z_std, z_std_sqrt_d, effective_rank, uniformity, and alignment where there are two views of the same images.

    z: one or two embeddings [B, d], of any precision; computed in float32, and the rank and pairs, which subtract
    nearly equal numbers, in float64 on the first 256 rows. A row of zeros stays one. What cannot be told is nan:
    all for values that are not finite, spread and uniformity for a batch of one.
    """
    with torch.autocast(z[0].device.type, enabled=False):
        units = [F.normalize(rows.float(), dim=1) for rows in z[:2]]
        first = units[0]
        spread = float(first.std(dim=0, correction=0).mean()) if len(first) > 1 else math.nan
        measures = {
            "z_std": spread,
            "z_std_sqrt_d": spread * math.sqrt(first.shape[1]),
            "effective_rank": effective_rank(first[:ROWS]),
            "uniformity": uniformity(first[:ROWS]),
        }
        if len(units) > 1:
            measures["alignment"] = float((first - units[1]).square().sum(dim=1).mean())
    return measures


def effective_rank(rows: Tensor) -> float:
    """exp of the entropy of the singular values of [B, d] over their sum; 0 for zeros, nan for what is not finite."""
    if not rows.isfinite().all():
        return math.nan  # on which the decomposition would fail
    rows = rows.double()
    gram = rows @ rows.T if len(rows) <= rows.shape[1] else rows.T @ rows  # the smaller of two with the same values
    values = torch.linalg.eigvalsh(gram).clamp_min(0).sqrt()
    if not values.any():
        return 0.0
    return float(torch.special.entr(values / values.sum()).sum().exp())


def uniformity(rows: Tensor) -> float:
    """log of the mean of exp(-2 |x - y|^2) over distinct pairs of [B, d]; nan for fewer than two rows."""
    rows, count = rows.double(), len(rows)
    if count < 2:
        return math.nan
    lengths = rows.square().sum(dim=1)
    apart = lengths[:, None] + lengths - 2 * rows @ rows.T
    pairs = apart[torch.ones_like(apart, dtype=torch.bool).triu(diagonal=1)]
    return float(torch.logsumexp(-2 * pairs, dim=0)) - math.log(count * (count - 1) / 2)


def steps_low(before: int, measures: Mapping[str, float]) -> int:
    """For how many logged steps in a row the spread has been that of a collapse, this one included."""
    return before + 1 if measures["z_std_sqrt_d"] < COLLAPSED else 0


def collapse_message(measures: Mapping[str, float], step: int) -> str:
    """One line: what was measured, at which step, and what helps."""
    return (
        f"the embeddings have collapsed: z_std*sqrt(d) is {measures['z_std_sqrt_d']:.3f} at step {step}, and was under "
        f"{COLLAPSED} at {PATIENCE} logged steps in a row (1 where embeddings are spread evenly, 0 where all images "
        f"have the same); effective rank {measures['effective_rank']:.1f}. What helps: no gradient through the target, "
        f"by stop(...) or an ema branch; a lower lr; a constant lr for the predictor; BatchNorm in the projector; "
        f"lighter views, or heavy views that only move towards light ones"
    )
