"""Tables of the Hugging Face `datasets` library: parquet files, saved datasets, hub names."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, final

import numpy as np
from torch import Tensor

from manyview.data.decode import BadImage, Stored, decode, size_of
from manyview.data.folder import own_images
from manyview.data.images import Ints
from manyview.data.items import IMAGE_KEYS, LABEL_KEYS, numbers_of
from manyview.data.layout import listed, role_of
from manyview.data.nearby import nearby
from manyview.data.splits import RawSplits
from manyview.errors import DataError, reason, shown, unknown
from manyview.foundation.hub import no_answer

BY_NAME = "labels are names of classes, sorted"  # for the note
SAVED = ("dataset_dict.json", "state.json")  # what save_to_disk writes
_HUB_NAME = re.compile(r"\w[\w.-]*(/[\w.-]+)?")


@final
@dataclass(frozen=True, eq=False)
class TableImages:
    """Rows of a memory-mapped table whose `column` holds undecoded images (`bytes` or `path`).

    `stored`: see `decode`. home: the folder in which files that rows name must lie; None for tables that their owner
    opened.
    """

    table: Any
    column: str
    labels: Ints
    index: Ints
    split: str
    stored: Stored | None = None
    home: Path | None = None

    @property
    def size(self) -> None:
        """Unknown before decoding."""

    @property
    def channels(self) -> int:
        """Channels of each image."""
        return self.stored.channels if self.stored else 3

    def __len__(self) -> int:
        return len(self.labels)

    def read(self, position: int, scale: int = 1) -> Tensor:
        """Decode the row's image, `[C, H, W]`. Raises `BadImage`."""
        name = self.name(position)
        data = self.data(position)
        if data is None:
            raise BadImage(f"{name}: column '{self.column}' is empty")
        return decode(data, name, self.stored, scale)

    def size_of(self, position: int) -> tuple[int, int] | None:
        """(H, W) of a JPEG, from its header."""
        try:
            data = self.data(position)
        except BadImage:  # which reading tells
            return None
        return None if data is None else size_of(data)

    def data(self, position: int) -> bytes | Path | None:
        """What the row holds, undecoded: bytes, or the path of a file; None for an empty cell.

        Raises BadImage for a path that leads out of `home`: a file of tables may be a stranger's.
        """
        cell = self.table[int(position)][self.column] or {"bytes": None, "path": None}
        if cell["bytes"] is not None or cell["path"] is None:
            return cell["bytes"]
        if self.home is None:
            return Path(cell["path"])
        path = (self.home / cell["path"]).resolve()
        if not path.is_relative_to(self.home.resolve()):
            raise BadImage(f"{self.name(position)}: names {shown(cell['path'])}, a file outside of {self.home}")
        return path

    def sizes(self) -> list[str]:
        """Bytes of each row's image, at which nothing looks for it; the path of a file, where the row holds that."""
        import pyarrow.compute as pc  # comes with datasets

        sizes: list[str] = []
        for part in self.table.with_format("arrow").iter(1000):
            lengths = pc.binary_length(pc.struct_field(part[self.column], "bytes"))
            paths = pc.struct_field(part[self.column], "path")
            sizes += pc.coalesce(pc.cast(lengths, "string"), paths, "").to_pylist()
        return sizes

    def name(self, position: int) -> str:
        """The split and the row, from 0."""
        return f"{self.split} row {self.index[position]}"


def hf(
    root: Path | None,
    image: str = "image",
    label: str | None = "label",
    train: str = "train",
    val: str | None = None,
    test: str | None = "test",
    *,
    download: bool,
    stored: Stored | None = None,
) -> RawSplits:
    """Columns `image` and `label` of the splits named `train`, `val` and `test`. `stored`: see `decode`.

    `root` is one of

    - a folder with `train.parquet` or `train-00000-of-00002.parquet` …, in it or in its `data/`;
    - one parquet file, which is the training split;
    - a folder written by `save_to_disk`, of a Dataset (the training split) or a DatasetDict;
    - otherwise a name on the hub: from the local cache, or from the network with `download`.

    A split that is None is not read, which the note tells; the default "test" may be missing. Class names are those of
    a ClassLabel column; of plain integers they are "0", "1", … up to the largest of the first split that has labels. A
    gap in the column (null, NaN) and -1 mean that the image has no label; without the column, whose default "label" may
    be missing in a split, or with label=None, no image has one.
    Raises `DataError` if the library, a split or a column is missing, or a label cannot be used.
    """
    if root is None:
        raise DataError("source 'hf' needs data.root: parquet files, a folder saved by save_to_disk, or a hub name")
    found = _open(root, download)
    splits: dict[str, TableImages] = {}
    remarks = []
    classes: tuple[str, ...] = ()
    for role, split in (("train", train), ("val", val), ("test", test)):
        if split is None or (role == split == "test" and split not in found):
            continue
        if split not in found:
            raise DataError(f"{root}: {unknown('split', split, found)}")
        table = found[split]()
        column = None if label == "label" and label not in table.column_names else label
        if column != label:
            remarks.append(f"{split} has no column '{label}'")
        splits[role], names = _images(table, image, column, split, stored, classes, _home(root))
        if _by_name(table, column) and BY_NAME not in remarks:
            remarks.append(BY_NAME)
        if not classes:
            classes = names or tuple(str(c) for c in range(int(splits[role].labels.max(initial=-1)) + 1))
        elif names is not None and names != classes:
            raise DataError(f"{root}: the class names of split '{split}' are not those of split '{train}'")
    if unread := [split for split in found if split not in (train, val, test)]:
        remarks.append(f"{listed(unread)} not read")
        held = [split for split in unread if role_of(split) == "val"]
        remarks[-1] += f" (else say data.source=\"hf(val='{held[0]}')\")" if held and val is None else ""
    return RawSplits(splits["train"], splits.get("val"), splits.get("test"), classes, remark=", ".join(remarks))


def _home(root: Path) -> Path | None:
    """Where the files of a data set must lie that is in files here; one of the hub lies in its cache."""
    return root if root.is_dir() else root.parent if root.is_file() else None


def open_table(
    table: Any, split: str, stored: Stored | None, classes: Sequence[str] | None = None
) -> tuple[TableImages, tuple[str, ...] | None, str]:
    """A Dataset that is given: its images, the names of its classes where it has them, and what is to be told.

    The image is the one column of images, the label the one ClassLabel, else a column of a usual name; of several, the
    one of a usual name. classes: what labels that are texts may be, else all that occur, sorted. Raises DataError where
    that leaves a choice, and for labels that cannot be used.
    """
    datasets = _library()
    pictures = [name for name, kind in table.features.items() if isinstance(kind, datasets.Image)]
    named = [name for name, kind in table.features.items() if isinstance(kind, datasets.ClassLabel)]
    image = _chosen(pictures, IMAGE_KEYS, "images", split)
    label = _chosen(named or [key for key in LABEL_KEYS if key in table.column_names], LABEL_KEYS, "labels", split)
    images, names = _images(table, str(image), label, split, stored, classes)
    return images, names, BY_NAME if _by_name(table, label) else "" if label else f"{split} has no column of labels"


def _chosen(columns: list[str], usual: tuple[str, ...], kind: str, split: str) -> str | None:
    """The only column, or the one of a usual name; None where there is none."""
    if len(columns) < 2:
        return next(iter(columns), None)
    known = [name for name in columns if name in usual]
    if len(known) != 1:
        told = listed(columns)
        raise DataError(f"data: {split} has several columns of {kind}, {told}; keep one, {split}.select_columns([…])")
    return known[0]


def parquet_splits(root: Path) -> dict[str, list[Path]]:
    """The parquet files of each split in `root`, or else in `root/data`; none if there are none.

    Raises `DataError` if a shard is missing.
    """
    for here in (root, root / "data"):
        splits: dict[str, list[Path]] = {}
        shards: dict[str, int] = {}
        files = (path for path in here.glob("*.parquet") if path.is_file() and not path.name.startswith("."))
        for path in sorted(files):
            split, count = re.fullmatch(r"(.+?)(?:-\d+-of-(\d+))?\.parquet", path.name).groups()  # type: ignore
            splits.setdefault(split, []).append(path)
            shards[split] = int(count or 1)
        for split, paths in splits.items():
            if len(paths) != shards[split]:
                raise DataError(f"{here}: split '{split}' has {len(paths)} of {shards[split]} parquet files")
        if splits:
            return splits
    return {}


def _is_table(folder: Path) -> bool:
    return any((folder / name).is_file() for name in SAVED) or bool(parquet_splits(folder))


def _open(root: Path, download: bool) -> dict[str, Callable[[], Any]]:
    """A function for each split, which opens its table."""
    datasets = _library()
    if root.is_file():
        return {"train": partial(_read_parquet, [root])}
    if root.is_dir():
        if any((root / name).is_file() for name in SAVED):
            saved = datasets.load_from_disk(str(root))
            tables = saved if isinstance(saved, datasets.DatasetDict) else {"train": saved}
            return {split: partial(_same, table) for split, table in tables.items()}
        files = parquet_splits(root)
        if not files:
            cure = nearby(root, _is_table) or own_images(root)
            raise DataError(
                f"{root} has neither train.parquet (nor train-00000-of-…) nor a dataset of save_to_disk{cure}"
            )
        return {split: partial(_read_parquet, paths) for split, paths in files.items()}
    if not _HUB_NAME.fullmatch(root.as_posix()):
        raise DataError(f"no file or folder {root}")
    silent = no_answer(root.as_posix(), "README.md", kind="dataset") if download else None
    try:
        with _network(download and silent is None):
            tables = datasets.load_dataset(root.as_posix())
    except Exception as error:  # whatever the hub's client, the network or a reader of files raises
        hint = "" if download else "; nothing is downloaded unless data.download=true"
        if silent is not None:
            raise DataError(
                f"{root} is not in the cache and cannot be fetched ({silent}); where there is a network, "
                f"datasets.load_dataset('{root}').save_to_disk('DIR') makes a folder to bring here as data.root"
            ) from error
        raise DataError(
            f"no file or folder {root}, and no such dataset on the hub or in its cache ({reason(error)}){hint}"
        ) from error
    return {split: partial(_same, table) for split, table in tables.items()}


def _images(
    table: Any,
    image: str,
    label: str | None,
    split: str,
    stored: Stored | None,
    classes: Sequence[str] | None = None,
    home: Path | None = None,
) -> tuple[TableImages, tuple[str, ...] | None]:
    """The images of one split, and the names of its classes if the table has them."""
    datasets = _library()
    for option, column in (("image", image), ("label", label)):
        if column is not None and column not in table.column_names:
            raise DataError(f"{option}: {unknown('column', str(column), table.column_names)} (source: hf({option}=…))")
    feature = None if label is None else table.features[label]
    named = None
    if label is not None and _by_name(table, label):
        texts = table.with_format("arrow").select_columns([label])[:][label].to_pylist()
        named, values = numbers_of(texts, [f"{split} row {row}" for row in range(len(texts))], classes or None)
    else:
        values = np.full(len(table), -1) if label is None else _labels(table, label, split)
    try:
        table = table.with_format(None).select_columns([image]).cast_column(image, datasets.Image(decode=False))
    except Exception as error:  # Arrow has several ways to say that a type cannot be an image
        raise DataError(f"column '{image}' of {split} holds {table.features[image]}, not images") from error
    names = tuple(feature.names) if isinstance(feature, datasets.ClassLabel) else named
    return TableImages(table, image, values, np.arange(len(values)), split, stored, home), names


def _by_name(table: Any, label: str | None) -> bool:
    """Whether the labels are texts."""
    return label is not None and getattr(table.features.get(label), "dtype", "") in ("string", "large_string")


def _labels(table: Any, column: str, split: str) -> Ints:
    """Numbers of classes, -1 in the gaps. Raises `DataError` for what is no such number.

    Libraries that know no integer without a value write a column with gaps as floats; without gaps, floats are refused.
    """
    labels = table.with_format("arrow").select_columns([column])[:][column]
    floats = bool(re.fullmatch(r"halffloat|float|double", str(labels.type)))
    values = labels.to_numpy().astype(np.float64) if floats or labels.null_count else labels.to_numpy()
    gaps = np.isnan(values) if values.dtype == np.float64 else np.zeros(len(values), bool)
    if not re.fullmatch(r"u?int\d+|null", str(labels.type)) and not (floats and gaps.any()):
        raise DataError(f"column '{column}' of {split} holds {labels.type}, not integers; make it a ClassLabel first")
    whole = np.where(gaps, -1, values)
    wrong = np.flatnonzero(whole != np.clip(np.floor(whole), -(2**31), 2**31))
    if len(wrong):
        row = int(wrong[0])
        raise DataError(f"{split} row {row}: column '{column}' holds {whole[row]:g}, which is no number of a class")
    return whole.astype(np.int64)


def _read_parquet(paths: list[Path]) -> Any:
    datasets = _library()
    try:
        with _network(False), _quiet():  # it would report the load to the hub
            return datasets.load_dataset("parquet", data_files=[str(path) for path in paths], split="train")
    except Exception as error:  # the library wraps what Arrow raises for a broken file
        raise DataError(f"{paths[0]}: cannot be read as parquet ({reason(error.__cause__ or error)})") from error


def _same(table: Any) -> Any:
    return table


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the library's bars, which would stand before a line that refuses something."""
    from datasets.utils import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars

    shown = not are_progress_bars_disabled()
    disable_progress_bars()
    try:
        yield
    finally:
        if shown:
            enable_progress_bars()


@contextmanager
def _network(allowed: bool) -> Iterator[None]:
    """Keep the hub's client off the network, whose own switch is an environment variable read at import."""
    import datasets
    import huggingface_hub

    places: tuple[Any, ...] = (datasets.config, huggingface_hub.constants)
    before = [place.HF_HUB_OFFLINE for place in places]
    try:
        for place in places:
            place.HF_HUB_OFFLINE = place.HF_HUB_OFFLINE or not allowed
        yield
    finally:
        for place, value in zip(places, before, strict=True):
            place.HF_HUB_OFFLINE = value


def _library() -> Any:
    try:
        import datasets
    except ImportError:
        raise DataError("source 'hf' needs the datasets library: pip install 'manyview[hf]'") from None
    return datasets
