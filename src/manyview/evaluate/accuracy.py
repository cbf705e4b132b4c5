"""Accuracies of class scores."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def accuracy(scores: Tensor, labels: Tensor) -> dict[str, float]:
    """top1, top5, class_mean (of the classes that occur) in percent, and the cross-entropy `loss`.

    scores: [N, classes]; labels: integers [N].
    """
    ranked = scores.topk(min(5, scores.shape[1]), dim=1).indices == labels[:, None]
    right = ranked[:, 0].float()
    per_class = [right[labels == label].mean() for label in labels.unique()]
    return {
        "top1": 100 * float(right.mean()),
        "top5": 100 * float(ranked.any(dim=1).float().mean()),
        "class_mean": 100 * float(torch.stack(per_class).mean()),
        "loss": float(F.cross_entropy(scores, labels)),
    }
