"""Weighted k-nearest-neighbour classification of frozen features (Wu et al., CVPR 2018, section 3.4).

The vote of a neighbour is exp(cosine / T), here relative to the nearest so that no T overflows. k = 200 and T = 0.1
are the usual settings at CIFAR scale.

Ties are decided by a rule, not by the order of a sum: cosines that float32 cannot tell apart are equal, of equal ones
the row that comes first in the bank is the nearer, and of classes with equal votes the first is the answer. A row of
zeros has no direction, nor one that is not finite: such a query has no answer, and such a row is nobody's neighbour.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from manyview.evaluate.accuracy import check_labelled
from manyview.evaluate.report import Report
from manyview.relations.precision import check_temperature
from manyview.relations.reading import check_labels
from manyview.views.ops.op import check_whole

if TYPE_CHECKING:
    from manyview.data import Splits
    from manyview.evaluate.features import Features

QUERIES_AT_ONCE, CROWDED_AT_ONCE = 1024, 64
SAME = 4 * torch.finfo(torch.float32).eps
"""Cosines that differ by no more are equal."""


@dataclass(frozen=True)
class Neighbours:
    """What the neighbours say.

    classes: int64 [B], -1 where there is no answer. tied: bool [B], whether a rule had to decide: between classes with
    equal votes, or between neighbours of unlike classes for the last of the k places. dead: bool [B], rows of zeros or
    that are not finite, which have no neighbours. lost: how many such rows the bank has.
    """

    classes: Tensor
    tied: Tensor
    dead: Tensor
    lost: int


def knn_predict(
    features: Tensor, bank: Tensor, bank_labels: Tensor, classes: int, k: int = 200, temperature: float = 0.1
) -> Tensor:
    """The class with the largest weighted vote among each row's k nearest in the bank, int64 [B]; -1 for none.

    features: [B, D]. bank: [N, D]. bank_labels: integers [N] below `classes`. Ties, and rows without an answer: see
    above, and `neighbours`, which counts them. Memory is bounded by 1,024 queries at a time. Raises ValueError for k
    outside [1, N], temperature <= 0, shapes that disagree.
    """
    return neighbours(features, bank, bank_labels, classes, k, temperature).classes


def neighbours(
    features: Tensor, bank: Tensor, bank_labels: Tensor, classes: int, k: int = 200, temperature: float = 0.1
) -> Neighbours:
    """As `knn_predict`, and which answers are ties or missing. k: fewer where the bank has fewer rows with a direction.

    Raises ValueError likewise.
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
    units, alive = _units(bank)
    labels = bank_labels.long()
    if lost := int((~alive).sum()):
        units, labels = units[alive], labels[alive]
    k, close = min(k, len(units)), math.exp(-SAME / temperature)
    answers, ties = [torch.empty(0, dtype=torch.long)], [torch.empty(0, dtype=torch.bool)]
    queries, living = _units(features)
    for rows in queries.split(QUERIES_AT_ONCE) if k else ():
        found, nearest, split = _nearest(rows @ units.T, labels, k)
        votes = found.new_zeros(len(rows), classes, dtype=torch.float64)
        votes.scatter_add_(1, labels[nearest], ((found - found.amax(dim=1, keepdim=True)).double() / temperature).exp())
        best = votes >= close * votes.amax(dim=1, keepdim=True)
        answers.append(best.float().argmax(dim=1))
        ties.append((best.sum(dim=1) > 1) | split)
    if not k:
        answers, living = [torch.full((len(queries),), -1, device=queries.device)], torch.zeros_like(living)
        ties = [torch.zeros_like(living)]
    said, tied = (torch.cat([each.to(queries.device) for each in parts]) for parts in (answers, ties))
    return Neighbours(said.masked_fill(~living, -1), tied & living, ~living, lost)


def _units(rows: Tensor) -> tuple[Tensor, Tensor]:
    """Rows [N, D] at length 1, however small or large they were, and which have a direction; the others are 0."""
    largest = rows.abs().amax(dim=1, keepdim=True)
    alive = rows.isfinite().all(dim=1) & (largest[:, 0] > 0)
    units = (rows / largest).masked_fill_(~alive[:, None], 0)
    return units.div_(units.norm(dim=1, keepdim=True).clamp_min(0.5)), alive


def _nearest(cosines: Tensor, labels: Tensor, k: int) -> tuple[Tensor, Tensor, Tensor]:
    """The k largest cosines of [B, N] and where they are, [B, k]; and where a tie among unlike classes was cut, [B]."""
    found, nearest = cosines.topk(min(k + 1, len(labels)), dim=1)
    last = found[:, k - 1 : k].clone()
    crowded = (found[:, k:] >= last - SAME).any(dim=1)  # one more is as near
    found, nearest = found[:, :k], nearest[:, :k]
    cut = torch.zeros_like(crowded)
    for at in crowded.nonzero()[:, 0].split(CROWDED_AT_ONCE):
        near = cosines[at]
        sure, equal = near > last[at] + SAME, (near - last[at]).abs() <= SAME
        room = k - sure.sum(dim=1, keepdim=True)
        taken = sure | (equal & (equal.cumsum(dim=1, dtype=torch.int32) <= room))
        nearest[at] = taken.nonzero()[:, 1].view(len(at), k)
        found[at] = near.gather(1, nearest[at])
        kinds = labels.expand_as(near)
        low, high = kinds.masked_fill(~equal, labels.max()).amin(dim=1), kinds.masked_fill(~equal, 0).amax(dim=1)
        cut[at] = low != high
    return found, nearest, cut


@dataclass(frozen=True)
class Knn:
    """Weighted k-nearest-neighbour accuracy of the backbone's features, with the training images as the bank.

    Where there are fewer training images with labels than k, all are asked, and `k` is told. A note counts, if there
    are any, answers that a rule decided, and images whose features are 0 or not finite, which count as wrong.
    """

    k: int = 200
    temperature: float = 0.1

    def __post_init__(self) -> None:
        check_whole("k", self.k)
        check_temperature(self.temperature)

    def check(self, splits: Splits) -> None:
        """Raises DataError where no training image has a label."""
        check_labelled(splits)

    def measure(self, features: Features, split: str) -> Report:
        """The accuracy, and what had to be decided for it."""
        queries, bank = features.of(split), features.of("train")
        count, known = len(queries.labels), len(bank.labels)
        k = min(self.k, known)
        found = neighbours(queries.features, bank.features, bank.labels, features.classes, k, self.temperature)
        ties, dead = int(found.tied.sum()), int(found.dead.sum())
        told = {
            f"knn asks k={k} neighbours, not {self.k}: no more training images have a label": k < self.k,
            f"{ties:,} of {count:,} answers are ties, where the class that comes first is taken": ties,
            f"{dead:,} of {count:,} images have no neighbours, for their features are 0 or not finite: wrong": dead,
            f"{found.lost:,} of {known:,} training images are nobody's neighbours, likewise": found.lost,
        }
        right = {"": 100 * int((found.classes == queries.labels).sum()) / count}
        asked = {"k": float(k)} if k < self.k else {}
        return Report(right | asked, note="; ".join(line for line, true in told.items() if true))
