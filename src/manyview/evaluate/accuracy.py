"""Accuracies of class scores."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from manyview.errors import DataError
from manyview.evaluate.report import Report

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from manyview.data import Splits
    from manyview.evaluate.features import Features

ROWS_AT_ONCE = 4096
MEASURES = ("top1", "top5", "class_mean", "loss")


def accuracy(scores: Tensor, labels: Tensor) -> dict[str, float]:
    """top1, top5, class_mean (of the classes that occur) in percent, and the cross-entropy `loss`.

    scores: [N, classes]; labels: integers [N]. Of classes with equal scores the first ranks higher, and a row with a
    score that is not a number is wrong. Raises ValueError for shapes that disagree, and for no rows.
    """
    if scores.ndim != 2 or labels.shape != scores.shape[:1] or not len(labels):
        raise ValueError(
            f"expected scores [N, classes] and labels [N], N > 0, got {tuple(scores.shape)} and {tuple(labels.shape)}"
        )
    return accuracy_of(scores.split(ROWS_AT_ONCE), labels)


def accuracy_of(blocks: Iterable[Tensor], labels: Tensor) -> dict[str, float]:
    """As `accuracy`, of scores [B, classes] that come block by block, in the order of the labels [N]."""
    places: list[Tensor] = []
    loss, done = 0.0, 0
    for scores in blocks:
        own = labels[done : done + len(scores)]
        places.append(_place(scores, own))
        loss += float(F.cross_entropy(scores.double(), own, reduction="sum"))
        done += len(scores)
    place = torch.cat(places)
    right = (place == 0).double()
    per_class = [right[labels == label].mean() for label in labels.unique()]
    return {
        "top1": 100 * int(right.sum()) / len(labels),
        "top5": 100 * int((place < 5).sum()) / len(labels),
        "class_mean": 100 * float(torch.stack(per_class).mean()),
        "loss": loss / len(labels),
    }


def _place(scores: Tensor, labels: Tensor) -> Tensor:
    """How many classes rank above each row's own, int64 [N]; all of them where a score is not a number."""
    own, classes = scores.gather(1, labels.long()[:, None]), torch.arange(scores.shape[1], device=scores.device)
    above = (scores > own) | ((scores == own) & (classes < labels[:, None]))
    return above.sum(dim=1).masked_fill(scores.isnan().any(dim=1), max(5, scores.shape[1]))


def check_labelled(splits: Splits) -> None:
    """Raises DataError where nothing can be learnt from labels."""
    if not (splits.train.labels >= 0).any():
        raise DataError(f"evaluate: no training image has a label to compare with; there are {splits.note}")


@dataclass(frozen=True)
class Classify:
    """Accuracy of the classifier the recipe trained: top-1, top-5, class mean, loss; for SLA also aggregated.

    Of five classes or fewer there is no top-5, which would be 100 %.
    """

    def check(self, splits: Splits) -> None:
        """Nothing is asked of the data: without a classifier nothing is measured."""

    def measure(self, features: Features, split: str) -> Report:
        """Measures by their own names."""
        outputs = features.of(split, aggregated=features.model.orbit is not None)
        measures: dict[str, float] = {}
        each = {"labels": _small(outputs.labels)}
        for prefix, scores in (("", outputs.logits), ("aggregated_", outputs.aggregated)):
            if scores is not None:
                found = accuracy(scores, outputs.labels)
                measures |= {f"{prefix}{name}": found[name] for name in found if name != "top5" or scores.shape[1] > 5}
                each |= {f"{prefix}{name}": value for name, value in answers(scores).items()}
        return Report(measures, each=each)


def answers(scores: Tensor) -> dict[str, NDArray[Any]]:
    """The class that each row [classes] scores highest, and its probability, in six bytes at most.

    predicted: unsigned [N]; a row with a score that is not a number has the number of classes. probability: float16.
    """
    sure, predicted = scores.double().softmax(dim=1).max(dim=1)
    predicted = predicted.masked_fill(scores.isnan().any(dim=1), scores.shape[1])
    return {"predicted": _small(predicted), "probability": sure.half().cpu().numpy()}


def _small(numbers: Tensor) -> NDArray[Any]:
    return numbers.cpu().numpy().astype(np.uint16 if not len(numbers) or int(numbers.max()) < 2**16 else np.uint32)
