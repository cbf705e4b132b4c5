"""Calibration: whether what a classifier is sure of comes true as often as it says.

All measures are of probabilities [N, C]; `fit_temperature` mends logits before they become such.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from manyview.augment.op import check_whole
from manyview.evaluate.report import Report, Table
from manyview.evaluate.scores import check_by, scores_of
from manyview.relations.reading import check_labels

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from manyview.data import Splits
    from manyview.evaluate.features import Features

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


@dataclass(frozen=True)
class Calibration:
    """How far confidence is from accuracy: expected calibration error of the predicted class, as a share (0 is best).

    ece10, ece15: bins of equal width; adaptive_ece15: of equal mass; brier; nll in nats. The same measures once more,
    `scaled_…`, after `temperature` was fitted on validation, where there is one besides the split that is judged; a
    temperature at a bound of 0.01 or 100 says that validation cannot tell. by: whose scores, as in `robustness`. bins:
    of the diagram.
    """

    by: str = "auto"
    bins: int = 15

    def __post_init__(self) -> None:
        check_by(self.by)
        check_whole("bins", self.bins)

    def check(self, splits: Splits) -> None:
        """Nothing is asked of the data beforehand."""

    def measure(self, features: Features, split: str) -> Report:
        """The error with 15 bins is the main measure."""
        scores = scores_of(features, split, self.by)
        logits, labels = scores.of(split).double(), features.of(split).labels
        chances = logits.softmax(dim=1)
        measures = {"": float(expected_calibration_error(chances, labels, 15)), **calibration(chances, labels)}
        shown = {"as it is": reliability(chances, labels, self.bins)}
        if split == "test" and features.splits.val is not None and not scores.saw_val:
            measures["temperature"] = fit_temperature(scores.of("val"), features.of("val").labels)
            chances = (logits / measures["temperature"]).softmax(dim=1)
            measures |= {f"scaled_{name}": value for name, value in calibration(chances, labels).items()}
            shown["after temperature scaling"] = reliability(chances, labels, self.bins)
        return Report(
            measures, {name: _bins(each) for name, each in shown.items()}, lambda: _diagram(shown), scores.note
        )


def _bins(found: Reliability) -> Table:
    edges = torch.linspace(0, 1, len(found.counts) + 1)
    rows = []
    for place, count in enumerate(found.counts.tolist()):
        means = (float(found.confidence[place]), float(found.accuracy[place])) if count else (None, None)
        rows.append((f"{edges[place]:.3f} to {edges[place + 1]:.3f}", count, *means))
    return Table(("confidence between", "images", "mean confidence", "accuracy"), tuple(rows))


def _diagram(shown: Mapping[str, Reliability]) -> Figure:
    """Accuracy over confidence, a panel each; what is missing from the diagonal is the error."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4.4 * len(shown), 4.4), layout="constrained")
    for place, (name, found) in enumerate(shown.items()):
        axes = figure.add_subplot(1, len(shown), place + 1)
        bins = len(found.counts)
        middles = (torch.arange(bins) + 0.5) / bins
        some = found.counts > 0
        axes.bar(middles[some], found.accuracy[some], 0.9 / bins, color="tab:blue", label="accuracy")
        share = found.counts / found.counts.sum()
        axes.step(middles, share, where="mid", color="tab:gray", label="share of images")
        axes.plot([0, 1], [0, 1], "--", color="black", linewidth=1)
        axes.set(xlim=(0, 1), ylim=(0, 1), xlabel="confidence", title=f"{name}: ECE {float(found.error):.3f}")
        axes.legend(loc="upper left", frameon=False)
    return figure


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
