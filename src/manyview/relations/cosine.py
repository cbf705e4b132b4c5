"""Negative cosine: SimSiam (Chen, He, CVPR 2021, eq. 1-2) and BYOL (Grill et al., NeurIPS 2020, eq. 2).

    D(p, z) = - mean over rows of  <p, z> / (|p| |z|),    z a constant

SimSiam's loss is D(p_a, z_b)/2 + D(p_b, z_a)/2. The stopped gradient is what keeps it from collapse (its section 4.1),
so it is part of the function and no option. BYOL's squared distance of unit vectors is |p - z|^2 = 2 + 2 D: the same
gradient as D with weight 2 a direction.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from manyview.relations.precision import in_float32
from manyview.relations.reading import same_shape


@in_float32
def negative_cosine(p: Tensor, z: Tensor) -> Tensor:
    """Minus the mean over rows of the cosine of p and z, a scalar in [-1, 1]; no gradient to z.

    p, z: [B, D], of any length: rows are normalised here. A mean over rows: processes need no gather.
    Raises ValueError for unlike shapes.
    """
    same_shape(p, z)
    return -F.cosine_similarity(p, z.detach(), dim=1).mean()
