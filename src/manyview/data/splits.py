"""Which images are for training, validation and test: pure functions of labels and seed.

Every choice takes a prefix of a random order, so choices nest: with the same seed, the images of
`labels_per_class=4` are among those of `labels_per_class=10`.

The label -1 means "no label", as in torchvision's STL-10. Images without labels are for training; those with labels,
if there are any, are what a run is judged on.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from manyview.data.images import Images, Ints, Subset, labelled
from manyview.data.unlabeled import Opening, hidden
from manyview.data.unlabeled import note as note_of_unlabeled
from manyview.errors import DataError
from manyview.foundation.words import counted
from manyview.views.streams import IMAGE, UNLABELED


class Selection(Protocol):
    """How to split and thin out a source: the part of a recipe's `data` that this module reads."""

    @property
    def val_fraction(self) -> float:
        """Part of train that becomes val, if the source has no val; in [0, 1)."""

    @property
    def labels_per_class(self) -> int | None:
        """Keep this many labelled training images of each class."""

    @property
    def imbalance(self) -> float | None:
        """How many times more training images the first class keeps than the last (long tail), at least 1."""

    @property
    def limit(self) -> int | None:
        """Keep this many training images in all, with and without labels."""


class Choice(Selection, Opening, Protocol):
    """What is trained on: the labelled images, and the stream beside them."""


@dataclass(frozen=True)
class RawSplits:
    """What a source has.

    classes: none where no image has a label. carve_test: it has one set of images, from which a test split must be
    taken. remark: what a user should know of how the source was read, for the note. given: whether they were given in
    Python, and so have no place where they can be found again. unlabeled: images of another source, for that stream.
    """

    train: Images
    val: Images | None
    test: Images | None
    classes: tuple[str, ...]
    carve_test: bool = False
    remark: str = ""
    given: bool = False
    unlabeled: Images | None = None


@dataclass(frozen=True)
class Splits:
    """What a run uses; `note` says in one line how the splits were made, `given` whether they were given in Python.

    Of val and test all images have a label, or none has; of train some may. unlabeled: the stream of that name, beside
    which all images of train have a label. withheld: what its source says of them, -1 where it does not know; nothing
    is trained by it, but what is said of them can be judged.
    """

    train: Images
    val: Images | None
    test: Images | None
    classes: tuple[str, ...]
    note: str
    given: bool = False
    unlabeled: Images | None = None
    withheld: Ints | None = None

    @property
    def streams(self) -> dict[str, Images]:
        """What is trained on, by stream."""
        return {IMAGE: self.train} | ({} if self.unlabeled is None else {UNLABELED: self.unlabeled})

    @property
    def counts(self) -> dict[str, int]:
        """How many images each stream has."""
        return {stream: len(images) for stream, images in self.streams.items()}


def make_splits(raw: RawSplits, choice: Choice, seed: int) -> Splits:
    """Split and thin out a source; the images that stay keep their order and identity.

    1. If the source is one set without a test split, `val_fraction` of all images becomes test.
    2. If it has no val, `val_fraction` of all training images (those of test included) becomes val.
       Both are stratified, and take no class's last image. Only labelled images count, and only those are held out;
       where there are none, nothing is. Of a val or test that the source has, only labelled images are kept if it has
       some.
    3. Of what remains in train: `labels_per_class`, then `imbalance`, then `limit` (see `thin_out`). Where `unlabeled`
       opens a stream, images without a label are in that alone, and what step 3 leaves out may be (see `hidden`).

    Raises `DataError` for labels outside the classes, a single class, empty splits, and choices that the data cannot
    satisfy.
    """
    fraction = choice.val_fraction
    if not 0 <= fraction < 1:
        raise DataError(f"data.val_fraction is {fraction:g}; it must be at least 0 and less than 1")
    for split, images in (("train", raw.train), ("val", raw.val), ("test", raw.test)):
        if images is not None:
            _check(images, split, len(raw.classes))
    labels = raw.train.labels
    kept, bare = np.flatnonzero(labels >= 0), np.flatnonzero(labels < 0)
    present = np.unique(labels[kept])
    if len(present) == 1:
        raise DataError(
            f"train has only one class ('{raw.classes[present[0]]}'); at least two are needed, or no labels at all: "
            "folder(labels=None), hf(label=None)"
        )
    some = "labelled " if len(kept) and len(bare) else ""

    count = max(1, round(fraction * len(kept))) if fraction and len(kept) else 0
    how = f"({100 * fraction:g} % of {f'all {some}images' if raw.carve_test else f'{some}train'}, seed {seed})"
    made = {"val": _judges(raw.val), "test": _judges(raw.test)}
    notes = {"val": _left_out(raw.val, made["val"]), "test": _left_out(raw.test, made["test"])}
    for split in ("test", "val"):
        if made[split] is None and count and (split == "val" or raw.carve_test):
            rest, held = hold_out(labels[kept], count, seed, split)
            if not len(held):
                raise DataError(
                    f"no image can be held out for {split}: every class has only one; set data.val_fraction=0"
                )
            made[split], notes[split] = Subset(raw.train, kept[held]), " " + how
            kept = kept[rest]

    pool = np.sort(np.concatenate([kept, bare]))
    if choice.unlabeled is not None and not len(kept):
        raise DataError(f"data.unlabeled={choice.unlabeled}: no image of train has a label, for the stream beside it")
    kept, thinning = thin_out(labels, pool if choice.unlabeled is None else kept, raw.classes, choice, seed)
    unlabeled = None
    if choice.unlabeled is not None:
        count = len(labels) if raw.unlabeled is None else len(raw.unlabeled)
        rank = _rank(np.zeros(count, np.int64), seed, UNLABELED)
        unlabeled = hidden(raw.train, pool, kept, raw.unlabeled, choice, rank)
    train = raw.train if len(kept) == len(labels) else Subset(raw.train, kept)
    parts = [_counted(train, "train") + thinning]
    parts += [] if unlabeled is None else [note_of_unlabeled(unlabeled, choice)]
    for split in ("val", "test"):
        part = made[split]
        parts.append(f"no {split}" if part is None else _counted(part, split) + notes[split])
    note = "; ".join(filter(None, [", ".join(parts), raw.remark]))
    withheld = labels[unlabeled.positions] if unlabeled is not None and raw.unlabeled is None else None
    return Splits(train, made["val"], made["test"], raw.classes, note, raw.given, unlabeled, withheld)


def check_labels(
    splits: Splits, relations: Sequence[str], protocols: Sequence[str], judged: Sequence[str] = ("val", "test")
) -> None:
    """Raise `DataError` unless the splits have the labels that a run needs.

    relations: those that need labels, as the recipe writes them; each training image must have one. protocols:
    those that compare with labels; they need labelled images in train, and labels in the splits `judged`.
    """
    train, known = splits.train, len(labelled(splits.train))
    if relations and known < len(train):
        have = f"{len(train) - known:,} of {len(train):,} training images have none" if known else "there are none"
        raise DataError(f"relations: {relations[0]} needs labels, and {have} (data: {splits.note})")
    held = {split: images for split in judged if (images := getattr(splits, split)) is not None}
    if not protocols or not held:
        return
    for split, images in {"train": train, **held}.items():
        if not len(labelled(images)):
            raise DataError(
                f"evaluate: {protocols[0]} compares with labels, and {split} has none (data: {splits.note}); "
                f"drop the protocol, as in evaluate=[], or the split"
            )


def hold_out(labels: Ints, count: int, seed: int, purpose: str) -> tuple[Ints, Ints]:
    """Divide positions into (kept, held), each ascending: `count` are held out, stratified.

    `labels`: int64 `[N]`; images without a label, -1, are a class of their own. A class's seats among the held follow
    Sainte-Laguë's rule, so they are within about one of its share. No class gives its last image; fewer than `count`
    are held if need be.
    """
    rank, size = _rank(labels, seed, purpose), _class_sizes(labels)
    order = np.lexsort((labels, (rank + 0.5) / size, rank == size - 1))
    held = order[: min(count, len(labels) - len(np.unique(labels)))]
    return np.delete(np.arange(len(labels)), held), np.sort(held)


def thin_out(labels: Ints, kept: Ints, classes: tuple[str, ...], choice: Selection, seed: int) -> tuple[Ints, str]:
    """Thin out the training positions `kept`; returns what stays, ascending, and a remark for the note.

    Images without a label stay, but for `limit`, where they are a class of their own.

    - `labels_per_class=n`: n random images of each class.
    - `imbalance=r`: class c of C keeps `round(n_max * r ** (-c / (C - 1)))`, at least 1 and at most what
      it has, where n_max is the size of the largest class (after `val_fraction` was taken).
    - `limit=n`: n images, stratified, with at least one of each class.

    Raises `DataError` if a class, or the whole, has too few images, or if the number makes no sense.
    """
    remarks = []
    kept, bare = kept[labels[kept] >= 0], kept[labels[kept] < 0]
    for name in ("labels_per_class", "imbalance"):
        if getattr(choice, name) is not None and not len(kept):
            raise DataError(f"data.{name} is about classes, but no training image has a label; use data.limit")
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
    kept = np.sort(np.concatenate([kept, bare]))
    if choice.limit is not None:
        n, present = choice.limit, len(np.unique(labels[kept]))
        if n > len(kept):
            told = counted(len(kept), "training image") + (f" ({', '.join(remarks)})" if remarks else "")
            raise DataError(f"data.limit is {n:,}, but only {told} {'is' if len(kept) == 1 else 'are'} available")
        if n < present:
            kinds = "classes and the unlabelled together" if len(bare) else "classes"
            raise DataError(f"data.limit is {n:,}, fewer than the {present:,} {kinds}; give each at least one image")
        rank, size = _rank(labels[kept], seed, "limit"), _class_sizes(labels[kept])
        order = np.lexsort((labels[kept], (rank + 0.5) / size, rank > 0))
        kept = np.sort(kept[order[:n]])
        remarks.append(f"limit {n:,}")
    return kept, f" ({', '.join(remarks)}, seed {seed})" if remarks else ""


def _rank(labels: Ints, seed: int, purpose: str) -> Ints:
    """The place of each image in a random order of its class, int64 [N], from 0."""
    # Raw words rather than Generator.permutation: only the former are promised to stay from NumPy to NumPy.
    draws = np.random.Philox(np.random.SeedSequence([seed, *purpose.encode()])).random_raw(len(labels))
    sizes = np.unique(labels, return_counts=True)[1]
    rank = np.empty(len(labels), dtype=np.int64)
    rank[np.lexsort((draws, labels))] = np.arange(len(labels)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    return rank


def _class_sizes(labels: Ints) -> Ints:
    """How many images the class of each image has, int64 [N]."""
    _, at, sizes = np.unique(labels, return_inverse=True, return_counts=True)
    return sizes[at]


def _judges(images: Images | None) -> Images | None:
    """Of a split that judges, the labelled images, unless there are none."""
    return labelled(images) if images is not None and (images.labels >= 0).any() else images


def _left_out(images: Images | None, kept: Images | None) -> str:
    bare = 0 if images is None or kept is None else len(images) - len(kept)
    return f" ({bare:,} without a label left out)" if bare else ""


def _counted(images: Images, split: str) -> str:
    bare = int((images.labels < 0).sum())
    which = "" if not bare else " without labels" if bare == len(images) else f" of which {bare:,} without labels"
    return f"{len(images):,} {split}{which}"


def _check(images: Images, split: str, classes: int) -> None:
    if not len(images):
        raise DataError(f"split '{split}' has no images")
    wrong = np.flatnonzero((images.labels < -1) | (images.labels >= classes))
    if len(wrong):
        first = int(wrong[0])
        known = f"one of 0 to {classes - 1} ({counted(classes, 'class')}), nor " if classes else ""
        raise DataError(f"{images.name(first)}: label {images.labels[first]} is not {known}-1 (no label)")
