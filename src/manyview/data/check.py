"""A data set looked through before a long run: what cannot be read or is there twice, odd labels, sizes."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any, final

import numpy as np

from manyview.data.decode import BadImage
from manyview.data.images import Images
from manyview.data.loader import load
from manyview.data.reading import PATIENCE, watched
from manyview.data.splits import RawSplits
from manyview.errors import shown
from manyview.foundation.words import counted

TOGETHER = 64  # images that a process looks at in one go
NAMED = 10  # that a message names of a kind; --json has all
SPLITS = ("train", "val", "test")
Watch = Callable[[int, int], None]


@final
@dataclass(frozen=True)
class Finding:
    """Something that may be wrong. kind: unreadable, duplicate, two labels, …; images: the names it is about."""

    kind: str
    told: str
    images: tuple[str, ...] = ()


@final
@dataclass(frozen=True)
class Checked:
    """What was found. sizes: smallest, median and largest height and width of a split, in pixels."""

    images: dict[str, int]
    classes: int
    findings: list[Finding]
    sizes: dict[str, dict[str, list[int]]]

    def as_json(self) -> dict[str, Any]:
        """For a program."""
        return {**asdict(self), "ok": not self.findings}


@dataclass(frozen=True)
class _Look:
    """Part number n: the n-th `TOGETHER` images: (digest of pixels, height, width), or why one cannot be read."""

    images: Images
    skip: bool = True  # for one that ends or keeps its worker to be a finding, see `loader.load`

    def __len__(self) -> int:
        return -(-len(self.images) // TOGETHER)

    def __getitem__(self, number: int) -> list[tuple[bytes, int, int] | str]:
        positions = range(number * TOGETHER, min((number + 1) * TOGETHER, len(self.images)))
        return [self._one(position) for position in positions]

    def _one(self, position: int) -> tuple[bytes, int, int] | str:
        try:
            image = watched(self.images, position, 1)
        except BadImage as error:
            return str(error)
        digest = hashlib.blake2b(f"{image.dtype} {[*image.shape]}".encode(), digest_size=16)
        digest.update(image.contiguous().numpy().tobytes())
        return digest.digest(), image.shape[-2], image.shape[-1]


def check_source(
    raw: RawSplits, workers: int = 0, watch: Watch = lambda done, total: None, patience: float = PATIENCE
) -> Checked:
    """Looks at every image of a source. watch: told how many images are done, of how many.

    patience: seconds that a worker may be at one, which is unreadable then, as is one at which two have died.
    """
    splits = {name: images for name in SPLITS if (images := getattr(raw, name)) is not None}
    total, before = sum(map(len, splits.values())), 0
    findings: list[Finding] = []
    digests, sizes = {}, {}
    for name, images in splits.items():
        seen, unread = np.zeros(len(images), "V16"), {}
        sides = np.zeros((len(images), 2), np.int32)
        look = _Look(images)
        for number, part in enumerate(load(look, 0, len(look), workers, patience=patience)):
            for position, found in enumerate(part, number * TOGETHER):
                if isinstance(found, str):
                    unread[position] = found
                else:
                    seen[position], sides[position] = np.void(found[0]), found[1:]
            watch(before + min((number + 1) * TOGETHER, len(images)), total)
        before += len(images)
        findings += [Finding("unreadable", line, (images.name(at),)) for at, line in unread.items()]
        read = np.flatnonzero(sides[:, 0])
        digests[name] = read, seen[read]
        if len(read):
            ends = np.sort(sides[read], axis=0)[[0, len(read) // 2, -1]]
            sizes[name] = {"height": ends[:, 0].tolist(), "width": ends[:, 1].tolist()}
    findings += _twice(splits, digests)
    findings += [each for name, images in splits.items() for each in _odd_labels(name, images, raw.classes)]
    return Checked({name: len(images) for name, images in splits.items()}, len(raw.classes), findings, sizes)


def _twice(splits: Mapping[str, Images], digests: Mapping[str, tuple[Any, Any]]) -> Iterator[Finding]:
    """Images with the very pixels of another, and whether these have one label; a finding for each group."""
    if not digests:
        return
    names = list(digests)
    split = np.repeat(np.arange(len(names)), [len(read) for read, _ in digests.values()])
    position, digest = (np.concatenate(each) for each in zip(*digests.values(), strict=True))
    words = digest.view(np.uint64).reshape(-1, 2)
    order = np.lexsort((position, split, words[:, 1], words[:, 0]))
    same = (words[order[1:]] == words[order[:-1]]).all(axis=1)
    groups = np.split(order, np.flatnonzero(~same) + 1) if same.any() else []
    for group in groups:
        if len(group) < 2:
            continue
        keys = [(names[split[at]], int(position[at])) for at in group]
        told = [f"{name} {shown(splits[name].name(at))}" for name, at in keys]
        within = len({name for name, _ in keys}) == 1
        where = f"within {keys[0][0]}" if within else f"in {' and '.join(dict.fromkeys(name for name, _ in keys))}"
        yield Finding("duplicate", f"the same picture {where}: {_some(told)}", tuple(told))
        labels = [int(splits[name].labels[at]) for name, at in keys]
        if len({*labels} - {-1}) > 1:
            labelled = [f"{each} is {label}" for each, label in zip(told, labels, strict=True)]
            yield Finding("two labels", f"one picture with several labels: {_some(labelled)}", tuple(told))


def _odd_labels(name: str, images: Images, classes: tuple[str, ...]) -> Iterator[Finding]:
    """Labels that name no class, and classes that a split has no image of, or one."""
    labels = images.labels
    for at in np.flatnonzero((labels < -1) | (labels >= len(classes))).tolist():
        image = images.name(at)
        told = f"{name} {shown(image)}: label {labels[at]} is none of the {counted(len(classes), 'class')}, nor -1"
        yield Finding("label out of range", told, (image,))
    known = labels[(labels >= 0) & (labels < len(classes))]
    if not len(known):
        return
    counts = np.bincount(known, minlength=len(classes))
    for kind, count in (("empty class", 0), ("class of one image", 1)):
        few = [classes[number] for number in np.flatnonzero(counts == count)]
        if few and not (kind == "class of one image" and name != "train"):
            what = "no image" if count == 0 else "one image alone"
            yield Finding(
                kind, f"{name} has {what} of {counted(len(few), 'class')}: {_some([*map(shown, few)])}", (*few,)
            )


def _some(told: list[str]) -> str:
    more = f", and {len(told) - NAMED:,} more" if len(told) > NAMED else ""
    return f"{', '.join(told[:NAMED])}{more}"


def as_lines(checked: Checked) -> Iterator[str]:
    """For a person: of each kind how many, and some of them; then sizes."""
    kinds = dict.fromkeys(finding.kind for finding in checked.findings)
    for kind in kinds:
        found = [finding.told for finding in checked.findings if finding.kind == kind]
        yield f"{kind}: {len(found):,}"
        yield from (f"  {line}" for line in found[:NAMED])
        if len(found) > NAMED:
            yield f"  and {len(found) - NAMED:,} more; --json names all"
    for name, sides in checked.sizes.items():
        ends = [f"{side} {low}" if low == high else f"{side} {low} to {high}, median {middle}"
                for side, (low, middle, high) in sides.items()]  # fmt: skip
        yield f"{name}: {counted(checked.images[name], 'image')}, {'; '.join(ends)} pixels"
    counts = counted(sum(checked.images.values()), "image")
    yield f"{counts}, {counted(checked.classes, 'class')}: " + (
        f"{counted(len(checked.findings), 'finding')}" if checked.findings else "nothing odd"
    )


__all__ = ["Checked", "Finding", "as_lines", "check_source"]
