"""Expected calibration error (Naeini et al., AAAI 2015; Guo et al., ICML 2017, eq. 3)."""

from __future__ import annotations

import torch
from torch import Tensor

from manyview.relations.reading import check_labels


def expected_calibration_error(probabilities: Tensor, labels: Tensor, bins: int = 10) -> Tensor:
    """Sum over equal-width bins of (n_b / N) |accuracy_b - confidence_b|, a scalar in [0, 1].

    probabilities: [N, C], rows that sum to one. labels: integers [N]. Bins are (low, high].
    Confidence is the probability of the *predicted* class; Tied-Augment's official code bins by the probability of
    the true class, which measures something else. Raises ValueError for shapes that disagree, no rows, or bins < 1.
    """
    if probabilities.ndim != 2 or labels.shape != probabilities.shape[:1] or not len(labels):
        raise ValueError(
            f"expected probabilities [N, C] and labels [N], N > 0, got {tuple(probabilities.shape)} "
            f"and {tuple(labels.shape)}"
        )
    if bins < 1:
        raise ValueError(f"bins must be at least 1, got {bins}")
    check_labels(labels, probabilities.shape[1])
    confidence, predicted = probabilities.max(dim=1)
    right = (predicted == labels).to(confidence.dtype)
    edges = torch.linspace(0, 1, bins + 1, dtype=confidence.dtype, device=confidence.device)
    bin_of = torch.bucketize(confidence, edges[1:-1])
    gap = confidence.new_zeros(bins).index_add_(0, bin_of, right - confidence)
    return gap.abs().sum() / len(labels)
