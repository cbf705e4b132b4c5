"""From a recipe's `data: {source: …}` to splits of images."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol, get_type_hints

import torch
from pydantic import TypeAdapter, ValidationError

from manyview.data.decode import BadImage, Stored
from manyview.data.digits import digits
from manyview.data.folder import folder
from manyview.data.given import given_splits
from manyview.data.huggingface import TableImages, hf, parquet_splits
from manyview.data.images import FolderImages, Images
from manyview.data.item_images import GivenImages, Reading
from manyview.data.listed import listed
from manyview.data.nearby import nearby
from manyview.data.shards import ShardImages, shards
from manyview.data.splits import Choice, RawSplits, Splits, make_splits
from manyview.data.unlabeled import OF_TRAIN
from manyview.data.vision import vision
from manyview.errors import DataError, brief, misfit, shown, unknown
from manyview.foundation.files import at_home
from manyview.foundation.grammar import parse_call
from manyview.foundation.vocabulary import NONE, Words
from manyview.foundation.words import counted
from manyview.views.streams import UNLABELED

SOURCE, UNLABELED_SOURCE = "data.source", "data.unlabeled"  # where a recipe names one
FROM_PYTHON = "python"  # the source of images that were given
GIVE_AGAIN = (
    "must be given there again, as data=…, to manyview.train(…, resume=True), manyview.replay or "
    "manyview.judge.subject.open_subject"
)
GIVEN = ("root", "download", "stored")  # what a source is called with, beside its options
KINDS = {"str": "a string", "bool": "True or False", "int": "a whole number", "float": "a number"}
TRIED = 8  # unreadable images at the beginning of train that do not stop a run from opening its data


class Call(Protocol):
    """A parsed `name(*args, **kwargs)`."""

    @property
    def name(self) -> str:
        """The source's name."""

    @property
    def args(self) -> tuple[Any, ...]:
        """Arguments by position."""

    @property
    def kwargs(self) -> Mapping[str, Any]:
        """Arguments by name."""


class DataSpec(Choice, Reading, Protocol):
    """What a recipe says about data."""

    @property
    def words(self) -> Words:
        """Words of one's own, which the source may be."""

    @property
    def call(self) -> Call:
        """The source."""

    @property
    def root(self) -> str | None:
        """Where its files are; relative to the working directory."""

    @property
    def unlabeled_root(self) -> str | None:
        """Where the files of the unlabelled stream are, if not in `root`."""

    @property
    def download(self) -> bool:
        """Whether files may be downloaded."""

    @property
    def seed(self) -> int | None:
        """What choices of images are a function of; None for the seed of the run."""

    @property
    def test(self) -> bool:
        """Whether there is a test split."""


def open_splits(spec: DataSpec, seed: int, data: Mapping[str, Any] | None = None) -> Splits:
    """Open the source that `spec` names (see `open_raw`), then split and thin it out (see `make_splits`).

    Raises `DataError`, in one line, for whatever cannot be meant or is not there.
    """
    return splits_of(open_raw(spec, data), spec, seed)


def splits_of(raw: RawSplits, spec: DataSpec, seed: int) -> Splits:
    """What `spec` takes of a source. Without a test split it is as if the source had none, but train stays the same."""
    splits = make_splits(raw, spec, seed if spec.seed is None else spec.seed)
    return splits if spec.test else replace(splits, test=None, note=f"{splits.note}; test is left unread")


def open_raw(spec: DataSpec, data: Mapping[str, Any] | None = None) -> RawSplits:
    """What the source that `spec` names has, as it is.

    data: data sets by split that take the source's place, see `given_splits`. No image of a source is decoded, but for
    the first where images are taken as they are stored. Raises `DataError`.
    """
    stored = None if spec.channels is None else Stored(spec.channels)
    raw: Any
    if data is not None:
        raw = given_splits(data, spec)
    else:
        source, given = bind_source(spec.call, spec.words)
        root = None if spec.root is None else _looked_at(at_home(spec.root))
        raw = source(root, **given, download=spec.download, stored=stored)
    if not isinstance(raw, RawSplits):
        raise DataError(f"data.source: {spec.call.name} gives RawSplits, of train, val and test, got {brief(raw)}")
    if raw.unlabeled is not None and spec.unlabeled != FROM_PYTHON:
        raise DataError(
            f"data: '{UNLABELED}' is given, and data.unlabeled is {spec.unlabeled or 'null'}; for the stream of these "
            f"images write data.unlabeled={FROM_PYTHON}"
        )
    if spec.unlabeled is not None and spec.unlabeled not in OF_TRAIN and raw.unlabeled is None:
        images, remark = _open_unlabeled(spec.unlabeled, spec, stored)
        raw = replace(raw, unlabeled=images, remark="; ".join(filter(None, [raw.remark, remark])))
    return raw if stored is None else _alike(raw, stored)


def _open_unlabeled(text: str, spec: DataSpec, stored: Stored | None) -> tuple[Images, str]:
    """What a source of its own has to train on, for the unlabelled stream, and what to know of how it was read."""
    source, given = bind_source(parse_call(text, UNLABELED_SOURCE), spec.words, UNLABELED_SOURCE)
    root = spec.root if spec.unlabeled_root is None else spec.unlabeled_root
    try:
        place = None if root is None else _looked_at(at_home(root))
        found = source(place, **given, download=spec.download, stored=stored)
    except DataError as error:
        told = str(error).replace("data.root", "data.unlabeled_root").replace(SOURCE, UNLABELED_SOURCE)
        raise DataError(f"the stream {UNLABELED}: {told}") from error
    if not isinstance(found, RawSplits):
        raise DataError(f"{UNLABELED_SOURCE}: {text} gives RawSplits, of train, val and test, got {brief(found)}")
    apart = " and ".join(split for split in ("val", "test") if getattr(found, split) is not None)
    remark = "; ".join(filter(None, [found.remark, f"its {apart} left out" if apart else ""]))
    return found.train, f"{UNLABELED}: {remark}" if remark else ""


def _looked_at(root: Path) -> Path:
    """The root, of which a source may ask whether it is there. Raises `DataError` if the system will not say."""
    try:
        root.stat()
    except (FileNotFoundError, NotADirectoryError):
        pass  # the source tells what it needs, and a hub's name is no path
    except (OSError, ValueError) as error:
        why = getattr(error, "strerror", None) or error
        raise DataError(f"data.root={shown(root):.200} cannot be read: {why}") from None
    return root


def bind_source(call: Call, words: Words = NONE, key: str = SOURCE) -> tuple[Callable[..., RawSplits], dict[str, Any]]:
    """The source that a call names, and its options; nothing is opened. key: where it stands. Raises `DataError`."""
    known = words.beside("SOURCES", SOURCES)
    if call.name not in known:
        root = "data.root" if key == SOURCE else "data.unlabeled_root"
        own = f"; for that folder, write {key}=folder {root}={call.name}" if Path(call.name).is_dir() else ""
        others = () if key == SOURCE else OF_TRAIN
        raise DataError(f"{key}: {unknown('source', call.name, [*others, *known], own=words.own('SOURCES'))}{own}")
    source = known[call.name]
    options = [p for p in inspect.signature(source).parameters.values() if p.name not in GIVEN]
    signature = inspect.Signature([p.replace(annotation=p.empty) for p in options])
    fault = misfit(signature, call.args, call.kwargs)
    if fault:
        raise DataError(f"{key}: {fault} in '{call.name}'; write {call.name}{signature}")
    given = signature.bind(*call.args, **call.kwargs).arguments
    kinds = get_type_hints(source)
    for option, value in given.items():
        try:
            TypeAdapter(kinds[option]).validate_python(value, strict=True)
        except ValidationError:
            text, several = str(kinds[option]), ", or several in ( )" if "tuple" in str(kinds[option]) else ""
            kind = next((what for name, what in KINDS.items() if name in text), "of the kind that it says")
            raise DataError(f"{key}: {option}={value!r} in '{call.name}' must be {kind}{several}") from None
    return source, given


def _alike(raw: RawSplits, stored: Stored) -> RawSplits:
    """The splits, all images of which must be as deep as the first that train can read."""
    known = replace(stored, dtype=_depth(raw.train))
    splits: dict[str, Any] = {"train": raw.train, "val": raw.val, "test": raw.test, "unlabeled": raw.unlabeled}
    for split, images in splits.items():
        if isinstance(images, FolderImages | TableImages | ShardImages | GivenImages):
            splits[split] = replace(images, stored=known)
        elif images is not None and images.channels != stored.channels:
            raise DataError(
                f"{split} has images of {counted(images.channels, 'channel')}, but data.channels is {stored.channels}"
            )
    return replace(raw, **splits)


def _depth(images: Images) -> torch.dtype | None:
    errors = []
    for position in range(min(TRIED, len(images))):
        try:
            return images.read(position).dtype
        except BadImage as error:
            errors.append(error)
    if errors:
        raise errors[0]
    return None


def _published(name: str) -> Callable[..., RawSplits]:
    """A data set of torchvision, which may also lie in `root` as Hugging Face parquet files, its usual splits."""

    def source(
        root: Path | None, split: str | None = None, *, download: bool, stored: Stored | None = None
    ) -> RawSplits:
        if split is None and root is not None and "train" in parquet_splits(root):
            return hf(root, download=False, stored=stored)
        try:
            return vision(root, name, split, download=download, stored=stored)
        except DataError as error:
            cure = "" if root is None or split is not None else nearby(root, _has_train, name.lower())
            raise DataError(f"{error}{cure}") from error

    return source


def _has_train(folder: Path) -> bool:
    return "train" in parquet_splits(folder)


def python(root: Path | None, *, download: bool, stored: Stored | None = None) -> RawSplits:
    """Data sets that were given in Python, as in `manyview.train(recipe, out, data={"train": …})`.

    A run's recipe says so; a command cannot open them, which raises `DataError`.
    """
    raise DataError(
        f"the images were given in Python, and {GIVE_AGAIN}; or say data.source=… data.root=… to look at others"
    )


SOURCES: dict[str, Callable[..., RawSplits]] = {
    "digits": digits,
    "folder": folder,
    "hf": hf,
    "listed": listed,
    FROM_PYTHON: python,
    "shards": shards,
    "torchvision": vision,
    "cifar10": _published("CIFAR10"),
    "cifar100": _published("CIFAR100"),
    "food101": _published("Food101"),
    "stl10": _published("STL10"),
    "svhn": _published("SVHN"),
}
"""Source -> a function `(root, *, download, stored, **options)`; the options are what a recipe may give."""
