"""The linear probe: multinomial logistic regression on frozen features, after AugSelf (Lee et al., NeurIPS 2021).

The objective is a *sum* over rows, and weights and biases are penalised alike:

    sum_i CE(W x_i + b, y_i) + w * (|W|^2 + |b|^2)

The best of 45 penalties w, from 1e-6 to 1e5, is chosen by the accuracy on rows held out, and the model then fitted to
all rows. The paper uses L-BFGS. Here the penalties are visited from strong to weak, each from where the solutions
before it point to, by Newton steps that conjugate gradients solve (Lin, Weng and Keerthi, JMLR 2008); the Hessian taken
as (class part) x (feature part) preconditions them (as in Martens and Grosse, ICML 2015). Sums are float64; only
products with the Hessian, which affect the number of steps but not where they lead, are float32. What is found is the
optimum to a tolerance, and how far it can be from it is told: the objective is 2w-strongly convex, so it exceeds its
minimum by at most |gradient|^2 / 4w.

Rows are read by the block, from memory or from a file (see `rows`), and so are their probabilities; blocks have one
size wherever they lie, so what is found is the same to the bit.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from manyview.data import Splits, hold_out
from manyview.errors import DataError, unknown
from manyview.evaluate.accuracy import accuracy_of, check_labelled
from manyview.evaluate.logistic import Fit, Problem, check_rows
from manyview.evaluate.report import Report, Table
from manyview.evaluate.rows import MEMORY, Rows

if TYPE_CHECKING:
    from manyview.evaluate.features import Features, Outputs

WEIGHTS: tuple[float, ...] = tuple(float(weight) for weight in np.logspace(-6, 5, 45))
METRICS = ("top1", "class_mean")
ALONE = 0.5
"""The penalty where none can be chosen: scikit-learn's C = 1."""
HELD_OUT = 0.1
"""Of the training images, where no validation split is left to choose by."""


@dataclass(frozen=True)
class Probe:
    """What `linear_probe` found: the model fitted to all rows, and the accuracy in percent that each penalty had.

    rest, held: how many rows the penalties were fitted to, and on how many others the best was chosen.
    """

    fit: Fit
    accuracies: Mapping[float, float]
    rest: int
    held: int

    @property
    def note(self) -> str:
        """What a reader has to know where the name tells less: nothing was chosen, or mostly by what is learnt from."""
        if not self.accuracies:
            return f"its penalty is {ALONE:g}: no training image could be held out to choose one"
        if self.held <= self.rest:
            return ""
        return f"fitted to {self.rest:,} labels of train and the {self.held:,} on which its penalty was chosen"

    @property
    def weight(self) -> float:
        """The penalty that was chosen."""
        return self.fit.weight


def linear_probe(
    features: Tensor | Rows,
    labels: Tensor,
    held_features: Tensor | Rows,
    held_labels: Tensor,
    classes: int,
    *,
    weights: Sequence[float] = WEIGHTS,
    metric: str = "top1",
    progress: Callable[[int, int], None] | None = None,
    memory: int = MEMORY,
) -> Probe:
    """Chooses the penalty on the rows held out, fits it to all rows: what is then measured is for a third set.

    features: [N, D]; held_features: [M, D]. labels, held_labels: integers [N] and [M] below `classes`. metric: `top1`,
    or `class_mean`, the mean of the classes' accuracies. Of penalties that do equally well the strongest is taken
    (AugSelf's code takes the weakest). progress: told how many penalties are done, of how many. memory: bytes that a
    copy of the rows, and their probabilities, may take; more are read anew by the block, or lie in a file. Raises
    ValueError as `fit_linear` does, and for an unknown metric or no rows held out.
    """
    if metric not in METRICS:
        raise ValueError(f"metric must be one of {', '.join(METRICS)}, got {metric!r}")
    check_rows(held_features, held_labels, classes)
    if not len(held_labels):
        raise ValueError("no rows are held out to choose the penalty on")
    if held_features.shape[1:] != features.shape[1:]:
        raise ValueError(f"features {tuple(features.shape)} and {tuple(held_features.shape)} are of unlike width")
    accuracies: dict[float, float] = {}
    best: Fit | None = None
    for fit in fit_path(features, labels, classes, weights, memory=memory):
        accuracies[fit.weight] = accuracy_of(fit.by_block(held_features), held_labels)[metric]
        if best is None or accuracies[fit.weight] > accuracies[best.weight]:
            best = fit
        if progress is not None:
            progress(len(accuracies), len(weights))
    assert best is not None
    rows, targets = Rows(features, held_features), torch.cat([labels, held_labels])
    fit = fit_linear(rows, targets, classes, best.weight, start=best, memory=memory)
    return Probe(fit, accuracies, len(labels), len(held_labels))


def fit_path(
    features: Tensor | Rows,
    labels: Tensor,
    classes: int,
    weights: Sequence[float] = WEIGHTS,
    tolerance: float = 1e-5,
    *,
    memory: int = MEMORY,
) -> Iterator[Fit]:
    """Fits for all penalties, from the strongest to the weakest, each of which begins where those before it point to.

    The tolerance (see `fit_linear`) is for comparing penalties; fit the chosen one again. Raises ValueError likewise.
    """
    if not len(weights):
        raise ValueError("no weights are given")
    ordered = sorted({_positive(weight) for weight in weights}, reverse=True)
    problem = Problem(features, labels, classes, memory)
    theta = before = torch.zeros(classes, features.shape[1] + 1, dtype=torch.float64, device=features.device)
    for number, weight in enumerate(ordered):
        start = theta
        if number > 1:
            # solutions move along smoothly in log w
            pace = math.log(weight / ordered[number - 1]) / math.log(ordered[number - 1] / ordered[number - 2])
            ahead = theta + pace * (theta - before)
            if problem.value(ahead, weight) < problem.value(theta, weight):
                start = ahead
        before = theta
        fit, theta = problem.solve(weight, start, tolerance)
        yield fit


def fit_linear(
    features: Tensor | Rows,
    labels: Tensor,
    classes: int,
    weight: float,
    *,
    start: Fit | None = None,
    tolerance: float = 1e-9,
    memory: int = MEMORY,
) -> Fit:
    """The minimum of the objective for one penalty.

    features: [N, D], computed with as float32. labels: integers [N] below `classes`. start: a fit to begin from.
    tolerance: Newton's steps end with the first that promises to lower the objective by less than this fraction.
    memory: see `linear_probe`. Raises ValueError for features and labels of unlike length, values that are not finite,
    labels of fewer than two classes, and a weight that is not positive.
    """
    problem = Problem(features, labels, classes, memory)
    theta = torch.zeros(classes, features.shape[1] + 1, dtype=torch.float64, device=features.device)
    if start is not None:
        theta = torch.cat([start.coefficients, start.bias[:, None]], dim=1)
    return problem.solve(_positive(weight), theta, tolerance)[0]


def _positive(weight: float) -> float:
    if not (isinstance(weight, (int, float)) and 0 < weight < math.inf):
        raise ValueError(f"weights must be positive, got {weight!r}")
    return float(weight)


@dataclass(frozen=True)
class Linear:
    """Accuracy of logistic regression on the backbone's features; `linear_probe` is the same.

    One of 45 penalties is chosen by the metric, `top1` or `class_mean`: for test on val, then all of train and val is
    fitted; for val, or without a val, on a tenth of train that is held out, then all of train is fitted. So labels of
    val are learnt from, which is told where they are more than those of train. With one image a class none is held out,
    and the penalty is 0.5. Measured when a run has ended.
    """

    metric: str = "top1"

    def __post_init__(self) -> None:
        if self.metric not in METRICS:
            raise ValueError(unknown("metric", str(self.metric), METRICS))

    def check(self, splits: Splits) -> None:
        """Raises DataError where no training image has a label."""
        check_labelled(splits)

    def measure(self, features: Features, split: str) -> Report:
        """The accuracy, and the penalty that was chosen."""
        measured, probe = features.of(split), probe_of(features, split, self.metric)
        rows = tuple((weight, value) for weight, value in probe.accuracies.items())
        table = Table(("penalty", f"{self.metric} on the rows held out"), rows)
        reached = accuracy_of(probe.fit.by_block(measured.rows), measured.labels)[self.metric]
        return Report({"": reached, "weight": probe.weight}, {"penalties": table} if rows else {}, note=probe.note)


def probe_of(features: Features, split: str, metric: str = "top1") -> Probe:
    """The linear probe that may be judged on a split, its penalty chosen on other rows (see `Linear`)."""

    def fit() -> Probe:
        fitted, held = held_out(features, split)
        with features.watch("linear", len(WEIGHTS), "penalties") as tick:
            try:
                if not len(held[1]):
                    return Probe(fit_linear(*fitted, features.classes, ALONE), {}, len(fitted[1]), 0)
                return linear_probe(*fitted, *held, features.classes, metric=metric, progress=tick)
            except ValueError as error:
                raise DataError(f"linear: {error}") from None

    return features.once(("linear", split, metric), fit)


Labelled = tuple[Rows, Tensor]


def held_out(features: Features, split: str) -> tuple[Labelled, Labelled]:
    """Features and labels to fit, and others to choose settings by, before anything is judged on `split`.

    Those of train and val for test; else train's, of which a tenth is held out: none where every class has only one.
    """
    train = features.of("train")
    if split == "test" and features.splits.val is not None:
        return _rows(train), _rows(features.of("val"))
    rest, out = _held_out(train, features.seed)
    return (train.rows.chosen(rest), train.labels[rest]), (train.rows.chosen(out), train.labels[out])


def _rows(outputs: Outputs) -> Labelled:
    return outputs.rows, outputs.labels


def _held_out(train: Outputs, seed: int) -> tuple[Tensor, Tensor]:
    count = max(1, round(HELD_OUT * len(train.labels)))
    rest, out = hold_out(train.labels.numpy(), count, seed, "linear")
    return torch.from_numpy(rest), torch.from_numpy(out)
