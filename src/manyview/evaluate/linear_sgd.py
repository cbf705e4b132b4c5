"""The linear probe of MoCo (He et al., CVPR 2020), which DSSL (Bai et al., CVPR 2022) uses as well: a linear layer
on frozen features, trained by SGD.

Weights begin as N(0, 0.01), biases at 0; momentum 0.9, batches of 256, 100 epochs, the rate times 0.1 after 60 and 80
of them, no weight decay, and a rate of 30, which suits the small features of those networks. The best rate depends on
the scale of the features, so here several are tried and one is chosen by the accuracy on rows held out.

All rates are trained at once: a batch is read once for all, and what differs is a dimension of the weights. The order
of rows and the first weights are functions of the seed, the same for each rate, and nothing else is drawn.

Where this differs from the papers' code: that augments (random resized crops and flips) and so runs the network at each
epoch. Here features are those that the evaluation looks at, computed once. They are used as they are, as there: nothing
is standardised. Rows are read batch by batch, from memory or from a file (see `rows`), to the same bits.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

from manyview.errors import DataError, unknown
from manyview.evaluate.accuracy import accuracy_of, check_labelled
from manyview.evaluate.linear import METRICS, held_out
from manyview.evaluate.logistic import check_rows
from manyview.evaluate.report import Report, Table
from manyview.evaluate.rows import Rows, blocks_of, rows_of
from manyview.views.draws import Draws, order_of
from manyview.views.ops.op import check_not_negative, check_whole

if TYPE_CHECKING:
    from manyview.data import Splits
    from manyview.evaluate.features import Features

LRS = (0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0)


@dataclass(frozen=True)
class SgdProbe:
    """What `sgd_probe` found: the layer of the chosen rate, and the accuracy in percent that each rate had.

    coefficients: float32 [classes, D]. bias: float32 [classes]. An accuracy is nan where the weights were not finite.
    """

    coefficients: Tensor
    bias: Tensor
    lr: float
    accuracies: Mapping[float, float]

    def scores(self, features: Tensor | Rows) -> Tensor:
        """float32 [B, classes] of features [B, D]."""
        return torch.cat([*self.by_block(features)])

    def by_block(self, features: Tensor | Rows) -> Iterator[Tensor]:
        """The scores, of some rows at a time."""
        return (rows.float() @ self.coefficients.T + self.bias for rows in blocks_of(features))


def sgd_probe(
    features: Tensor | Rows,
    labels: Tensor,
    held_features: Tensor | Rows,
    held_labels: Tensor,
    classes: int,
    *,
    lrs: Sequence[float] = LRS,
    weight_decay: float = 0.0,
    momentum: float = 0.9,
    batch_size: int = 256,
    epochs: int = 100,
    milestones: Sequence[int] = (60, 80),
    seed: int = 0,
    metric: str = "top1",
    progress: Callable[[int, int], None] | None = None,
) -> SgdProbe:
    """Trains a layer for each rate on the first rows, and chooses the one that does best on the rows held out.

    features: [N, D]; held_features: [M, D]. labels, held_labels: integers [N] and [M] below `classes`. milestones:
    epochs after which all rates are multiplied by 0.1. metric: `top1` or `class_mean`. One rate needs no rows held out.
    Of rates that do equally well the smallest is taken. progress: told how many epochs are done, of how many.

    The loss is the mean over a batch, whose last one in an epoch may be smaller. The rows held out are not trained on
    (`linear_probe` fits them with the rest in the end; the official code does not). Raises ValueError as `linear_probe`
    does, for settings that cannot be meant, and where no rate leaves finite weights.
    """
    ordered = sorted(set(check_rates(lrs)))
    _check_settings(weight_decay, batch_size, epochs, metric)
    if not 0 <= momentum < 1:
        raise ValueError(f"momentum must be in [0, 1), got {momentum!r}")
    for milestone in milestones:
        check_whole("a milestone", milestone)
    for each, which in ((features, labels), (held_features, held_labels)):
        check_rows(each, which, classes)
    if len(labels.unique()) < 2:
        raise ValueError("labels are of fewer than two classes; there is nothing to tell apart")
    if not len(held_labels) and len(ordered) > 1:
        raise ValueError("no rows are held out to choose the rate on")
    if held_features.shape[1] != features.shape[1]:
        raise ValueError(f"features {tuple(features.shape)} and {tuple(held_features.shape)} are of unlike width")

    rows, targets, device = rows_of(features), labels.long(), features.device
    weights, bias = _begin(len(ordered), classes, rows.shape[1], seed, device)
    speed, bias_speed = torch.zeros_like(weights), torch.zeros_like(bias)
    for epoch in range(epochs):
        factor = 0.1 ** sum(epoch >= milestone for milestone in milestones)
        rates = torch.tensor([lr * factor for lr in ordered], device=device)[:, None, None]
        for at in torch.from_numpy(order_of(seed, epoch, len(rows))).split(batch_size):
            x, y = rows[at], targets[at.to(targets.device)]
            scores = (x @ weights.flatten(0, 1).T).view(len(x), len(ordered), classes) + bias
            error = (scores.softmax(dim=2) - F.one_hot(y, classes)[:, None]) / len(x)
            gradient = (error.flatten(1).T @ x).view_as(weights)
            speed.mul_(momentum).add_(gradient).add_(weights, alpha=weight_decay)
            bias_speed.mul_(momentum).add_(error.sum(dim=0)).add_(bias, alpha=weight_decay)
            weights.sub_(rates * speed)
            bias.sub_(rates[:, 0] * bias_speed)
        if progress is not None:
            progress(epoch + 1, epochs)

    probes = [SgdProbe(w, b, lr, {}) for w, b, lr in zip(weights, bias, ordered, strict=True)]
    judging = (held_features, held_labels) if len(held_labels) else (features, labels)  # of one rate: is it finite?
    found = {probe.lr: _judge(probe, *judging, metric) for probe in probes}
    sound = [probe for probe in probes if not math.isnan(found[probe.lr])]
    if not sound:
        raise ValueError(f"at no rate of {', '.join(f'{lr:g}' for lr in ordered)} the weights stay finite; lower them")
    best = max(sound, key=lambda probe: found[probe.lr])
    return SgdProbe(best.coefficients.clone(), best.bias.clone(), best.lr, found if len(held_labels) else {})


@dataclass(frozen=True)
class LinearSgd:
    """Accuracy of a linear layer that SGD trains on the backbone's features, as in MoCo and DSSL.

    lr: one rate or several, of which one is chosen by the metric, `top1` or `class_mean`: for test on val, for val, or
    without a val, on a tenth of train that is held out and not trained on. It is divided by 10 after 60 % and 80 % of
    the epochs. All rates are trained at once. Unlike in the papers' code, features are those of images as evaluation
    looks at them, without augmentation.
    """

    lr: float | tuple[float, ...] = LRS
    weight_decay: float = 0.0
    batch_size: int = 256
    epochs: int = 100
    metric: str = "top1"

    def __post_init__(self) -> None:
        if isinstance(self.lr, list):
            object.__setattr__(self, "lr", tuple(self.lr))
        check_rates(self.lr)
        _check_settings(self.weight_decay, self.batch_size, self.epochs, self.metric)

    def check(self, splits: Splits) -> None:
        """Raises DataError where no training image has a label, or none can be held out to choose a rate by."""
        check_labelled(splits)
        labels = splits.train.labels[splits.train.labels >= 0]
        if (splits.val is None or splits.test is None) and len(labels) <= len(set(labels.tolist())):
            self._check_one_rate()

    def _check_one_rate(self) -> None:
        if len(set(check_rates(self.lr))) > 1:
            raise DataError(
                "evaluate: linear_sgd holds out training images to choose a rate on, and every class has only one; "
                "give one rate, as in linear_sgd(lr=1.0)"
            )

    def measure(self, features: Features, split: str) -> Report:
        """The accuracy, the rate that was chosen, and what each rate had on the rows held out."""
        measured = features.of(split)
        (x, y), held = held_out(features, split)
        if not len(held[1]):
            self._check_one_rate()
        with features.watch("linear_sgd", self.epochs, "epochs") as tick:
            try:
                probe = sgd_probe(
                    x,
                    y,
                    *held,
                    features.classes,
                    lrs=check_rates(self.lr),
                    weight_decay=self.weight_decay,
                    batch_size=self.batch_size,
                    epochs=self.epochs,
                    milestones=[max(1, round(share * self.epochs)) for share in (0.6, 0.8)],
                    seed=features.seed,
                    metric=self.metric,
                    progress=tick,
                )
            except ValueError as error:
                raise DataError(f"linear_sgd: {error}") from None
        found = accuracy_of(probe.by_block(measured.rows), measured.labels)[self.metric]
        rates = table_of_rates(probe.accuracies, f"{self.metric} on the rows held out")
        return Report({"": found, "lr": probe.lr}, {"rates": rates} if probe.accuracies else {})


def check_rates(lrs: float | Sequence[float]) -> tuple[float, ...]:
    """One rate or several, as several. Raises ValueError for none, and for one that is not positive and finite."""
    several = tuple(lrs) if isinstance(lrs, Sequence) and not isinstance(lrs, str) else (lrs,)
    if not several:
        raise ValueError("no lr is given")
    for lr in several:
        if type(lr) not in (int, float) or not 0 < lr < math.inf:
            raise ValueError(f"lr must be positive, one number or several as in (1, 10), got {lr!r}")
    return several


def table_of_rates(accuracies: Mapping[float, float], what: str) -> Table:
    """Rates and what each reached, in percent; empty where the weights did not stay finite."""
    return Table(("lr", what), tuple((lr, None if math.isnan(value) else value) for lr, value in accuracies.items()))


def _check_settings(weight_decay: float, batch_size: int, epochs: int, metric: str) -> None:
    check_not_negative("weight_decay", weight_decay)
    check_whole("batch_size", batch_size)
    check_whole("epochs", epochs)
    if metric not in METRICS:
        raise ValueError(unknown("metric", str(metric), METRICS))


def _begin(rates: int, classes: int, width: int, seed: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Weights [rates, classes, width], the same for all rates, and biases [rates, classes] of 0."""
    unit = Draws(seed, 0, range(classes), "linear_sgd").uniform("weights", width)
    drawn = 0.01 * torch.special.ndtri(unit + 2.0**-33)  # draws are multiples of 2**-32, and may be 0
    weights = drawn.float().to(device).expand(rates, -1, -1).clone()
    return weights, torch.zeros(rates, classes, device=device)


def _judge(probe: SgdProbe, features: Tensor | Rows, labels: Tensor, metric: str) -> float:
    """The accuracy on rows in percent; nan where the scores are not finite."""
    finite = all(bool(scores.isfinite().all()) for scores in probe.by_block(features))
    return accuracy_of(probe.by_block(features), labels)[metric] if finite else math.nan
