"""Calibration: whether what a classifier is sure of comes true as often as it says.

All measures are of probabilities [N, C]; `fit_temperature` mends logits before they become such.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import astuple, dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from manyview.evaluate.report import Cell, Report, Table
from manyview.evaluate.scores import check_by, scores_of
from manyview.relations.reading import check_labels
from manyview.views.ops.op import check_whole

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from manyview.data import Splits
    from manyview.evaluate.features import Features

TEMPERATURES = (0.01, 100.0)
"""Where a temperature is looked for, and further where scores are larger or smaller than that allows for."""
ROWS_AT_ONCE = 4096
ERRORS = (("ece10", 10, False), ("ece15", 15, False), ("adaptive_ece15", 15, True))
"""Name, bins, and whether these are of equal mass."""
DRAWS, DRAWN_AT_ONCE = 1000, 2**22
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
    bin_of = _bin_of(confidence, bins, equal_mass)
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


@dataclass(frozen=True)
class Floor:
    """The calibration error of a perfectly calibrated model: its mean, and where 95 % of its values lie."""

    mean: float
    low: float
    high: float


def calibration_floor(
    probabilities: Tensor, bins: int = 10, *, equal_mass: bool = False, draws: int = DRAWS, seed: int = 0
) -> Floor:
    """What `expected_calibration_error` shows where nothing is wrong: it is a mean of absolute values, so never 0.

    A model as sure as this one whose answers come true just as often: labels are drawn anew `draws` times, each row
    being right with the probability that it says, independently of the others. An error within [low, high] is that of a
    calibrated model; one above is more than these rows show by chance. It falls as 1 / sqrt(N). Arguments as of
    `reliability`; the same seed gives the same numbers.
    """
    _check(probabilities, torch.zeros(len(probabilities), dtype=torch.int64))
    if bins < 1 or draws < 1:
        raise ValueError(f"bins and draws must be at least 1, got {bins} and {draws}")
    confidence = probabilities.max(dim=1).values.cpu()
    bin_of, order = _bin_of(confidence, bins, equal_mass).sort(stable=True)
    starts = np.unique(bin_of.numpy(), return_index=True)[1]
    sure = confidence.double().numpy()[order.numpy()]
    said = np.add.reduceat(sure, starts)
    words = np.random.Philox(key=seed)
    found: list[float] = []
    while len(found) < draws:
        count = min(draws - len(found), max(1, DRAWN_AT_ONCE // len(sure)))
        unit = (words.random_raw(count * len(sure)) >> np.uint64(11)).reshape(count, -1) * 2.0**-53
        right = np.add.reduceat((unit < sure).astype(np.float64), starts, axis=1)
        found += (np.abs(right - said).sum(axis=1) / len(sure)).tolist()
    low, high = np.quantile(found, (0.025, 0.975))
    return Floor(float(np.mean(found)), float(low), float(high))


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
        **{name: float(expected_calibration_error(probabilities, labels, b, equal_mass=m)) for name, b, m in ERRORS},
        "brier": float(brier_score(probabilities, labels)),
        "nll": float(negative_log_likelihood(probabilities, labels)),
    }


def fit_temperature(logits: Tensor, labels: Tensor) -> float:
    """The T in `temperature_bounds` for which softmax(logits / T) makes the labels likeliest (Guo et al., ICML 2017).

    logits: [N, C] and labels: integers [N], of validation: neither what the network learnt from nor what it is judged
    on. The mean of -log softmax(b z)_y is convex in b = 1/T, with the slope E_p[z] - z_y; the root of this rising
    slope is bracketed and found in float64 to about 1e-9 relative. T changes no row's order of classes.

    The labels may have no likeliest T. Where all rows are right, ever smaller T's do ever better: the lower bound is
    returned. Where labels score no better on average than the other classes, ever larger ones do: the upper. (Rows that
    are all wrong can still have a T between.) Either bound says that validation cannot tell how sure to be. If the
    logits of each row are equal, T means nothing and is 1.

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
    bounds = temperature_bounds(logits)
    low, high = map(math.log, bounds)
    if slope(low) <= 0:
        return bounds[0]
    if slope(high) >= 0:
        return bounds[1]
    return math.exp(brentq(slope, low, high, xtol=1e-12, rtol=1e-12))


def temperature_bounds(logits: Tensor) -> tuple[float, float]:
    """TEMPERATURES, the lower at most a hundredth of the widest row of logits [N, C], the upper at least all of it."""
    widest = float((logits.double().amax(dim=1) - logits.double().amin(dim=1)).max())
    return min(TEMPERATURES[0], widest / 100), max(TEMPERATURES[1], widest)


@dataclass(frozen=True)
class Calibration:
    """How far confidence is from accuracy: expected calibration error of the predicted class, as a share (0 is best).

    ece10, ece15: bins of equal width; adaptive_ece15: of equal mass; brier; nll in nats. ece15_floor: what a perfectly
    calibrated model with the same confidences shows of so few images, with its 95 % interval, ece15_floor_low to
    ece15_floor_high: an error in there is none that can be told (see `calibration_floor`; for the others a table). The
    same measures once more, `scaled_…`, after `temperature` was fitted on validation, where there is one besides the
    split that is judged; a temperature at a bound, 0.01 or 100 for usual scores, says that validation cannot tell. by:
    whose scores, as in `robustness`. bins: of the diagram.
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
        note, judged = scores.note, {"as it is": ("", logits)}
        measures: dict[str, float] = {}
        if split == "test" and features.splits.val is not None and not scores.saw_val:
            chosen_on = scores.of("val")
            temperature = measures["temperature"] = fit_temperature(chosen_on, features.of("val").labels)
            judged["after temperature scaling"] = ("scaled_", logits / temperature)
            if temperature in temperature_bounds(chosen_on):
                note += f"; the temperature is at a bound, {temperature:g}: validation cannot tell how sure to be"
        rows: list[tuple[Cell, ...]] = []
        shown: dict[str, Reliability] = {}
        for name, (prefix, each) in judged.items():
            chances = each.softmax(dim=1)
            shown[name] = reliability(chances, labels, self.bins)
            # of the scores: a probability may round to 0
            found = calibration(chances, labels) | {"nll": float(F.cross_entropy(each, labels))}
            floors = {error: calibration_floor(chances, bins, equal_mass=m) for error, bins, m in ERRORS}
            rows += [(prefix + error, found[error], *astuple(floor)) for error, floor in floors.items()]
            floor = floors["ece15"]
            found |= {"ece15_floor": floor.mean, "ece15_floor_low": floor.low, "ece15_floor_high": floor.high}
            measures |= {prefix + key: value for key, value in found.items()}
        told = "{}; a perfectly calibrated model of these {:,} images has an ECE of {:.3f} (95 %: {:.3f} to {:.3f})"
        main = [measures[f"ece15_floor{end}"] for end in ("", "_low", "_high")]
        columns = ("error", "here", "of a calibrated model", "2.5 %", "97.5 %")
        return Report(
            {"": measures["ece15"], **measures},
            {name: _bins(each) for name, each in shown.items()} | {"floor": Table(columns, tuple(rows))},
            lambda: _diagram(shown),
            told.format(note, len(labels), *main),
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
        axes.plot(middles[some], found.accuracy[some], "_", color="tab:blue", markersize=8)  # seen where it is 0, too
        axes.bar(middles[~some], 1, 1 / bins, color="0.93", zorder=0, label=None if some.all() else "no image")
        share = found.counts / found.counts.sum()
        axes.step(middles, share, where="mid", color="tab:gray", label="share of images")
        axes.plot([0, 1], [0, 1], "--", color="black", linewidth=1)
        axes.set(xlim=(0, 1), ylim=(0, 1), xlabel="confidence", title=f"{name}: ECE {float(found.error):.3f}")
        axes.legend(loc="upper left", frameon=False)
    return figure


def _bin_of(confidence: Tensor, bins: int, equal_mass: bool) -> Tensor:
    """The bin of each row, int64 [N]."""
    if equal_mass:
        less_sure = torch.searchsorted(confidence.sort().values, confidence)
        return bins * less_sure // len(confidence)
    edges = torch.linspace(0, 1, bins + 1, dtype=confidence.dtype, device=confidence.device)
    return torch.bucketize(confidence, edges[1:-1])


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
