"""FixMatch: a confident prediction on the weak view labels the strong view (Sohn et al., NeurIPS 2020, eq. 4).

    loss = 1/B sum over rows with max_c P_c >= threshold of  CE(l_strong, argmax_c P_c),    P = softmax(l_weak / T)

The mean is over all B rows, confident or not, so that the loss grows as the network becomes sure; its weight is 1. The
label is hard: T does not change it, only which rows are confident (the paper's form has T = 1; threshold 0.95).
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from manyview.relations.precision import check_temperature, in_float32
from manyview.relations.reading import same_shape


@in_float32
def pseudo_label(strong: Tensor, weak: Tensor, threshold: float, temperature: float = 1.0) -> Tensor:
    """FixMatch's unlabelled loss, a scalar, 0 where no row is confident; no gradient to the weak view.

    strong, weak: logits [B, C]. threshold: the least probability that counts as confident. A mean over rows: processes
    need no gather. Raises ValueError for unlike shapes, a threshold outside [0, 1] or temperature <= 0.
    """
    same_shape(strong, weak)
    check_temperature(temperature)
    if not 0 <= threshold <= 1:
        raise ValueError(f"threshold must be in [0, 1], got {threshold}")
    confidence, labels = (weak.detach() / temperature).softmax(dim=1).max(dim=1)
    return (F.cross_entropy(strong, labels, reduction="none") * (confidence >= threshold)).mean()
