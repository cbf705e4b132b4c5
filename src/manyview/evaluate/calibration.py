"""Calibration: whether what a classifier is sure of comes true as often as it says.

All measures are of probabilities [N, C]; `fit_temperature` mends logits before they become such.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from manyview.relations.reading import check_labels

TEMPERATURES = (0.01, 100.0)
"""Where a temperature is looked for."""
ROWS_AT_ONCE = 4096
UNIT_SUM = 0.01
"""How far from 1 a row of probabilities may sum to, so that half precision is not refused."""


@dataclass(frozen=True)
class Reliability:
    """Rows put into bins by confidence: a reliability diagram's columns (DeGroot and Fienberg, 1983).

    counts: int64 [bins]. confidence, accuracy: means of each bin's rows, float64 [bins] in [0, 1]; NaN in empty bins.
    """

    counts: Tensor
    confidence: Tensor
    accuracy: Tensor

    @property
    def error(self) -> Tensor:
        """Sum over bins of (n_b / N) |accuracy_b - confidence_b|, a float64 scalar in [0, 1]."""
        return ((self.accuracy - self.confidence).abs() * self.counts).nansum() / self.counts.sum()


def reliability(probabilities: Tensor, labels: Tensor, bins: int = 10, *, equal_mass: bool = False) -> Reliability:
    """What a reliability diagram shows. probabilities: [N, C], rows that sum to one. labels: integers [N].

    Confidence is the probability of the *predicted* class; Tied-Augment's official code bins by the probability of
    the true class, which measures something else. Bins are of equal width, (low, high]; or with `equal_mass` of equal
    numbers of rows (Nguyen and O'Connor, EMNLP 2015): a row with r rows less confident is in bin floor(bins r / N).
    Without ties the bins' sizes so differ by one at most; rows that tie stay together, whatever the rows' order, and
    a network that is wholly sure of many leaves bins empty. Sums are float64.

    Raises ValueError for shapes that disagree, no rows, bins < 1, labels outside [0, C), and rows that are no
    probabilities (on a GPU neither of the last two is looked for).
    """
    if bins < 1:
        raise ValueError(f"bins must be at least 1, got {bins}")
    _check(probabilities, labels)
    confidence, predicted = probabilities.max(dim=1)
    if equal_mass:
        less_sure = torch.searchsorted(confidence.sort().values, confidence)
        bin_of = bins * less_sure // len(labels)
    else:
        edges = torch.linspace(0, 1, bins + 1, dtype=confidence.dtype, device=confidence.device)
        bin_of = torch.bucketize(confidence, edges[1:-1])
    counts = torch.bincount(bin_of, minlength=bins)
    sums = torch.zeros(2, bins, dtype=torch.float64, device=confidence.device)
    sums.index_add_(1, bin_of, torch.stack([confidence, (predicted == labels).to(confidence.dtype)]).double())
    return Reliability(counts, *(sums / counts))


def expected_calibration_error(
    probabilities: Tensor, labels: Tensor, bins: int = 10, *, equal_mass: bool = False
) -> Tensor:
    """Sum over bins of (n_b / N) |accuracy_b - confidence_b|, a float64 scalar in [0, 1].

    Naeini et al., AAAI 2015; Guo et al., ICML 2017, eq. 3. Bins, arguments and errors: see `reliability`. With
    `equal_mass` it is the adaptive error of Mukhoti et al. (NeurIPS 2020): it looks at the predicted class alone, and
    is not the ACE of Nixon et al. (CVPR-W 2019), which averages over all classes. Nguyen and O'Connor take the root
    mean square where this takes the mean.
    """
    return reliability(probabilities, labels, bins, equal_mass=equal_mass).error


def brier_score(probabilities: Tensor, labels: Tensor) -> Tensor:
    """Mean over rows of the sum over classes of (p_c - [c = label])^2, a float64 scalar in [0, 2].

    Brier, 1950: of two classes it is twice the score of the one. probabilities: [N, C], rows that sum to one. labels:
    integers [N]. Raises ValueError as `reliability` does.
    """
    _check(probabilities, labels)
    p = probabilities.double()
    return (p.square().sum(dim=1) - 2 * _of_label(p, labels) + 1).mean()


def negative_log_likelihood(probabilities: Tensor, labels: Tensor) -> Tensor:
    """Mean over rows of -log p_label in nats, a float64 scalar; inf if some label has probability 0.

    A softmax in float32 gives 0 where a score is some 104 below the highest, in float64 some 745: take the latter.
    probabilities: [N, C], rows that sum to one. labels: integers [N]. Raises ValueError as `reliability` does.
    """
    _check(probabilities, labels)
    return -_of_label(probabilities.double(), labels).log().mean()


def calibration(probabilities: Tensor, labels: Tensor) -> dict[str, float]:
    """All measures by name: ece10, ece15, adaptive_ece15 (equal mass), brier and nll.

    probabilities: [N, C], rows that sum to one. labels: integers [N]. Raises ValueError as `reliability` does.
    """
    return {
        "ece10": float(expected_calibration_error(probabilities, labels, 10)),
        "ece15": float(expected_calibration_error(probabilities, labels, 15)),
        "adaptive_ece15": float(expected_calibration_error(probabilities, labels, 15, equal_mass=True)),
        "brier": float(brier_score(probabilities, labels)),
        "nll": float(negative_log_likelihood(probabilities, labels)),
    }


def fit_temperature(logits: Tensor, labels: Tensor) -> float:
    """The T within TEMPERATURES for which softmax(logits / T) makes the labels likeliest (Guo et al., ICML 2017).

    logits: [N, C] and labels: integers [N], of validation: neither what the network learnt from nor what it is judged
    on. The mean of -log softmax(b z)_y is convex in b = 1/T, with the slope E_p[z] - z_y; the root of this rising
    slope is bracketed and found in float64 to about 1e-9 relative. T changes no row's order of classes.

    The labels may have no likeliest T. Where all rows are right, ever smaller T's do ever better: 0.01 is returned.
    Where labels score no better on average than the other classes, ever larger ones do: 100. (Rows that are all wrong
    can still have a T between.) Either bound says that validation cannot tell how sure to be. If the logits of each
    row are equal, T means nothing and is 1.

    Raises ValueError for shapes that disagree, no rows, labels outside [0, C), logits that are not finite.
    """
    from scipy.optimize import brentq  # half a second that no other measure needs to wait for

    _check_shapes(logits, labels, "logits")
    if not bool(logits.isfinite().all()):
        raise ValueError("logits hold values that are not finite")
    labels = labels.long()

    def slope(log_t: float) -> float:
        total = 0.0
        for z, y in zip(logits.split(ROWS_AT_ONCE), labels.split(ROWS_AT_ONCE), strict=True):
            # Against the label's own score, nothing cancels and the sign is right to the last.
            above = z.double() - z.double().gather(1, y[:, None])
            total += float(((above * math.exp(-log_t)).softmax(dim=1) * above).sum())
        return total / len(labels)

    if bool((logits == logits[:, :1]).all()):
        return 1.0
    low, high = map(math.log, TEMPERATURES)
    if slope(low) <= 0:
        return TEMPERATURES[0]
    if slope(high) >= 0:
        return TEMPERATURES[1]
    return math.exp(brentq(slope, low, high, xtol=1e-12, rtol=1e-12))


def _of_label(values: Tensor, labels: Tensor) -> Tensor:
    return values.gather(1, labels.long()[:, None])[:, 0]


def _check_shapes(values: Tensor, labels: Tensor, what: str) -> None:
    if values.ndim != 2 or labels.shape != values.shape[:1] or not len(labels):
        raise ValueError(
            f"expected {what} [N, C] and labels [N], N > 0, got {tuple(values.shape)} and {tuple(labels.shape)}"
        )
    check_labels(labels, values.shape[1])


def _check(probabilities: Tensor, labels: Tensor) -> None:
    _check_shapes(probabilities, labels, "probabilities")
    if probabilities.device.type != "cpu":
        return
    sums = probabilities.double().sum(dim=1)
    bad = ((probabilities < 0).any(dim=1) | ~((sums - 1).abs() <= UNIT_SUM)).nonzero()
    if len(bad):
        row = int(bad[0])
        raise ValueError(
            f"row {row} is not probabilities: lowest {float(probabilities[row].min()):g}, sum {float(sums[row]):g}; "
            f"take the softmax of logits first"
        )
