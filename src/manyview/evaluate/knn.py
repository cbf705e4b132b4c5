"""Weighted k-nearest-neighbour classification of frozen features (Wu et al., CVPR 2018, section 3.4).

The vote of a neighbour is exp(cosine / T), here relative to the nearest so that no T overflows. k = 200 and T = 0.1
are the usual settings at CIFAR scale.

Ties are decided by a rule, not by the order of a sum: cosines that float32 cannot tell apart are equal, of equal ones
the row that comes first in the bank is the nearer, and of classes with equal votes the first is the answer. A row of
zeros has no direction, nor one that is not finite: such a query has no answer, and such a row is nobody's neighbour.

Queries and bank are read by the block, from memory or from a file (see `rows`), and computed with where a device is
named. Blocks have one size wherever they lie, so their cosines are the same bits.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from manyview.evaluate.accuracy import check_labelled
from manyview.evaluate.report import Report
from manyview.evaluate.rows import Rows, rows_of, spans
from manyview.relations.precision import check_temperature
from manyview.relations.reading import check_labels
from manyview.views.ops.op import check_whole

if TYPE_CHECKING:
    from manyview.data import Splits
    from manyview.evaluate.features import Features

QUERIES_AT_ONCE, BANK_AT_ONCE = 1024, 16384
GROUP = 8
"""Blocks of queries that a pass over the bank serves."""
SPARE = 64
"""Places beyond the k that are looked at, at least 1: a tie of so many needs no second pass."""
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
    features: Tensor | Rows,
    bank: Tensor | Rows,
    bank_labels: Tensor,
    classes: int,
    k: int = 200,
    temperature: float = 0.1,
) -> Tensor:
    """The class with the largest weighted vote among each row's k nearest in the bank, int64 [B]; -1 for none.

    features: [B, D]. bank: [N, D]. bank_labels: integers [N] below `classes`. Ties, and rows without an answer: see
    above, and `neighbours`, which counts them. Memory is bounded by 8,192 queries and 16,384 rows of the bank at a
    time. Raises ValueError for k outside [1, N], temperature <= 0, shapes that disagree.
    """
    return neighbours(features, bank, bank_labels, classes, k, temperature).classes


def neighbours(
    features: Tensor | Rows,
    bank: Tensor | Rows,
    bank_labels: Tensor,
    classes: int,
    k: int = 200,
    temperature: float = 0.1,
    *,
    device: torch.device | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Neighbours:
    """As `knn_predict`, and which answers are ties or missing. k: fewer where the bank has fewer rows with a direction.

    device: where to compute, by default where the features are, as the answers. progress: told how many queries of all
    are done. Raises ValueError likewise.
    """
    queries, known = rows_of(features), rows_of(bank)
    if queries.ndim != 2 or known.ndim != 2 or queries.shape[1] != known.shape[1]:
        raise ValueError(f"expected features [B, D] and bank [N, D], got {queries.shape} and {known.shape}")
    if len(bank_labels) != len(known):
        raise ValueError(f"the bank has {len(known)} rows and {len(bank_labels)} labels")
    if not 1 <= k <= len(known):
        raise ValueError(f"k must be between 1 and the bank's {len(known)} rows, got {k}")
    check_labels(bank_labels, classes)
    check_temperature(temperature)
    search = _Search(known, bank_labels.long(), classes, k, temperature, device or queries.device)
    found = [search.answers(queries[span]) for span in _told(spans(len(queries), GROUP * QUERIES_AT_ONCE), progress)]
    none = torch.empty(0, dtype=torch.long, device=queries.device), *[queries[:0][:, 0].bool()] * 2
    said, tied, living = (torch.cat(parts).to(queries.device) for parts in zip(none, *found, strict=True))
    return Neighbours(said.masked_fill(~living, -1), tied & living, ~living, search.lost)


def _told(spans: list[slice], progress: Callable[[int, int], None] | None) -> Iterator[slice]:
    """The spans, telling how many rows of all are done."""
    for span in spans:
        yield span
        if progress is not None:
            progress(span.stop, spans[-1].stop)


class _Search:
    """The nearest of a bank, of which a block at a time lies on the device. lost: rows of it without a direction."""

    def __init__(
        self, bank: Rows, labels: Tensor, classes: int, k: int, temperature: float, device: torch.device
    ) -> None:
        self.bank, self.classes, self.k, self.temperature, self.device = bank, classes, k, temperature, device
        self.labels, self.lost = labels.to(device), 0

    def answers(self, features: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Classes [B], which of them a rule decided, and which rows have a direction."""
        units, living = _units(features.to(self.device))
        best = [_Best(len(rows), self.k + SPARE, self.device) for rows in units.split(QUERIES_AT_ONCE)]
        for first, block, dead in self._blocks():
            for each, rows in zip(best, units.split(QUERIES_AT_ONCE), strict=True):
                each.add(_cosines(rows, block, dead), first)
        k = min(self.k, len(self.bank) - self.lost)
        if not k:
            nobody = torch.zeros_like(living)
            return torch.full((len(units),), -1, device=self.device), nobody, nobody
        answers, ties = [], []
        for each, rows in zip(best, units.split(QUERIES_AT_ONCE), strict=True):
            answer, tie = self._vote(*self._nearest(each, rows, k))
            answers.append(answer)
            ties.append(tie)
        return torch.cat(answers), torch.cat(ties), living

    def _blocks(self) -> Iterator[tuple[int, Tensor, Tensor]]:
        """All of the bank: the first row's place, rows at length 1, and which have no direction."""
        self.lost = 0
        for span in spans(len(self.bank), BANK_AT_ONCE):
            block, alive = _units(self.bank[span].to(self.device))
            self.lost += int((~alive).sum())
            yield span.start, block, ~alive

    def _nearest(self, best: _Best, rows: Tensor, k: int) -> tuple[Tensor, Tensor, Tensor]:
        """The k largest cosines of each row and where they are, [B, k]; where a tie of unlike classes was cut, [B]."""
        found, nearest = best.found[:, :k].clone(), best.places[:, :k].clone()
        last, cut = found[:, -1:], torch.zeros(len(found), dtype=torch.bool, device=self.device)
        crowded = (best.found[:, k:] >= last - SAME).any(dim=1)  # one more is as near
        near = crowded & (best.found[:, -1] < last[:, 0] - SAME)  # and all that are lie among those kept
        near |= crowded & (best.found.shape[1] >= len(self.bank))
        for some, pieces in ((near, None), (crowded & ~near, self._blocks)):
            at = some.nonzero()[:, 0]
            if not len(at):
                continue
            tie = _Tie(last[at], k)
            if pieces is None:
                places, order = best.places[at].sort(dim=1)
                tie.add(best.found[at].gather(1, order), places, self.labels)
            else:
                for first, block, dead in pieces():
                    cosines = _cosines(rows, block, dead)[at]  # all rows at once, as before: the same bits
                    places = first + torch.arange(len(block), device=self.device)
                    tie.add(cosines, places.expand_as(cosines), self.labels)
            found[at], nearest[at], cut[at] = tie.found, tie.places, tie.unlike
        return found, nearest, cut

    def _vote(self, found: Tensor, nearest: Tensor, split: Tensor) -> tuple[Tensor, Tensor]:
        """The class of each row, and whether a rule decided."""
        weights = ((found - found.amax(dim=1, keepdim=True)).double() / self.temperature).exp()
        votes = weights.new_zeros(len(found), self.classes).scatter_add_(1, self.labels[nearest], weights)
        best = votes >= math.exp(-SAME / self.temperature) * votes.amax(dim=1, keepdim=True)
        return best.float().argmax(dim=1), (best.sum(dim=1) > 1) | split


class _Best:
    """The largest cosines of rows so far, [B, at most `room`], in falling order, and their places in the bank."""

    def __init__(self, rows: int, room: int, device: torch.device) -> None:
        self.room, self.found = room, torch.empty(rows, 0, device=device)
        self.places = torch.empty(rows, 0, dtype=torch.long, device=device)

    def add(self, cosines: Tensor, first: int) -> None:
        """Those [B, n] of the rows of the bank from `first` on."""
        found, places = cosines.topk(min(self.room, cosines.shape[1]), dim=1)
        found, places = torch.cat([self.found, found], dim=1), torch.cat([self.places, first + places], dim=1)
        self.found, order = found.topk(min(self.room, found.shape[1]), dim=1)
        self.places = places.gather(1, order)


class _Tie:
    """The k neighbours of rows of which more are as near as the last: those that come first in the bank.

    found, places: [B, k], in the bank's order. unlike: bool [B], whether those as near as the last differ in class.
    """

    def __init__(self, last: Tensor, k: int) -> None:
        self._last, self._k = last, k
        self._low = self._high = torch.empty(0)
        self.found, self.places = last[:, :0], torch.empty(len(last), 0, dtype=torch.long, device=last.device)
        self._begun = False

    @property
    def unlike(self) -> Tensor:
        """Whether a rule had to choose among classes."""
        return self._low != self._high

    def add(self, cosines: Tensor, places: Tensor, labels: Tensor) -> None:
        """Some [B, n] of the bank, which come after all that were added before."""
        equal, kinds = (cosines - self._last).abs() <= SAME, labels[places]
        low = kinds.masked_fill(~equal, labels.max()).amin(dim=1)
        high = kinds.masked_fill(~equal, 0).amax(dim=1)
        self._low = torch.minimum(self._low, low) if self._begun else low
        self._high = torch.maximum(self._high, high) if self._begun else high
        self._begun = True
        found, order = torch.cat([self.found, cosines], dim=1), torch.cat([self.places, places], dim=1)
        rank = 1 - ((found - self._last) > SAME).int() + ((self._last - found) > SAME).int()  # nearer, as near, farther
        first = rank.sort(dim=1, stable=True).indices[:, : self._k]
        first = first.gather(1, order.gather(1, first).argsort(dim=1))
        self.found, self.places = found.gather(1, first), order.gather(1, first)


def _cosines(rows: Tensor, block: Tensor, dead: Tensor) -> Tensor:
    """[B, n]; with rows that have no direction it is below all."""
    return (rows @ block.T).masked_fill_(dead, -math.inf)


def _units(rows: Tensor) -> tuple[Tensor, Tensor]:
    """Rows [N, D] at length 1, however small or large they were, and which have a direction; the others are 0."""
    largest = rows.abs().amax(dim=1, keepdim=True)
    alive = rows.isfinite().all(dim=1) & (largest[:, 0] > 0)
    units = (rows / largest).masked_fill_(~alive[:, None], 0)
    return units.div_(units.norm(dim=1, keepdim=True).clamp_min(0.5)), alive


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
        with features.watch("knn", count, "queries") as tick:
            found = neighbours(
                *(queries.rows, bank.rows, bank.labels, features.classes, k, self.temperature),
                device=features.model.device,
                progress=tick,
            )
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
