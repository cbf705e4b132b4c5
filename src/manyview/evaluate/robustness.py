"""Robustness to common corruptions (Hendrycks & Dietterich, ICLR 2019): made on the fly, or from a folder."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from manyview.data.corrupted import Corrupted
from manyview.errors import DataError, unknown
from manyview.evaluate.accuracy import check_labelled
from manyview.evaluate.corruptions import CORRUPTIONS, EXTRA, MAIN, Corruption, corrupt
from manyview.evaluate.corruptions.frost import textures_of
from manyview.evaluate.corruptions.severities import SIZES
from manyview.evaluate.knn import knn_predict
from manyview.evaluate.report import Cell, Report, Table
from manyview.evaluate.scores import WAYS, scores_of
from manyview.evaluate.tried_ops import some_of
from manyview.foundation.files import at_home
from manyview.foundation.words import counted
from manyview.views.ops.op import as_float, as_uint8, check_kind, check_whole

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from manyview.data import Images, Splits
    from manyview.data.images import Ints
    from manyview.evaluate.features import Features

SETS: dict[str, tuple[str, ...]] = {"main": tuple(MAIN), "extra": tuple(EXTRA), "all": tuple(CORRUPTIONS)}
NEIGHBOURS, TEMPERATURE = 200, 0.1
BATCH = 64  # a batch is corrupted in up to 95 ways before the progress bar moves
ALEXNET = dict(
    zip(
        MAIN,
        (0.886428, 0.894468, 0.922640, 0.819880, 0.826268, 0.785948, 0.798360, 0.866816,
         0.826572, 0.819324, 0.564592, 0.853204, 0.646056, 0.717840, 0.606500),
        strict=True,
    )
)  # fmt: skip
"""AlexNet's error on each corruption of ImageNet-C, mean over severities, as published with it."""
Key = tuple[str, int]
CLEAN: Key = ("clean", 0)


@dataclass(frozen=True)
class Robustness:
    """Accuracy under common corruptions, mean over corruptions of the mean over severities; `clean`, and what is left.

    corruptions: `main` (the 15), `extra` (the 4 that are for tuning), `all`, or names. The mean is over those of the
    15, as its authors' is; over those of the 4, `extra` beside it, or in its place where no others are asked for.
    images: at most so many of the split, drawn by the seed. Each is corrupted as the model looks at it, before
    normalisation, in 256 levels, by draws of its own that no batch changes. size: whose constants, 224 (ImageNet-C) or
    32 (CIFAR-10-C), by default the nearer to the side of what the model looks at. textures: a folder of the published
    photographs for `frost`, else ours are taken. Nothing is compressed, so figures are near ImageNet-C's but not its
    own.

    root: the published images instead, which are of test: a folder like CIFAR-10-C (`.npy`) or ImageNet-C (a tree,
    whole or its parts); those of the size that the model looks at are taken as they are. `relative` is the mean in
    percent of `clean`. On all of ImageNet-C's 15, `mce` is its mean corruption error, relative to AlexNet's.

    by: what classifies, `classifier`, a `linear` probe or `knn` on clean training images (200 neighbours, temperature
    0.1); `auto` is the classifier, or the probe where there is none. (Hendrycks & Dietterich, ICLR 2019.)
    """

    corruptions: str | tuple[str, ...] = "main"
    severities: tuple[int, ...] = (1, 2, 3, 4, 5)
    images: int | None = None
    root: str | None = None
    size: int | None = None
    textures: str | None = None
    by: str = "auto"

    def __post_init__(self) -> None:
        for name in ("corruptions", "severities"):
            if isinstance(getattr(self, name), list):
                object.__setattr__(self, name, tuple(getattr(self, name)))
            if not isinstance(getattr(self, name), tuple) and not (name, type(self.corruptions)) == (
                "corruptions",
                str,
            ):
                raise ValueError(f"{name} must be a list, got {getattr(self, name)!r}")
        for name in self.names:
            if name not in CORRUPTIONS:
                raise ValueError(unknown("corruption", str(name), [*SETS, *CORRUPTIONS]))
            for severity in self.severities:
                Corruption(name, severity, 32 if self.size is None else self.size)
        for given in (self.names, self.severities):
            if not given or len(set(given)) < len(given):
                raise ValueError(f"corruptions and severities are each named once, at least one, got {given!r}")
        if self.images is not None:
            check_whole("images", self.images)
        for name in ("root", "textures"):
            check_kind(name, getattr(self, name), str | None, "a folder, in quotes")
        if self.root is not None and (self.size, self.textures) != (None, None):
            raise ValueError("size and textures are for corruptions made here, not for those that lie in root")
        if self.textures is not None and "frost" not in self.names:
            raise ValueError("textures are for frost, which is not among the corruptions")
        if self.by not in (*WAYS, "knn"):
            raise ValueError(unknown("by", str(self.by), (*WAYS, "knn")))

    @property
    def names(self) -> tuple[str, ...]:
        """The corruptions."""
        if isinstance(self.corruptions, str):
            return SETS.get(self.corruptions, (self.corruptions,))
        return self.corruptions

    def check(self, splits: Splits) -> None:
        """Raises DataError for a folder that lacks what is asked for, and for images that are not RGB."""
        if self.root is not None:
            if splits.test is None:
                raise DataError(f"robustness: root holds corrupted test images, and there is no test; {splits.note}")
            Corrupted(at_home(self.root)).check(self.names, self.severities)
        if self.textures is not None:
            textures_of(self.textures, 1, 1, 1)
        if splits.train.channels != 3:
            raise DataError(f"robustness: corruptions are of RGB images; these have {splits.train.channels} channels")
        if self.by == "linear":
            check_labelled(splits)

    def measure(self, features: Features, split: str) -> Report:
        """The accuracies, in percent, and a table of them."""
        if self.root is not None and split != "test":
            raise DataError(f"robustness: root holds corrupted test images, not those of {split}; ask for --split test")
        predict, note = predictor(features, split, self.by)
        right: Counter[Key] = Counter()
        seen: Counter[Key] = Counter()
        looked = self._made(features, split) if self.root is None else self._stored(features, split, self.root)
        for key, pixels, labels in looked:
            right[key] += int((predict(pixels) == labels).sum())
            seen[key] += len(labels)
        if not seen:
            raise DataError(f"no image of '{split}' could be read")
        found = {key: 100 * right[key] / count for key, count in seen.items()}
        note = f"{counted(seen[CLEAN], 'image')}; {note}"
        if len(sets := sorted(set(seen.values()))) > 1:
            note = f"{sets[0]:,} to {sets[-1]:,} images of a kind, so means are not of the same ones; {note}"
        report = _report(found, self.names, self.severities, note)
        whole = set(MAIN) <= set(self.names) and len(self.severities) == 5 and features.classes == 1000
        if not (whole and self.root is not None and Corrupted(at_home(self.root)).tree):
            return report
        errors = [sum(100 - found[name, s] for s in self.severities) / (5 * ALEXNET[name]) for name in MAIN]
        return Report({**report.measures, "mce": fmean(errors)}, report.tables, report.draw, note)

    def _made(self, features: Features, split: str) -> Iterator[tuple[Key, Tensor, Tensor]]:
        """(which, what the model looks at, labels): every batch as it is, then in all ways."""
        images = features.images(split)
        for batch, kept in features.batches(images, chosen(features, split, images, self.images), BATCH, "robustness"):
            pixels, labels = features.model.prepare(batch), torch.from_numpy(images.labels[kept])
            yield CLEAN, pixels, labels
            size = self.size or min(SIZES, key=lambda side: abs(np.log(min(pixels.shape[-2:]) / side)))
            levels = as_uint8(pixels).cpu()
            for name in self.names:
                for severity in self.severities:
                    how = Corruption(name, severity, size, self.textures if name == "frost" else None)
                    made = corrupt(levels, how, torch.from_numpy(images.index[kept]), features.seed)
                    yield (name, severity), as_float(made.to(pixels.device)), labels

    def _stored(self, features: Features, split: str, root: str) -> Iterator[tuple[Key, Tensor, Tensor]]:
        """The same from the folder, one corruption and severity after another."""
        corrupted, model = Corrupted(at_home(root)), features.model
        looked: Sequence[int] = ()
        for key in [CLEAN, *((name, severity) for name in self.names for severity in self.severities)]:
            images = features.images(split) if key == CLEAN else corrupted.images(*key, features.splits.classes)
            where = split if key == CLEAN else f"{key[0]} {key[1]}"
            for batch, kept in features.batches(images, chosen(features, where, images, self.images), 256, where):
                if key != CLEAN and isinstance(batch, Tensor) and batch.shape[-2:] == looked:
                    pixels = as_float(batch.to(model.device))
                else:
                    pixels = model.prepare(batch)
                looked = pixels.shape[-2:] if key == CLEAN else looked
                yield key, pixels, torch.from_numpy(images.labels[kept])


def predictor(features: Features, split: str, by: str) -> tuple[Callable[[Tensor], Tensor], str]:
    """Pixels -> classes int64 [B], on the CPU; and what answers. by: see `Robustness`."""
    model = features.model
    if by != "knn":
        scores = scores_of(features, split, by)

        @torch.no_grad()
        def predict(pixels: Tensor) -> Tensor:
            return scores.read(pixels).argmax(dim=1).cpu()

        return predict, scores.note
    known = features.of("train")
    bank, labels = known.features.to(model.device), known.labels.to(model.device)
    k = min(NEIGHBOURS, len(bank))

    @torch.no_grad()
    def nearest(pixels: Tensor) -> Tensor:
        queries = model.read(pixels)["h"]
        return knn_predict(queries, bank, labels, features.classes, k, TEMPERATURE).cpu()

    return nearest, f"answers of the {k} nearest clean training images"


def chosen(features: Features, where: str, images: Images, count: int | None) -> Ints:
    """Positions of labelled images, ascending, at most `count`, drawn by the seed. Raises DataError for none at all."""
    known = np.flatnonzero(images.labels >= 0)
    if not len(known):
        raise DataError(f"'{where}' has no labelled images to evaluate; this run has {features.splits.note}")
    return some_of(known, count, features.seed)


def _report(found: Mapping[Key, float], names: Sequence[str], severities: Sequence[int], note: str) -> Report:
    """found: (corruption, severity) -> accuracy in percent, and that of CLEAN."""
    means = {name: fmean(found[name, severity] for severity in severities) for name in names}
    groups = {"mean": [name for name in names if name in MAIN], "mean of the extra": [n for n in names if n in EXTRA]}
    if not groups["mean"]:
        groups = {"mean": groups["mean of the extra"]}
    rows: list[tuple[Cell, ...]] = [(name, *(found[name, each] for each in severities), means[name]) for name in names]
    for title, group in groups.items():
        if group:
            over = (fmean(found[name, severity] for name in group) for severity in severities)
            rows.append((title, *over, fmean(means[name] for name in group)))
    clean, mean = found[CLEAN], fmean(means[name] for name in groups["mean"])
    table = Table(("corruption", *map(str, severities), "mean"), tuple(rows))
    measures = {"": mean, "clean": clean} | ({"relative": 100 * mean / clean} if clean else {})
    if extra := groups.get("mean of the extra"):
        measures["extra"] = fmean(means[name] for name in extra)
        note += f"; the mean is over {len(groups['mean'])} corruptions of the 15; those for tuning stand beside it"
    dots = {name: [found[name, severity] for severity in severities] for name in names}
    title = "Accuracy under common corruptions"
    return Report(measures, {"accuracy": table}, lambda: bars(title, clean, means, dots), note)


def bars(
    title: str, clean: float, values: Mapping[str, float], dots: Mapping[str, Sequence[float]] | None = None
) -> Figure:
    """Accuracies in percent as bars, `clean` as a line. dots: severities, marked along each bar from pale to dark."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 1.3 + 0.3 * len(values)), layout="constrained")
    axes = figure.subplots()
    rows = range(len(values))
    axes.barh(rows, list(values.values()), color="#9db8d2", height=0.65, label="mean" if dots else None)
    for row, name in enumerate(values):
        for place, value in enumerate(each := (dots or {}).get(name, ())):
            axes.plot(value, row, "o", color="#1f3a5f", alpha=(place + 1) / len(each), markersize=4)
    axes.axvline(clean, color="#c0392b", linewidth=1.2, label=f"clean, {clean:.1f} %")
    axes.set_yticks(rows, [name.replace("_", " ") for name in values])
    axes.invert_yaxis()
    axes.set_xlim(0, 100)
    axes.set_xlabel("accuracy, %" + ("; dots: severities, the darker the stronger" if dots else ""))
    axes.set_title(title)
    figure.legend(*axes.get_legend_handles_labels(), loc="outside lower center", ncols=2, frameon=False)
    axes.spines[["top", "right"]].set_visible(False)
    return figure
