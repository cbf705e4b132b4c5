"""Which images are for training, validation and test: pure functions of labels and seed.

Every choice takes a prefix of a random order, so choices nest: with the same seed, the images of
`labels_per_class=4` are among those of `labels_per_class=10`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np

from manyview.data.images import Images, Ints, Subset
from manyview.errors import DataError


class Selection(Protocol):
    """How to split and thin out a source: the part of a recipe's `data` that this module reads."""

    @property
    def val_fraction(self) -> float:
        """Part of train that becomes val, if the source has no val; in [0, 1)."""

    @property
    def labels_per_class(self) -> int | None:
        """Keep this many training images of each class."""

    @property
    def imbalance(self) -> float | None:
        """How many times more training images the first class keeps than the last (long tail), at least 1."""

    @property
    def limit(self) -> int | None:
        """Keep this many training images in all."""


@dataclass(frozen=True)
class RawSplits:
    """What a source has. `carve_test`: it has one set of images, from which a test split must be taken."""

    train: Images
    val: Images | None
    test: Images | None
    classes: tuple[str, ...]
    carve_test: bool = False


@dataclass(frozen=True)
class Splits:
    """What a run uses; `note` says in one line how the splits were made."""

    train: Images
    val: Images | None
    test: Images | None
    classes: tuple[str, ...]
    note: str


def make_splits(raw: RawSplits, choice: Selection, seed: int) -> Splits:
    """Split and thin out a source; the images that stay keep their order and identity.

    1. If the source is one set without a test split, `val_fraction` of all images becomes test.
    2. If it has no val, `val_fraction` of all training images (those of test included) becomes val.
       Both are stratified, and take no class's last image.
    3. Of what remains in train: `labels_per_class`, then `imbalance`, then `limit` (see `thin_out`).

    Raises `DataError` for labels outside the classes, fewer than two classes, empty splits, and choices
    that the data cannot satisfy.
    """
    fraction = choice.val_fraction
    if not 0 <= fraction < 1:
        raise DataError(f"data.val_fraction is {fraction:g}; it must be at least 0 and less than 1")
    for split, images in (("train", raw.train), ("val", raw.val), ("test", raw.test)):
        if images is not None:
            _check(images, split, len(raw.classes))
    present = np.unique(raw.train.labels)
    if len(present) < 2:
        raise DataError(f"train has only one class ('{raw.classes[present[0]]}'); at least two are needed")

    labels, kept = raw.train.labels, np.arange(len(raw.train))
    count = max(1, round(fraction * len(labels))) if fraction else 0
    how = f"({100 * fraction:g} % of {'all images' if raw.carve_test else 'train'}, seed {seed})"
    notes, made = {"val": "", "test": ""}, {"val": raw.val, "test": raw.test}
    for split in ("test", "val"):
        if made[split] is None and count and (split == "val" or raw.carve_test):
            rest, held = hold_out(labels[kept], count, seed, split)
            if not len(held):
                raise DataError(
                    f"no image can be held out for {split}: every class has only one; set data.val_fraction=0"
                )
            made[split], notes[split] = Subset(raw.train, kept[held]), " " + how
            kept = kept[rest]

    kept, thinning = thin_out(labels, kept, raw.classes, choice, seed)
    train = raw.train if len(kept) == len(labels) else Subset(raw.train, kept)
    parts = [f"{len(train):,} train{thinning}"]
    for split in ("val", "test"):
        part = made[split]
        parts.append(f"no {split}" if part is None else f"{len(part):,} {split}{notes[split]}")
    return Splits(train, made["val"], made["test"], raw.classes, ", ".join(parts))


def hold_out(labels: Ints, count: int, seed: int, purpose: str) -> tuple[Ints, Ints]:
    """Divide positions into (kept, held), each ascending: `count` are held out, stratified.

    `labels`: int64 `[N]`. A class's seats among the held follow Sainte-Laguë's rule, so they are
    within about one of its share. No class gives its last image; fewer than `count` are held if need be.
    """
    rank, size = _rank(labels, seed, purpose), np.bincount(labels)[labels]
    order = np.lexsort((labels, (rank + 0.5) / size, rank == size - 1))
    held = order[: min(count, len(labels) - len(np.unique(labels)))]
    return np.setdiff1d(np.arange(len(labels)), held), np.sort(held)


def thin_out(labels: Ints, kept: Ints, classes: tuple[str, ...], choice: Selection, seed: int) -> tuple[Ints, str]:
    """Thin out the training positions `kept`; returns what stays, ascending, and a remark for the note.

    - `labels_per_class=n`: n random images of each class.
    - `imbalance=r`: class c of C keeps `round(n_max * r ** (-c / (C - 1)))`, at least 1 and at most what
      it has, where n_max is the size of the largest class (after `val_fraction` was taken).
    - `limit=n`: n images, stratified, with at least one of each class.

    Raises `DataError` if a class, or the whole, has too few images, or if the number makes no sense.
    """
    remarks = []
    if choice.labels_per_class is not None:
        n, have = choice.labels_per_class, np.bincount(labels[kept], minlength=len(classes))
        if n < 1:
            raise DataError(f"data.labels_per_class is {n}; it must be at least 1")
        if have.min() < n:
            fewest = int(have.argmin())
            raise DataError(
                f"data.labels_per_class is {n:,}, but class '{classes[fewest]}' has only {have[fewest]:,} in train"
            )
        kept = kept[_rank(labels[kept], seed, "labels_per_class") < n]
        remarks.append(f"{n:,} a class")
    if choice.imbalance is not None:
        ratio, have = choice.imbalance, np.bincount(labels[kept], minlength=len(classes))
        if not 1 <= ratio < float("inf"):
            raise DataError(f"data.imbalance is {ratio:g}; it must be at least 1 (largest class : smallest class)")
        tail = ratio ** (-np.arange(len(classes)) / (len(classes) - 1))
        quota = np.maximum(1, np.round(have.max() * tail))
        kept = kept[_rank(labels[kept], seed, "imbalance") < quota[labels[kept]]]
        remarks.append(f"long tail {ratio:g}:1")
    if choice.limit is not None:
        n, present = choice.limit, len(np.unique(labels[kept]))
        if n > len(kept):
            raise DataError(f"data.limit is {n:,}, but only {len(kept):,} training images are available")
        if n < present:
            raise DataError(f"data.limit is {n:,}, fewer than the {present:,} classes; give each at least one image")
        rank, size = _rank(labels[kept], seed, "limit"), np.bincount(labels[kept])[labels[kept]]
        order = np.lexsort((labels[kept], (rank + 0.5) / size, rank > 0))
        kept = np.sort(kept[order[:n]])
        remarks.append(f"limit {n:,}")
    return kept, f" ({', '.join(remarks)}, seed {seed})" if remarks else ""


def _rank(labels: Ints, seed: int, purpose: str) -> Ints:
    """The place of each image in a random order of its class, int64 [N], from 0."""
    # Raw words rather than Generator.permutation: only the former are promised to stay from NumPy to NumPy.
    draws = np.random.Philox(np.random.SeedSequence([seed, *purpose.encode()])).random_raw(len(labels))
    sizes = np.bincount(labels)
    rank = np.empty(len(labels), dtype=np.int64)
    rank[np.lexsort((draws, labels))] = np.arange(len(labels)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    return rank


def _check(images: Images, split: str, classes: int) -> None:
    if not len(images):
        raise DataError(f"split '{split}' has no images")
    wrong = np.flatnonzero((images.labels < 0) | (images.labels >= classes))
    if len(wrong):
        first = int(wrong[0])
        raise DataError(
            f"{images.name(first)}: label {images.labels[first]} is not one of 0 to {classes - 1} ({classes} classes)"
        )
