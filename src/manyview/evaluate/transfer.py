"""Transfer: frozen features judged on other data sets, each with the measure that is usual for it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from manyview.augment.op import check_kind
from manyview.errors import DataError, ManyviewError
from manyview.evaluate.report import Cell, Report, Table
from manyview.files import at_home

if TYPE_CHECKING:
    from manyview.data import Splits
    from manyview.evaluate.features import Features
    from manyview.evaluate.protocols import Measure

SETS: Mapping[str, tuple[str, str]] = {
    "cifar10": ("cifar10", "top1"),
    "cifar100": ("cifar100", "top1"),
    "food101": ("food101", "top1"),
    "mit67": ("folder", "top1"),
    "pets": ("torchvision('OxfordIIITPet')", "class_mean"),
    "flowers": ("torchvision('Flowers102')", "class_mean"),
    "caltech101": ("folder", "class_mean"),
    "cars": ("torchvision('StanfordCars')", "top1"),
    "aircraft": ("torchvision('FGVCAircraft')", "top1"),
    "dtd": ("torchvision('DTD')", "top1"),
    "sun397": ("folder", "top1"),
    "stl10": ("stl10", "top1"),
}
"""Name -> (source, measure); the first eleven are those of AugSelf (Lee et al., NeurIPS 2021)."""


@dataclass(frozen=True)
class Transfer:
    """A protocol on other data sets: a table, and the mean over them.

    root: a folder; each set lies in a folder of its own name in it. sets: names; the eleven of AugSelf (cifar10,
    cifar100, food101, mit67, pets, flowers, caltech101, cars, aircraft, dtd, sun397) and stl10 are read as what they
    are (mit67, caltech101 and sun397 as folders of classes), any other as a folder of classes or of parquet files. by:
    the protocol, `linear`, which then takes each set's own metric (the mean of classes for pets, flowers and
    caltech101), or any other. Nothing is downloaded unless `download=True`.
    """

    root: str
    sets: tuple[str, ...] = tuple(list(SETS)[:11])
    by: str = "linear"
    download: bool = False

    def __post_init__(self) -> None:
        from manyview.evaluate.protocols import parse_protocol

        check_kind("root", self.root, str, "a folder, in quotes")
        check_kind("download", self.download, bool, "True or False")
        object.__setattr__(self, "sets", (self.sets,) if isinstance(self.sets, str) else tuple(self.sets))
        if not self.sets or not all(isinstance(name, str) and name for name in self.sets):
            raise ValueError(f"sets must be names, as in sets=('pets', 'dtd'), got {self.sets!r}")
        if isinstance(parse_protocol(self.by, "transfer: by"), Transfer):
            raise ValueError("by must be another protocol than transfer, such as by='linear'")

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
        from manyview.evaluate.evaluate import check_protocols
        from manyview.evaluate.features import Features as Extracted

        rows: list[tuple[Cell, ...]] = []
        measures = {"": 0.0}
        for name in self.sets:
            try:
                splits, protocol = self._opened(name, features.seed), self._protocol(name)
                judged = "test" if splits.test is not None and split == "test" else "val"
                check_protocols([protocol], splits)
                there = Extracted(
                    features.model,
                    splits,
                    seed=features.seed,
                    skipped=features.skipped,
                    watch=features.watch,
                    folder=features.folder,
                )
                value = protocol.measure(there, judged).measures.get("")
            except ManyviewError as error:
                raise type(error)(f"transfer to {name}: {error}") from None
            if value is None:
                raise DataError(f"transfer: {self.by} has no main measure to compare sets by")
            measures[name] = value
            rows.append((name, judged, len(splits.train), getattr(protocol, "metric", self.by), value))
        measures[""] = sum(measures.values()) / len(self.sets)
        table = Table(("set", "split", "training images", "measure", "value"), tuple(rows))
        return Report(measures, {"transfer": table})

    def _protocol(self, name: str) -> Measure:
        from manyview.evaluate.linear import Linear
        from manyview.evaluate.protocols import parse_protocol

        protocol = parse_protocol(self.by, "transfer: by")
        own = isinstance(protocol, Linear) and name in SETS
        return replace(protocol, metric=SETS[name][1]) if own else protocol  # type: ignore[type-var]

    def _opened(self, name: str, seed: int) -> Splits:
        from manyview.data import open_splits
        from manyview.data.huggingface import parquet_splits
        from manyview.recipe import Data

        root = at_home(self.root) / name
        source = SETS[name][0] if name in SETS else "folder"
        if root.is_dir() and "train" in parquet_splits(root):
            source = "hf"
        return open_splits(Data(source=source, root=str(root), download=self.download), seed)


__all__ = ["SETS", "Transfer"]
