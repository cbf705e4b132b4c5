"""Transfer: frozen features judged on other data sets, each with the measure that is usual for it."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from typing import TYPE_CHECKING

from manyview.data.huggingface import parquet_splits
from manyview.data.sources import open_splits
from manyview.errors import DataError, ManyviewError
from manyview.evaluate.on_one_set import Measure, parse_protocol
from manyview.evaluate.report import Cell, Report, Table
from manyview.foundation.files import at_home
from manyview.foundation.grammar import parse_call
from manyview.foundation.vocabulary import NONE, Words
from manyview.recipe.settings import Data
from manyview.views.ops.op import check_kind

if TYPE_CHECKING:
    from manyview.data import Splits
    from manyview.evaluate.features import Features

SETS: Mapping[str, tuple[str, str]] = {
    "cifar10": ("cifar10", "top1"),
    "cifar100": ("cifar100", "top1"),
    "food101": ("food101", "top1"),
    "mit67": ("folder", "top1"),
    "pets": ("torchvision('OxfordIIITPet')", "class_mean"),
    "flowers": ("torchvision('Flowers102')", "class_mean"),
    "caltech101": ("folder", "class_mean"),
    "cars": ("torchvision('StanfordCars')", "top1"),
    "aircraft": ("torchvision('FGVCAircraft')", "class_mean"),
    "dtd": ("torchvision('DTD')", "top1"),
    "sun397": ("folder", "top1"),
    "stl10": ("stl10", "top1"),
}
"""Name -> (source, measure); the first eleven are those of AugSelf (Lee et al., NeurIPS 2021), with the measures of
Kornblith et al. (CVPR 2019): of Aircraft, Pets, Caltech101 and Flowers the mean over classes."""


@dataclass(frozen=True)
class Transfer:
    """A protocol on other data sets: a table, and the mean over them.

    root: a folder; each set lies in a folder of its own name in it. sets: names; the eleven of AugSelf (cifar10,
    cifar100, food101, mit67, pets, flowers, caltech101, cars, aircraft, dtd, sun397) and stl10 are read as what they
    are (mit67, caltech101 and sun397 as folders of classes), any other as a folder of classes or of parquet files. by:
    the protocol, `linear`, or any other; one with a `metric` takes each set's own (the mean of classes for aircraft,
    pets, flowers and caltech101) unless the call names one. A set without test images is judged on val, shown as
    `NAME_val`, and left out of a mean over test. Nothing is downloaded unless `download=True`.
    """

    root: str
    sets: tuple[str, ...] = tuple(list(SETS)[:11])
    by: str = "linear"
    download: bool = False
    words: Words = field(default=NONE, repr=False, compare=False, kw_only=True)

    def __post_init__(self) -> None:
        check_kind("root", self.root, str, "a folder, in quotes")
        check_kind("download", self.download, bool, "True or False")
        object.__setattr__(self, "sets", (self.sets,) if isinstance(self.sets, str) else tuple(self.sets))
        if not self.sets or not all(isinstance(name, str) and name for name in self.sets):
            raise ValueError(f"sets must be names, as in sets=('pets', 'dtd'), got {self.sets!r}")
        folders = [os.path.normpath(name) for name in self.sets]
        if twice := [name for name, count in Counter(folders).items() if count > 1]:
            raise ValueError(f"sets names {twice[0]!r} twice, which would count twice in the mean; name it once")
        if parse_call(self.by, "transfer: by").name == "transfer":
            raise ValueError("by must be another protocol than transfer, such as by='linear'")
        self._by()

    def check(self, splits: Splits) -> None:
        """Raises DataError for a folder that is not there; the run's own data are not looked at."""
        root = at_home(self.root)
        missing = [] if self.download else [name for name in self.sets if not (root / name).is_dir()]
        if missing:
            raise DataError(
                f"transfer: no folder {root / missing[0]}; each set lies in a folder of its own name under root: "
                f"torchvision's files, class folders in train/ and test/, or train and test .parquet files. Nothing is "
                f"downloaded unless download=True"
            )

    def measure(self, features: Features, split: str) -> Report:
        """The mean of the sets' main measures, and each by its name."""
        rows: list[tuple[Cell, ...]] = []
        measures: dict[str, float] = {}
        counted: list[float] = []
        notes: list[str] = []
        for name in self.sets:
            try:
                splits, protocol = self._opened(name, features.seed), self._protocol(name)
                judged = "test" if splits.test is not None and split == "test" else "val"
                protocol.check(splits)
                found = protocol.measure(features.on(splits), judged)
            except ManyviewError as error:
                raise type(error)(f"transfer to {name}: {error}") from None
            if "" not in found.measures:
                raise DataError(f"transfer: {self.by} has no main measure to compare sets by")
            value = found.measures[""]
            measures[name if judged == split else f"{name}_{judged}"] = value
            counted += [value] if judged == split else []
            rows.append((name, judged, len(splits.train), getattr(protocol, "metric", self.by), value))
            notes += [f"{name}: {found.note}"] if found.note else []
        if others := [str(row[0]) for row in rows if row[1] != split]:
            notes.append(f"no {split} images in {', '.join(others)}: judged on val, and not part of the mean")
        if not counted:
            raise DataError(f"transfer: none of the sets has {split} images; ask for --split val")
        table = Table(("set", "split", "training images", "measure", "value"), tuple(rows))
        return Report({"": sum(counted) / len(counted), **measures}, {"transfer": table}, note="; ".join(notes))

    def _by(self) -> Measure:
        return parse_protocol(self.by, "transfer: by", words=self.words)

    def _protocol(self, name: str) -> Measure:
        protocol, call = self._by(), parse_call(self.by, "transfer: by")
        settings = [each.name for each in fields(protocol)]  # type: ignore[arg-type]
        chosen = "metric" in (*settings[: len(call.args)], *call.kwargs)
        if name not in SETS or "metric" not in settings or chosen:
            return protocol
        return replace(protocol, metric=SETS[name][1])  # type: ignore[type-var]

    def _opened(self, name: str, seed: int) -> Splits:
        root = at_home(self.root) / name
        source = SETS[name][0] if name in SETS else "folder"
        if root.is_dir() and "train" in parquet_splits(root):
            source = "hf"
        said = {"source": source, "root": str(root), "download": self.download}
        return open_splits(Data.model_validate(said, context={"words": self.words}), seed)


__all__ = ["SETS", "Transfer"]
