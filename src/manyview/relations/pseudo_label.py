"""FixMatch: a confident prediction on the weak view labels the strong view (Sohn et al., NeurIPS 2020, eq. 4).

    loss = 1/B sum over rows with max_c P_c >= threshold of  CE(l_strong, argmax_c P_c),    P = softmax(l_weak / T)

The mean is over all B rows, confident or not, so that the loss grows as the network becomes sure; its weight is 1. The
label is hard: T does not change it, only which rows are confident (the paper's form has T = 1; threshold 0.95).

What later papers put in the place of one threshold t, with c = max P of a row and y its label:

- FlexMatch (Zhang et al., NeurIPS 2021, eq. 6-7, 12): t b_y / (2 - b_y), b_y in [0, 1]: how well class y is learned.
- FreeMatch (Wang et al., ICLR 2023, eq. 6): overall l_y / max l, from moving means of c and of P.
- SoftMatch (Chen et al., ICLR 2023, eq. 8): each row counts exp(- min(c - mean, 0)^2 n^2 / (2 variance)), n = 2.
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


@in_float32
def flex_thresholds(learned: Tensor, threshold: float = 0.95) -> Tensor:
    """FlexMatch's thresholds by class, [C]: low where a class is not learned yet, `threshold` where it is.

    learned: [C], each in [0, 1]: images whose last confident prediction was the class, over those of the most frequent
    (or over those never confident, while these are more). Raises ValueError for another shape and a threshold outside
    (0, 1].
    """
    if learned.ndim != 1:
        raise ValueError(f"expected how well each class is learned [C], got {tuple(learned.shape)}")
    if not 0 < threshold <= 1:
        raise ValueError(f"threshold must be in (0, 1], got {threshold}")
    return threshold * learned / (2 - learned)


@in_float32
def free_thresholds(overall: Tensor, local: Tensor) -> Tensor:
    """FreeMatch's thresholds by class, [C]: the overall one, times how near a class is to the most expected.

    overall: a scalar, the moving mean of the largest probability. local: [C], the moving mean of the probabilities.
    Raises ValueError for other shapes.
    """
    if local.ndim != 1 or overall.numel() != 1:
        raise ValueError(f"expected a scalar and [C], got {tuple(overall.shape)} and {tuple(local.shape)}")
    return overall.reshape(()) * local / local.max()


@in_float32
def soft_weights(confidence: Tensor, mean: Tensor, variance: Tensor, sigmas: float = 2.0) -> Tensor:
    """SoftMatch's weights of rows, [B] in (0, 1]: 1 from the mean confidence on, below it half a Gaussian.

    confidence: [B], the largest probability. mean, variance: scalars, moving, of the confidences. sigmas: the
    Gaussian's deviation is the confidences', over `sigmas` (n above). Raises ValueError for other shapes, sigmas <= 0.
    """
    if confidence.ndim != 1 or mean.numel() != 1 or variance.numel() != 1:
        raise ValueError(
            f"expected [B] and two scalars, got {tuple(confidence.shape)}, {tuple(mean.shape)}, {tuple(variance.shape)}"
        )
    if not sigmas > 0:
        raise ValueError(f"sigmas must be positive, got {sigmas}")
    below = (confidence - mean.reshape(())).clamp_max(0)
    return (-below.square() * sigmas**2 / (2 * variance.reshape(()))).exp()
