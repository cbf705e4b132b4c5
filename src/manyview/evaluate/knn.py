"""Weighted k-nearest-neighbour classification of frozen features (Wu et al., CVPR 2018, section 3.4).

The vote of a neighbour is exp(cosine / T), here relative to the nearest so that no T overflows. k = 200 and T = 0.1
are the usual settings at CIFAR scale.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

from manyview.augment.op import check_whole
from manyview.errors import DataError
from manyview.evaluate.accuracy import check_labelled
from manyview.evaluate.report import Report
from manyview.relations.precision import check_temperature
from manyview.relations.reading import check_labels

if TYPE_CHECKING:
    from manyview.data import Splits
    from manyview.evaluate.features import Features

QUERIES_AT_ONCE = 1024


def knn_predict(
    features: Tensor, bank: Tensor, bank_labels: Tensor, classes: int, k: int = 200, temperature: float = 0.1
) -> Tensor:
    """The class with the largest weighted vote among each row's k nearest in the bank, int64 [B].

    features: [B, D]. bank: [N, D]. bank_labels: integers [N] below `classes`. Memory is bounded by
    1,024 queries at a time. Raises ValueError for k outside [1, N], temperature <= 0, shapes that disagree.
    """
    if features.ndim != 2 or bank.ndim != 2 or features.shape[1] != bank.shape[1]:
        raise ValueError(
            f"expected features [B, D] and bank [N, D], got {tuple(features.shape)} and {tuple(bank.shape)}"
        )
    if len(bank_labels) != len(bank):
        raise ValueError(f"the bank has {len(bank)} rows and {len(bank_labels)} labels")
    if not 1 <= k <= len(bank):
        raise ValueError(f"k must be between 1 and the bank's {len(bank)} rows, got {k}")
    check_labels(bank_labels, classes)
    check_temperature(temperature)
    bank = F.normalize(bank, dim=1)
    predictions = []
    for queries in F.normalize(features, dim=1).split(QUERIES_AT_ONCE):
        cosines, nearest = (queries @ bank.T).topk(k, dim=1)
        votes = queries.new_zeros(len(queries), classes)
        votes.scatter_add_(1, bank_labels.long()[nearest], ((cosines - cosines[:, :1]) / temperature).exp())
        predictions.append(votes.argmax(dim=1))
    return torch.cat(predictions) if predictions else torch.empty(0, dtype=torch.long)


@dataclass(frozen=True)
class Knn:
    """Weighted k-nearest-neighbour accuracy of the backbone's features, with the training images as the bank."""

    k: int = 200
    temperature: float = 0.1

    def __post_init__(self) -> None:
        check_whole("k", self.k)
        check_temperature(self.temperature)

    def check(self, splits: Splits) -> None:
        """Raises DataError for more neighbours than there are training images with labels."""
        check_labelled(splits)
        known = int((splits.train.labels >= 0).sum())
        if self.k > known:
            raise DataError(
                f"evaluate: knn(k={self.k}) needs as many training images, there are {known}; lower k, as in "
                f"knn(k={known})"
            )

    def measure(self, features: Features, split: str) -> Report:
        """The accuracy."""
        queries, bank = features.of(split), features.of("train")
        try:
            predicted = knn_predict(
                queries.features, bank.features, bank.labels, features.classes, self.k, self.temperature
            )
        except ValueError as error:  # images that cannot be read are missing in the bank
            raise DataError(f"knn: {error}") from None
        return Report({"": 100 * float((predicted == queries.labels).double().mean())})
